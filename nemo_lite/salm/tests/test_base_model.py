"""Where the language model's configuration and tokenizer come from."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nemo_lite import hub
from nemo_lite.errors import CheckpointError, DownloadError, UnknownModelError
from nemo_lite.salm.base_model import find_base_model, read_base_model
from nemo_lite.salm.checkpoint import read_salm
from nemo_lite.salm.tests.tiny import (
    AUDIO_TAG,
    LLM,
    tiny_tokenizer,
    write_base_model,
    write_salm_folder,
)
from nemo_lite.tests.fake_hub import QUICK, FakeHub, running


def never(repo: str) -> Path:
    raise AssertionError(f"{repo} was fetched")


def test_what_is_inside_the_checkpoint_is_preferred_to_what_it_names(tmp_path: Path) -> None:
    inside = write_base_model(tmp_path / "llm_backbone")

    assert find_base_model(tmp_path, "Qwen/Qwen3-1.7B", fetch=never) == inside


def test_folder_inside_the_checkpoint_may_be_named(tmp_path: Path) -> None:
    inside = write_base_model(tmp_path / "language" / "tiny")

    assert find_base_model(tmp_path, "language/tiny", fetch=never) == inside


@pytest.mark.parametrize("form", ["../other", "{}", "llm/../../other"])
def test_folder_outside_the_checkpoint_is_not_read(tmp_path: Path, form: str) -> None:
    other = write_base_model(tmp_path / "other")
    (tmp_path / "salm" / "llm").mkdir(parents=True)

    with pytest.raises(CheckpointError, match="give their folder as base_model"):
        find_base_model(tmp_path / "salm", form.format(other), fetch=never)


def test_link_out_of_the_checkpoint_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "salm").mkdir()
    (tmp_path / "salm" / "llm_backbone").symlink_to(write_base_model(tmp_path / "other"))

    with pytest.raises(CheckpointError, match="not in it"):
        find_base_model(tmp_path / "salm", "llm_backbone", fetch=never)


def test_hub_id_is_fetched_when_nothing_is_inside(tmp_path: Path) -> None:
    fetched: list[str] = []

    def fetch(repo: str) -> Path:
        fetched.append(repo)
        return tmp_path / "cache"

    assert find_base_model(tmp_path, "acme/tiny-qwen", fetch=fetch) == tmp_path / "cache"
    assert fetched == ["acme/tiny-qwen"]


def test_what_is_nowhere_is_told_with_what_to_do(tmp_path: Path) -> None:
    def offline(repo: str) -> Path:
        return hub.base_model(repo, cache_dir=tmp_path / "cache", offline=True)

    with pytest.raises(DownloadError, match=r"acme/tiny-qwen: .*switched off.*copy.*base_model"):
        find_base_model(tmp_path, "acme/tiny-qwen", fetch=offline)


def test_given_folder_or_hub_id_wins(tmp_path: Path) -> None:
    write_base_model(tmp_path / "llm_backbone")
    other = write_base_model(tmp_path / "other")

    for given in (other, str(other)):
        assert find_base_model(tmp_path, "acme/tiny-qwen", given=given, fetch=never) == other
    found = find_base_model(tmp_path, "x", given="acme/mine", fetch=lambda repo: Path(repo))
    assert found == Path("acme/mine")


@pytest.mark.parametrize("given", [Path("acme/mine"), "/nowhere/at/all", "./mine", "mine"])
def test_given_that_is_neither_folder_nor_hub_id_is_refused(
    tmp_path: Path, given: str | Path
) -> None:
    with pytest.raises(UnknownModelError, match="no folder and no hub id"):
        find_base_model(tmp_path, "acme/tiny-qwen", given=given, fetch=never)


def test_checkpoint_without_the_files_is_read_with_those_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    folder = write_salm_folder(tmp_path / "salm")
    inside = folder / "llm_backbone"
    files = {path.name: path.read_bytes() for path in inside.iterdir()}
    inside.rename(tmp_path / "away")

    with running(FakeHub(files=files | {"model.safetensors": b"x"}, repo="acme/tiny-qwen")) as fake:
        fetch = partial(hub.base_model, cache_dir=tmp_path, endpoint=fake.url, retry=QUICK)
        read = read_salm(folder, fetch=fetch)

    assert read.llm == LLM
    assert read.tokenizer.prompt() == tiny_tokenizer().prompt()
    assert not any("safetensors" in request.path for request in fake.contents)


def describe(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_ends_are_those_of_the_tokenizers_configuration(tmp_path: Path) -> None:
    folder = write_base_model(tmp_path)
    wanted = tiny_tokenizer().end_tokens
    assert read_base_model(folder, audio_tag=AUDIO_TAG).tokenizer.end_tokens == wanted

    described = {"content": "<|im_end|>", "special": True}
    describe(folder, "tokenizer_config.json", eos_token=described, pad_token=None)
    assert read_base_model(folder, audio_tag=AUDIO_TAG).tokenizer.end_tokens == wanted


@pytest.mark.parametrize("as_list", [False, True])
def test_end_is_the_models_where_the_tokenizer_says_nothing(tmp_path: Path, as_list: bool) -> None:
    folder = write_base_model(tmp_path)
    (folder / "tokenizer_config.json").unlink()
    start = tiny_tokenizer().eos_id - 1
    describe(folder, "config.json", eos_token_id=[start, 1] if as_list else start)

    tokenizer = read_base_model(folder, audio_tag=AUDIO_TAG).tokenizer
    assert (tokenizer.eos_id, tokenizer.pad_id) == (start, tiny_tokenizer().pad_id)


@pytest.mark.parametrize("end", [None, "<|im_end|>", [], 10_000])
def test_model_without_an_end_is_refused(tmp_path: Path, end: object) -> None:
    folder = write_base_model(tmp_path)
    (folder / "tokenizer_config.json").unlink()
    describe(folder, "config.json", eos_token_id=end)

    with pytest.raises(CheckpointError, match=str(tmp_path)):
        read_base_model(folder, audio_tag=AUDIO_TAG)

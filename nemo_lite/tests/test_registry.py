"""The names of published checkpoints."""

import re
import subprocess
import sys

import pytest

import nemo_lite
from nemo_lite.errors import UnknownModelError, UnsupportedError
from nemo_lite.registry import BASE_MODEL_FILES, BASE_MODELS, REGISTRY, find


def test_short_names_are_those_of_the_design() -> None:
    assert list(REGISTRY) == [
        "nemotron-en",
        "nemotron-multi",
        "parakeet-eou",
        "fastconformer-multi",
        "canary-qwen",
        "multitalker",
        "sortformer",
        "nemotron-diar",
        "smart-turn",
    ]


@pytest.mark.parametrize("name", REGISTRY)
def test_every_entry_is_found_by_its_name_and_its_hub_id_in_any_case(name: str) -> None:
    entry = REGISTRY[name]

    assert find(name) is find(entry.repo) is find(entry.repo.upper()) is entry


@pytest.mark.parametrize("name", [n for n, entry in REGISTRY.items() if entry.loader is not None])
def test_what_can_be_loaded_is_pinned_to_bytes(name: str) -> None:
    entry = REGISTRY[name]

    assert re.fullmatch(r"[0-9a-f]{40}", entry.revision)
    assert entry.size_bytes == sum(file.size_bytes for file in entry.files) > 2**22
    assert len({file.name for file in entry.files}) == len(entry.files)
    assert all(re.fullmatch(r"[0-9a-f]{64}", file.digest) for file in entry.files)
    assert all(re.fullmatch(r"(llm_backbone/)?[\w.-]+", file.name) for file in entry.files)


def test_canary_qwen_has_the_files_of_the_language_model_it_names_but_not_its_weights() -> None:
    inside = {
        file.name.removeprefix("llm_backbone/"): file
        for file in find("canary-qwen").files
        if file.elsewhere
    }
    commit, files = BASE_MODELS["Qwen/Qwen3-1.7B"]

    assert tuple(inside) == tuple(file.name for file in files) == BASE_MODEL_FILES
    for file in files:
        assert inside[file.name].digest == file.digest
        assert inside[file.name].elsewhere == f"Qwen/Qwen3-1.7B/resolve/{commit}/{file.name}"


@pytest.mark.parametrize("name", [n for n, entry in REGISTRY.items() if entry.loader is None])
def test_what_cannot_be_loaded_has_nothing_to_download(name: str) -> None:
    assert REGISTRY[name].files == ()


def test_what_recognises_no_words_is_refused_before_it_is_downloaded() -> None:
    with pytest.raises(UnsupportedError, match="no words"):
        nemo_lite.load("smart-turn")


def test_mistyped_name_is_told_the_close_ones() -> None:
    with pytest.raises(
        UnknownModelError, match=r"'parakeet-eu': did you mean parakeet-eou"
    ) as told:
        find("parakeet-eu")

    assert "canary" not in str(told.value)


def test_name_like_no_other_is_told_all() -> None:
    with pytest.raises(UnknownModelError, match="known are") as told:
        find("whisper-1")

    assert all(name in str(told.value) for name in REGISTRY)


def test_neither_torch_nor_a_hub_client_is_imported() -> None:
    script = (
        "import sys, nemo_lite.hub, nemo_lite.registry\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )

    assert not set(done.stdout.split()) & {"torch", "numpy", "huggingface_hub", "asyncio"}

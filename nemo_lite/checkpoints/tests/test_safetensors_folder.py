"""Folders with NeMo's own names: saved from an archive, sharded, damaged."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nemo_lite.checkpoints import Checkpoint, read_checkpoint, save_folder
from nemo_lite.checkpoints.tests.archives import nemo_config, parts, write_nemo
from nemo_lite.errors import CheckpointError, UnsupportedError
from nemo_lite.tests.goldens import GOLDENS, case_names, needs_goldens


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder converted from a sound archive."""
    save_folder(read_checkpoint(write_nemo(tmp_path / "model.nemo")), tmp_path / "folder")
    return tmp_path / "folder"


def shard(folder: Path) -> dict[str, str]:
    """Split the weights in two, as the hub does; the index's `weight_map`."""
    state = load_file(folder / "model.safetensors")
    state = {name: tensor.clone() for name, tensor in state.items()}
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    files: dict[str, str] = {}
    for number, part in enumerate((names[:7], names[7:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, folder / file)
        files |= dict.fromkeys(part, file)
    write_index(folder, files)
    return files


def write_index(folder: Path, files: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def require_equal(found: Checkpoint, wanted: Checkpoint) -> None:
    assert found.config == wanted.config
    assert found.tokenizer.pieces == wanted.tokenizer.pieces
    assert found.target == wanted.target
    assert found.nemo_config == wanted.nemo_config
    assert found.state.keys() == wanted.state.keys()
    assert all(torch.equal(found.state[name], wanted.state[name]) for name in wanted.state)


@needs_goldens
@pytest.mark.parametrize("name", case_names("nemo_files"))
def test_golden_archive_survives_conversion(tmp_path: Path, name: str) -> None:
    checkpoint = read_checkpoint(GOLDENS / "nemo_files" / f"{name}.nemo")
    save_folder(checkpoint, tmp_path / "deep" / "folder")
    require_equal(read_checkpoint(tmp_path / "deep" / "folder"), checkpoint)


def test_prompt_dictionary_survives_conversion(tmp_path: Path) -> None:
    shared = ["x"]  # YAML would write an alias for the second one
    defaults = {"num_prompts": 4, "prompt_dictionary": {False: 2, "auto": 3}}
    config = nemo_config(model_defaults=defaults, labels=shared)
    checkpoint = read_checkpoint(write_nemo(tmp_path / "model.nemo", parts(config)))
    assert isinstance(checkpoint.nemo_config, dict)
    checkpoint.nemo_config["more"] = checkpoint.nemo_config["labels"]
    save_folder(checkpoint, tmp_path)
    (tmp_path / "model.nemo").unlink()
    require_equal(read_checkpoint(tmp_path), checkpoint)


def test_configuration_may_be_json(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    (folder / "model_config.yaml").unlink()
    (folder / "config.json").write_text(json.dumps(checkpoint.nemo_config))
    require_equal(read_checkpoint(folder), checkpoint)


def test_shards_are_one_model(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    shard(folder)
    require_equal(read_checkpoint(folder), checkpoint)


def test_narrow_weights_keep_their_dtype(tmp_path: Path, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    narrow = {name: tensor.bfloat16() for name, tensor in state.items()}
    save_file(narrow, folder / "model.safetensors")
    dtypes = {tensor.dtype for tensor in read_checkpoint(folder).state.values()}
    assert dtypes == {torch.bfloat16}


def test_checkpoint_without_files_of_its_own_cannot_be_saved(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    without = Checkpoint(checkpoint.config, checkpoint.state, checkpoint.tokenizer, folder)
    with pytest.raises(UnsupportedError, match="only checkpoints with NeMo's configuration"):
        save_folder(without, folder / "copy")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model_config.yaml", r"config\.json is missing"),
        ("tokenizer.model", r"neither tokenizer\.model nor tokenizer\.json"),
        ("model.safetensors", r"neither model\.safetensors nor"),
    ],
)
def test_missing_file_is_named(folder: Path, name: str, message: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"folder: .*{message}"):
        read_checkpoint(folder)


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff" * 100, (2**62).to_bytes(8, "little")])
def test_damaged_weights_are_refused(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        read_checkpoint(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        read_checkpoint(folder)


def test_index_cannot_lead_out_of_the_folder(folder: Path) -> None:
    files = shard(folder)
    (folder / "model-00001-of-00002.safetensors").rename(folder.parent / "x.safetensors")
    write_index(folder, dict.fromkeys(files, "../x.safetensors"))
    with pytest.raises(CheckpointError, match=r"names '\.\./x\.safetensors'"):
        read_checkpoint(folder)


def test_index_that_does_not_fit_its_shards_is_refused(folder: Path) -> None:
    files = shard(folder)
    write_index(folder, files | {"encoder.more": "model-00001-of-00002.safetensors"})
    with pytest.raises(CheckpointError, match=r"lists 'encoder\.more'"):
        read_checkpoint(folder)
    write_index(folder, [])
    with pytest.raises(CheckpointError, match="no weight_map"):
        read_checkpoint(folder)
    write_index(folder, files)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing"):
        read_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"encoder": {}}'])
def test_unusable_json_is_refused(folder: Path, text: str) -> None:
    (folder / "model_config.yaml").unlink()
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"folder: .*config"):
        read_checkpoint(folder)


def test_endless_configuration_is_not_read(folder: Path) -> None:
    with (folder / "model_config.yaml").open("r+b") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(CheckpointError, match=r"model_config\.yaml is larger than"):
        read_checkpoint(folder)

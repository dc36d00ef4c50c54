"""Folders of safetensors files; here with NeMo's own names and configuration."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nemo_lite.checkpoints.checkpoint import Checkpoint, assemble, model_config, target_class
from nemo_lite.checkpoints.documents import (
    MAX_CONFIG_BYTES,
    MAX_TOKENIZER_BYTES,
    parse_yaml,
    read_file,
    read_json,
)
from nemo_lite.errors import CheckpointError, UnsupportedError
from nemo_lite.tokenizer import Tokenizer

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_CONFIG = "model_config.yaml"
_SHARD = re.compile(r"[\w.-]+\.safetensors")


def read_safetensors_folder(folder: Path, *, tokenizer: Tokenizer | None = None) -> Checkpoint:
    """Read `model.safetensors`, `model_config.yaml` (or `config.json`) and `tokenizer.model`.

    Raises:
        CheckpointError: a file is missing, damaged, or of another kind of model.
        OSError: a file cannot be read.
    """
    nemo = _read_config(folder)
    config = model_config(nemo)
    tokenizer = tokenizer or read_tokenizer(folder, size=config.vocabulary_size)
    state = read_tensors(folder)
    return assemble(Checkpoint(config, state, tokenizer, folder, target_class(nemo), nemo))


def save_folder(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a folder that `read_checkpoint` reads: maps in no time where a `.nemo` is copied.

    The folder is made where it is missing; files of the same names are replaced.

    Raises:
        UnsupportedError: the checkpoint did not come from NeMo, or its tokenizer from no file.
        OSError: the folder cannot be written.
    """
    tokenizer = checkpoint.tokenizer
    if checkpoint.nemo_config is None or not tokenizer.serialized:
        raise UnsupportedError(
            f"{checkpoint.source}: only checkpoints with NeMo's configuration and a tokenizer file "
            "can be saved"
        )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.state.items()}
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    text = yaml.dump(
        dict(checkpoint.nemo_config), Dumper=_PlainDumper, allow_unicode=True, sort_keys=False
    )
    (folder / _CONFIG).write_text(text, encoding="utf-8")
    (folder / tokenizer.file_name).write_bytes(tokenizer.serialized)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of `model.safetensors` or of the shards its index lists, mapped from the files.

    Raises:
        CheckpointError: a file is missing or damaged, or the index lists what is not there.
    """
    if not (folder / _INDEX).is_file():
        return _load_file(folder / _WEIGHTS)
    shards = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(shards, Mapping):
        raise CheckpointError(f"{_INDEX} has no weight_map")
    state: dict[str, Tensor] = {}
    for shard in sorted({str(name) for name in shards.values()}):
        if not _SHARD.fullmatch(shard):
            raise CheckpointError(f"{_INDEX} names {shard!r}")
        state.update(_load_file(folder / shard))
    if absent := shards.keys() - state.keys():
        raise CheckpointError(f"{_INDEX} lists {min(absent)!r}, which no shard holds")
    return state


def read_tokenizer(folder: Path, *, size: int) -> Tokenizer:
    """The folder's `tokenizer.model` or `tokenizer.json`, whichever is there.

    Raises:
        CheckpointError: there is none, or it is damaged or has fewer than `size` tokens.
    """
    for name in ("tokenizer.model", "tokenizer.json"):
        if (folder / name).is_file():
            data = read_file(folder / name, limit=MAX_TOKENIZER_BYTES)
            if name == "tokenizer.model":
                return Tokenizer.from_sentencepiece(data)
            return Tokenizer.from_json(data, size=size)
    raise CheckpointError("neither tokenizer.model nor tokenizer.json is in the folder")


def _read_config(folder: Path) -> dict[str, Any]:
    if (folder / _CONFIG).is_file():
        return parse_yaml(read_file(folder / _CONFIG, limit=MAX_CONFIG_BYTES), name=_CONFIG)
    return read_json(folder / "config.json")


def _load_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path.name} is damaged: {error}") from error


class _PlainDumper(yaml.SafeDumper):
    """Writes equal parts out instead of referring to them: the reader refuses aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

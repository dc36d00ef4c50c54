"""Reads configuration files that strangers wrote: bounded size and depth, plain data only."""

import json
from pathlib import Path
from typing import Any

import yaml

from nemo_lite.errors import CheckpointError

MAX_CONFIG_BYTES = 16 * 2**20
"""The largest real configuration, which spells out 13,087 tokens three times, has about 1 MB."""
MAX_TOKENIZER_BYTES = 256 * 2**20
_MAX_DEPTH = 64
_MAX_SCALAR_CHARS = 2**16

# The same safe constructor in C where libyaml is there: vocabularies take seconds without it.
_SafeLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_yaml(data: bytes, *, name: str) -> dict[str, Any]:
    """A YAML mapping of plain data, without aliases.

    Raises:
        CheckpointError: it is something else, or built to exhaust memory.
    """
    try:
        text = data.decode()
        _require_tame(text, name=name)
        return _require_mapping(yaml.load(text, Loader=_SafeLoader), name=name)
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(f"{name} is no plain YAML: {error}") from error


def parse_json(data: bytes, *, name: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: it is something else.
    """
    try:
        return _require_mapping(json.loads(data), name=name)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is no JSON: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of at most `MAX_CONFIG_BYTES`; raises CheckpointError as `parse_json` does."""
    return parse_json(read_file(path, limit=MAX_CONFIG_BYTES), name=path.name)


def read_file(path: Path, *, limit: int) -> bytes:
    """The bytes of a regular file.

    Raises:
        CheckpointError: it is missing, no file, or longer than `limit` bytes.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing")
    if path.stat().st_size > limit:
        raise CheckpointError(f"{path.name} is larger than {limit} bytes")
    return path.read_bytes()


def _require_tame(text: str, *, name: str) -> None:
    """Refuse what makes the loader recurse or multiply; the parser itself does neither."""
    depth = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise CheckpointError(f"{name} uses YAML aliases")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent) and len(event.value) > _MAX_SCALAR_CHARS:
            raise CheckpointError(f"{name} has a value of {len(event.value)} characters")
        if depth > _MAX_DEPTH:
            raise CheckpointError(f"{name} is nested deeper than {_MAX_DEPTH} levels")


def _require_mapping(document: Any, *, name: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise CheckpointError(f"{name} holds a {type(document).__name__}, not a mapping")
    return document

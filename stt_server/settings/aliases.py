"""The environment of the NeMo FastConformer server, read as settings of this one."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from nemo_lite.errors import UnknownModelError
from nemo_lite.registry import ModelEntry, find
from stt_server.settings.models import EngineName

FRAME_MS = 80
"""Audio of one encoder frame of all FastConformer models: look-aheads are counted in them."""

Values: TypeAlias = dict[str, str | int | None]
"""Settings by their path (`nemo.tick_ms`)."""

_SAME = {
    "ASR_HOST": "host",
    "ASR_PORT": "fastconformer.port",
    "ASR_DECODER": "decoder",
    "ASR_DEVICE": "device",
    "ASR_STEP_MS": "nemo.tick_ms",
    "ASR_MAX_BATCH": "max_streams",
}
"""Variables whose value is the setting's."""


def read_aliases(environment: Mapping[str, str]) -> dict[str, Values]:
    """What each `ASR_*` variable that is set here sets; empty ones set nothing.

    Raises:
        ValueError: a value means nothing; the message names the variable.
    """
    given = {name: value.strip() for name, value in environment.items() if value.strip()}
    found: dict[str, Values] = {name: {_SAME[name]: given[name]} for name in _SAME if name in given}
    if "ASR_MODEL" in given:
        found["ASR_MODEL"] = _model(given["ASR_MODEL"])
    if "ASR_ATT_CTX" in given:
        found["ASR_ATT_CTX"] = {"lookahead_ms": _right_context(given["ASR_ATT_CTX"]) * FRAME_MS}
    return found


def as_variables(values: Values) -> str:
    """The same as `STT_*` variables, which say what to write instead."""
    return " ".join(
        f"STT_{path.upper().replace('.', '__')}={value}"
        for path, value in values.items()
        if value is not None
    )


def _model(value: str) -> Values:
    if value.endswith((".nemo", ".safetensors")) or value[0] in "/.~" or Path(value).exists():
        return {"model": EngineName.FASTCONFORMER_MULTI.value, "nemo.checkpoint": value}
    try:
        entry = _published(value)
    except UnknownModelError as error:
        if "/" in value:  # the hub has more checkpoints of this family than the registry
            return {"model": EngineName.FASTCONFORMER_MULTI.value, "nemo.checkpoint": value}
        raise ValueError(f"ASR_MODEL: {error}") from error
    if entry.name not in list(EngineName):
        raise ValueError(f"ASR_MODEL: {entry.name} ({entry.repo}) cannot be served by this version")
    # A checkpoint that a file names would be taken instead of the model's own.
    return {"model": entry.name, "nemo.checkpoint": None}


def _published(name: str) -> ModelEntry:
    """NeMo takes NVIDIA's ids without their owner, too."""
    try:
        return find(f"nvidia/{name}")
    except UnknownModelError:
        return find(name)


def _right_context(value: str) -> int:
    context = re.fullmatch(r"\[?\s*-?\d+\s*,\s*(\d+)\s*\]?", value, re.ASCII)
    if context is None:
        raise ValueError(f"ASR_ATT_CTX: {value!r} is not of the form 70,1 (left,right)")
    return int(context[1])

"""Recognisers: which, where they run, where their checkpoints come from."""

import re
from enum import StrEnum
from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from stt_server.settings.section import Section


class EngineName(StrEnum):
    """Recognisers this server can run."""

    AUTO = "auto"
    POCKETSPHINX = "pocketsphinx"
    PARAKEET_EOU = "parakeet-eou"
    FASTCONFORMER_MULTI = "fastconformer-multi"
    NEMOTRON_EN = "nemotron-en"
    NEMOTRON_MULTI = "nemotron-multi"
    CANARY_QWEN = "canary-qwen"
    SCRIPTED = "scripted"


class DecoderName(StrEnum):
    """Heads of models that have both."""

    RNNT = "rnnt"
    CTC = "ctc"


class DecoderState(StrEnum):
    """What a decoder knows when a turn begins."""

    CARRY = "carry"
    RESET = "reset"


class FinalModelName(StrEnum):
    """Recognisers that can make the finals beside another one."""

    CANARY_QWEN = "canary-qwen"


class EouModelName(StrEnum):
    """Recognisers that can tell ends of turns beside another one."""

    PARAKEET_EOU = "parakeet-eou"


class Dtype(StrEnum):
    """What a model computes in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"


def check_device(name: str) -> str:
    """`name` if it has the form of a device.

    Raises:
        ValueError: it has not.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?|mps", name, re.ASCII):
        raise ValueError("use auto, cpu, cuda, cuda:N or mps")
    return name


class ModelSettings(Section):
    """Where model checkpoints come from and are kept."""

    cache_dir: Path | None = Field(
        default=None,
        description="Folder of downloaded checkpoints; default: ~/.cache/nemo_lite.",
    )
    endpoint: str = Field(
        default="https://huggingface.co",
        pattern="^https?://",
        description="Model hub, or a mirror of it.",
    )
    offline: bool = Field(
        default=False,
        description="Never download; use what is in the folder.",
    )
    token: SecretStr | None = Field(
        default=None,
        description="Access token for gated or private checkpoints.",
    )

    @field_validator("cache_dir")
    @classmethod
    def _home(cls, folder: Path | None) -> Path | None:
        return None if folder is None else folder.expanduser()


class PocketsphinxSettings(Section):
    """The embedded recogniser's worker processes."""

    workers: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Worker processes at most; default: two per core.",
    )


class NemoSettings(Section):
    """NVIDIA's streaming recognisers: how they run."""

    checkpoint: str | None = Field(
        default=None,
        min_length=1,
        description="Hub id, `.nemo` file or folder; default: the one that `model` names.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1_024,
        description="Threads on the CPU; default: torch's own choice, but one core less than "
        "there are.",
    )
    tick_ms: int = Field(
        default=20,
        ge=1,
        le=200,
        description="Audio that comes within this time shares a step of the model.",
    )
    gating: bool = Field(
        default=True,
        description="Silence between turns and within long pauses is not shown to the model.",
    )
    decoder_state: DecoderState = Field(
        default=DecoderState.CARRY,
        description="Whether the decoder knows in a turn what was said before it.",
    )


class CanaryQwenSettings(Section):
    """The accurate recogniser: its checkpoint and how it runs."""

    checkpoint: str = Field(
        default="canary-qwen",
        min_length=1,
        description="Name of the registry, hub id, or path of a checkpoint's folder.",
    )
    base_model: str | None = Field(
        default=None,
        min_length=1,
        description="Hub id or folder with the language model's configuration and tokenizer; "
        "default: what the checkpoint holds or names.",
    )
    slots: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Pieces of audio recognised at once; default: what memory allows.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1_024,
        description="Threads on the CPU; default: torch's own choice.",
    )
    step_timeout_s: float = Field(
        default=60.0,
        ge=1.0,
        le=600.0,
        description="A step of the model that takes longer is given up and the model restarted.",
    )

"""The session object of OpenAI's Realtime protocol: what clients give, and what follows from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

from annotated_types import Ge, Le
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from stt_server.protocols.base import MAX_RATE, MIN_RATE, AudioFormat, Encoding
from stt_server.protocols.native_config import MAX_LANGUAGE, readable
from stt_server.protocols.realtime_messages import BadEvent
from stt_server.settings import (
    DetectorName,
    EndpointingMode,
    EndpointingSettings,
    SessionOptions,
)

DEFAULT_RATE = 24_000
DEFAULT_SILENCE_MS = 500
MAX_KEYWORDS = 1_000
"""Hints beyond that are not passed on: a hint is never an error."""
LOGPROBS = "item.input_audio_transcription.logprobs"
EAGERNESS_MS = {"low": 2_000, "medium": 1_000, "high": 500, "auto": 1_000}
"""Silence that ends a turn which the detector is not sure of."""
CLIENT_COMMITS = ("gpt-realtime-whisper", "gpt-live-transcribe")
"""Clients of models that are called so commit by themselves, and leave `turn_detection` out."""

Given = TypeVar("Given", bound=BaseModel)
Value = TypeVar("Value")


def _or_nothing(value: object, read: ValidatorFunctionWrapHandler) -> object:
    try:
        return read(value)
    except ValidationError:
        return None


def _rounded(value: object) -> object:
    return round(value) if isinstance(value, float) and math.isfinite(value) else value


Hint: TypeAlias = Annotated[Value | None, WrapValidator(_or_nothing)]
"""What cannot be understood is not given: real clients end for good at any error."""
Milliseconds: TypeAlias = Annotated[StrictInt, BeforeValidator(_rounded)]
"""Some languages write whole numbers as 500.0."""


class _Part(BaseModel):
    """Of what a client gives; unknown fields are ignored."""

    model_config = ConfigDict(frozen=True)


class Format(_Part):
    """`audio.input.format`."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: StrictInt | None = Field(default=None, ge=MIN_RATE, le=MAX_RATE)

    @property
    def audio(self) -> AudioFormat:
        """What the bytes are."""
        match self.type:
            case "audio/pcmu":
                return AudioFormat(8_000, 1, Encoding.MULAW)
            case "audio/pcma":
                return AudioFormat(8_000, 1, Encoding.ALAW)
            case "audio/pcm":
                return AudioFormat(self.rate or DEFAULT_RATE)

    def describe(self) -> dict[str, Any]:
        if self.type != "audio/pcm":
            return {"type": self.type}
        return {"type": self.type, "rate": self.audio.sample_rate}


class Transcription(_Part):
    """`audio.input.transcription`."""

    model: str | None = None
    language: Hint[str] = None
    prompt: Hint[str] = None
    languages: Hint[list[str]] = None
    keywords: Hint[list[str]] = None
    delay: Hint[str] = None

    @property
    def leaves_turns_to_client(self) -> bool:
        return (self.model or "").startswith(CLIENT_COMMITS)

    def describe(self) -> dict[str, Any]:
        known = {"model": self.model, "language": self.language, "prompt": self.prompt}
        return known | self.model_dump(exclude_none=True)


class TurnDetection(_Part):
    """`audio.input.turn_detection`."""

    type: Literal["server_vad", "semantic_vad"] | None = None
    threshold: StrictFloat | None = None
    prefix_padding_ms: Milliseconds | None = None
    silence_duration_ms: Milliseconds | None = None
    eagerness: Hint[Literal["low", "medium", "high", "auto"]] = None

    def describe(self) -> dict[str, Any]:
        of_its_type = (
            {"type", "eagerness"}
            if self.type == "semantic_vad"
            else {"type", "threshold", "prefix_padding_ms", "silence_duration_ms"}
        )
        return self.model_dump(include=of_its_type)


class NoiseReduction(_Part):
    """`audio.input.noise_reduction`: accepted, and repeated."""

    type: Hint[Literal["near_field", "far_field"]] = None


class Input(_Part):
    """`audio.input`."""

    format: Format | None = None
    noise_reduction: NoiseReduction | None = None
    transcription: Transcription | None = None
    turn_detection: TurnDetection | None = None


class AudioSection(_Part):
    """`audio`."""

    input: Input | None = None


class SessionUpdate(_Part):
    """What a client gives: an absent field keeps its value, null turns off."""

    type: Literal["transcription"] | None = None
    audio: AudioSection | None = None
    include: list[str] | None = None


def parse_part(part: type[Given], value: object) -> Given:
    """A client's `session`, whose shape is `part`.

    Raises:
        BadEvent: a value is wrong.
    """
    try:
        return part.model_validate(value)
    except ValidationError as error:
        path = (str(step) for step in error.errors(include_url=False)[0]["loc"])
        param = ".".join(("session", *path))
        raise BadEvent("invalid_value", readable(error), param) from error


@dataclass(frozen=True, slots=True)
class Terms:
    """What all sessions of a server begin with."""

    model: str
    endpointing: EndpointingSettings
    semantic: DetectorName = DetectorName.SILENCE
    """What ends turns beside silence where a client asks for `semantic_vad`."""

    def turn_detection(self, kind: Literal["server_vad", "semantic_vad"]) -> TurnDetection:
        """That of clients who say no more than its type."""
        if kind == "semantic_vad":
            return TurnDetection(type=kind, eagerness="auto")
        return TurnDetection(
            type=kind,
            threshold=self.endpointing.onset,
            prefix_padding_ms=self.endpointing.pre_roll_ms,
            silence_duration_ms=DEFAULT_SILENCE_MS,
        )


@dataclass(frozen=True, slots=True)
class RealtimeConfig:
    """Everything in force for one session."""

    terms: Terms
    format: Format
    transcription: Transcription | None
    turn_detection: TurnDetection | None
    noise_reduction: NoiseReduction | None = None
    include: tuple[str, ...] | None = None

    @classmethod
    def initial(cls, terms: Terms, model: str | None) -> Self:
        """That of a new connection.

        Args:
            model: The one its URL names.
        """
        transcription = Transcription(model=model or terms.model)
        by_client = transcription.leaves_turns_to_client
        detection = None if by_client else terms.turn_detection("server_vad")
        return cls(terms, Format(), transcription, detection)

    def merge(self, given: SessionUpdate) -> Self:
        """These options with those that `given` names."""
        wanted = given.audio.input if given.audio is not None else None
        wanted = wanted or Input()
        changes: dict[str, Any] = {}
        for name in wanted.model_fields_set:
            match name:
                case "format":
                    changes[name] = wanted.format or Format()
                case "transcription":
                    changes[name] = self._transcription(wanted.transcription)
                case "turn_detection":
                    changes[name] = self._turn_detection(wanted.turn_detection)
                case _:
                    changes[name] = getattr(wanted, name)
        hints = wanted.transcription
        is_news = hints is not None and hints.model != (self.transcription or Transcription()).model
        if hints is not None and is_news and hints.leaves_turns_to_client:
            changes.setdefault("turn_detection", None)
        if "include" in given.model_fields_set:
            changes["include"] = _known(given.include)
        return replace(self, **changes)

    def _transcription(self, given: Transcription | None) -> Transcription | None:
        if given is None:
            return None
        old = self.transcription or Transcription()
        return old.model_copy(update=given.model_dump(exclude_unset=True))

    def _turn_detection(self, given: TurnDetection | None) -> TurnDetection | None:
        if given is None:
            return None
        old = self.turn_detection
        kind = given.type or (old.type if old is not None else None) or "server_vad"
        if old is None or old.type != kind:
            old = self.terms.turn_detection(kind)
        values = given.model_dump(exclude_none=True)
        clamped = {name: _clamped(name, value) for name, value in values.items()}
        return old.model_copy(update=clamped)

    @property
    def is_manual(self) -> bool:
        """The client says where turns end."""
        return self.turn_detection is None

    @property
    def options(self) -> SessionOptions:
        hints = self.transcription or Transcription()
        language = hints.language or next(iter(hints.languages or ()), None)
        return SessionOptions(
            endpointing=self._endpointing(),
            language=language[:MAX_LANGUAGE] if language else None,
            vocabulary=tuple((hints.keywords or ())[:MAX_KEYWORDS]),
        )

    def _endpointing(self) -> EndpointingSettings:
        defaults, detection = self.terms.endpointing, self.turn_detection
        values = defaults.model_dump() | {
            "mode": EndpointingMode.VAD,
            "detector": DetectorName.SILENCE,
            "eager": False,
        }
        if detection is None:
            values |= {"mode": EndpointingMode.MANUAL, "stall_ms": 0}
        elif detection.type == "semantic_vad":
            silence_ms = EAGERNESS_MS[detection.eagerness or "auto"]
            values |= {"detector": self.terms.semantic, "silence_ms": silence_ms}
        else:
            values |= {_MEANS[name]: getattr(detection, name) for name in _MEANS}
            values["offset"] = min(defaults.offset, values["onset"])
        # A pause longer than the silence that ends a turn would never be noticed.
        values["small_gap_ms"] = min(defaults.small_gap_ms, values["silence_ms"])
        return EndpointingSettings.model_validate(values)

    def describe(self) -> dict[str, Any]:
        """What `session` has beside its identity."""
        return {
            "include": self.include,
            "audio": {
                "input": {
                    "format": self.format.describe(),
                    "noise_reduction": self.noise_reduction and self.noise_reduction.model_dump(),
                    "transcription": self.transcription and self.transcription.describe(),
                    "turn_detection": self.turn_detection and self.turn_detection.describe(),
                }
            },
        }


def _known(include: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if include is None else tuple({LOGPROBS}.intersection(include))


_MEANS = {
    "threshold": "onset",
    "prefix_padding_ms": "pre_roll_ms",
    "silence_duration_ms": "silence_ms",
}
"""The setting that a field of `server_vad` is."""


def _clamped(name: str, value: Any) -> Any:
    """What is nearest to `value` among what the field's setting allows."""
    if name not in _MEANS:
        return value
    for bound in EndpointingSettings.model_fields[_MEANS[name]].metadata:
        if isinstance(bound, Ge):
            value = max(value, bound.ge)
        elif isinstance(bound, Le):
            value = min(value, bound.le)
    return value

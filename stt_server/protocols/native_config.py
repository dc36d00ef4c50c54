"""Session options of the native protocol: the URL's query and the `config` message."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field, StrictStr, ValidationError, field_validator

from stt_server.errors import InvalidConfig, InvalidMessage
from stt_server.protocols.base import MAX_RATE, MIN_RATE, AudioFormat, Encoding
from stt_server.protocols.native_messages import WireModel
from stt_server.settings import EndpointingMode, EndpointingSettings, SessionOptions

MAX_LANGUAGE = 64
"""Characters kept of a language: a hint is never an error."""


class Feature(StrEnum):
    """Extra fields and messages a client may ask for."""

    IDS = "ids"
    TIMES = "times"
    WORDS = "words"
    CONFIDENCE = "confidence"
    LANGUAGE = "language"
    SPEAKER = "speaker"
    USAGE = "usage"
    EVENTS = "events"


class EndpointingConfig(WireModel):
    """`config.endpointing`; an absent field keeps its value."""

    mode: EndpointingMode | None = None
    detector: StrictStr | None = None
    turn_threshold: float | None = None
    eager: bool | None = None
    eager_threshold: float | None = None
    silence_ms: int | None = None
    stall_ms: int | None = None
    onset: float | None = None
    offset: float | None = None
    small_gap_ms: int | None = None
    min_speech_ms: int | None = None
    pre_roll_ms: int | None = None
    max_segment_s: float | None = None

    def thresholds(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class ConfigMessage(WireModel):
    """Client → server: session options; an absent field keeps its value."""

    type: Literal["config"] = "config"
    token: str | None = None
    sample_rate: int | None = Field(default=None, ge=MIN_RATE, le=MAX_RATE)
    channels: int | None = Field(default=None, ge=1, le=2)
    encoding: str | None = None
    language: str | None = None
    features: list[str] | str | None = None
    interim_results: bool | None = None
    endpointing: EndpointingConfig = EndpointingConfig()
    model: str | None = None
    final_model: str | None = None
    lookahead_ms: int | None = Field(default=None, ge=0, le=60_000)
    resume: bool | None = None
    segment_finals: bool | None = None
    vocabulary: list[str] | None = Field(default=None, max_length=1_000)

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str | None) -> str | None:
        return None if name is None else parse_encoding(name).value

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self | None:
        """The options in a URL's query; None when it names none of them.

        Raises:
            InvalidConfig: a value is wrong.
        """
        endpointing = {key: query[key] for key in _QUERY_ENDPOINTING if key in query}
        values: dict[str, Any] = {key: query[key] for key in _QUERY_KEYS if key in query}
        if "interim" in query:
            values["interim_results"] = query["interim"]
        if "endpointing" in query:
            endpointing["mode"] = query["endpointing"]
        for key in ("features", "vocabulary"):
            if key in values:
                values[key] = [item.strip() for item in values[key].split(",") if item.strip()]
        if not values and not endpointing:
            return None
        try:
            return cls(**values, endpointing=EndpointingConfig.model_validate(endpointing))
        except ValidationError as error:
            raise InvalidConfig(readable(error)) from error


_QUERY_KEYS = (
    "sample_rate",
    "channels",
    "encoding",
    "language",
    "features",
    "model",
    "lookahead_ms",
    "resume",
    "segment_finals",
    "vocabulary",
)
_QUERY_ENDPOINTING = ("silence_ms", "stall_ms", "detector", "eager")
_ENCODING_ALIASES = {"linear16": Encoding.PCM16}


def parse_encoding(name: str) -> Encoding:
    """The encoding of that name.

    Raises:
        ValueError: there is none.
    """
    if name in _ENCODING_ALIASES:
        return _ENCODING_ALIASES[name]
    if name in set(Encoding):
        return Encoding(name)
    raise ValueError(f"unknown encoding {name[:32]!r}, use one of {', '.join(Encoding)}")


def readable(error: ValidationError) -> str:
    """One sentence on the first thing wrong, safe to send."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    return f"{path}: {first['msg']}" if path else first["msg"]


@dataclass(frozen=True, slots=True)
class Abilities:
    """What this server can be asked for."""

    models: frozenset[str]
    final_model: str | None = None
    """What makes the finals beside `models`."""
    detectors: frozenset[str] = frozenset({"silence"})
    eager: bool = False
    """Whether eager ends of turns can be told."""
    resume: bool = False
    """Whether sessions can be resumed."""
    lookaheads_ms: tuple[int, ...] = ()
    """What sessions may choose from; the least is that of those that do not."""


@dataclass(frozen=True, slots=True)
class NativeConfig:
    """Everything in force for one session."""

    options: SessionOptions
    format: AudioFormat
    features: frozenset[Feature] = frozenset()
    resume: bool = False

    def merge(self, given: ConfigMessage, abilities: Abilities, *, audio_seen: bool) -> Self:
        """These options with those that `given` names.

        Raises:
            InvalidConfig: a value is out of bounds or something this server does not have.
            InvalidMessage: the audio format or the model may not change any more.
        """
        audio_format = AudioFormat(
            given.sample_rate or self.format.sample_rate,
            given.channels or self.format.channels,
            Encoding(given.encoding) if given.encoding else self.format.encoding,
        )
        if audio_seen and audio_format != self.format:
            raise InvalidMessage("the audio format may change only before the first audio")
        finals = {abilities.final_model} if abilities.final_model else abilities.models
        for name, loaded in ((given.model, abilities.models), (given.final_model, finals)):
            if name is not None and name not in loaded:
                raise InvalidConfig(f"model {name[:64]!r} is not loaded on this server")
        resume = self.resume or bool(given.resume and abilities.resume)
        if audio_seen and resume != self.resume:
            raise InvalidMessage("resume may be asked for only before the first audio")
        detector = given.endpointing.detector
        if detector is not None and detector not in abilities.detectors:
            here = ", ".join(sorted(abilities.detectors))
            raise InvalidConfig(
                f"detector {detector[:32]!r} is not available on this server, which has: {here}"
            )
        return replace(
            self,
            options=self._merge_options(given, abilities),
            format=audio_format,
            features=_features(given.features, self.features),
            resume=resume,
        )

    def _merge_options(self, given: ConfigMessage, abilities: Abilities) -> SessionOptions:
        old = self.options
        try:
            endpointing = EndpointingSettings.model_validate(
                old.endpointing.model_dump() | given.endpointing.thresholds()
            )
        except ValidationError as error:
            raise InvalidConfig(f"endpointing.{readable(error)}") from error
        if not abilities.eager:
            endpointing = endpointing.model_copy(update={"eager": False})
        lookahead_ms = given.lookahead_ms if given.lookahead_ms is not None else old.lookahead_ms
        if lookahead_ms is not None:
            wanted = lookahead_ms
            choices = abilities.lookaheads_ms
            lookahead_ms = min(choices, key=lambda ms: abs(ms - wanted)) if choices else None
        updates = {
            "interim_results": given.interim_results,
            "segment_finals": given.segment_finals,
            "language": given.language[:MAX_LANGUAGE] if given.language is not None else None,
            "vocabulary": tuple(given.vocabulary) if given.vocabulary is not None else None,
        }
        return old.model_copy(
            update={key: value for key, value in updates.items() if value is not None}
            | {"endpointing": endpointing, "lookahead_ms": lookahead_ms}
        )

    def describe(self, abilities: Abilities) -> dict[str, Any]:
        """The effective configuration as `ready` shows it."""
        endpointing, lookahead_ms = self.options.endpointing, self.options.lookahead_ms
        if lookahead_ms is None:
            lookahead_ms = min(abilities.lookaheads_ms, default=None)
        return {
            "sampleRate": self.format.sample_rate,
            "channels": self.format.channels,
            "encoding": self.format.encoding.value,
            "language": self.options.language,
            "features": [feature.value for feature in Feature if feature in self.features],
            "interimResults": self.options.interim_results,
            "endpointing": {
                "mode": endpointing.mode.value,
                "detector": endpointing.detector.value,
                "turnThreshold": endpointing.turn_threshold,
                "eager": endpointing.eager,
                "eagerThreshold": endpointing.eager_threshold,
                "silenceMs": endpointing.silence_ms,
                "stallMs": endpointing.stall_ms,
                "onset": endpointing.onset,
                "offset": endpointing.offset,
                "smallGapMs": endpointing.small_gap_ms,
                "minSpeechMs": endpointing.min_speech_ms,
                "preRollMs": endpointing.pre_roll_ms,
                "maxSegmentS": endpointing.max_segment_s,
            },
            "model": min(abilities.models),
            "finalModel": abilities.final_model or min(abilities.models),
            "lookaheadMs": lookahead_ms,
            "resume": self.resume,
            "segmentFinals": self.options.segment_finals,
            "vocabulary": list(self.options.vocabulary),
        }


def _features(given: list[str] | str | None, old: frozenset[Feature]) -> frozenset[Feature]:
    if given is None:
        return old
    names = [given] if isinstance(given, str) else given
    if "all" in names:
        return frozenset(Feature)
    unknown = sorted(set(names) - set(Feature))
    if unknown:
        raise InvalidConfig(f"unknown feature {unknown[0][:32]!r}")
    return frozenset(Feature(name) for name in names)

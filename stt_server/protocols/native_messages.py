"""The JSON messages of the native protocol, `docs/protocols/native.md`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr
from pydantic.alias_generators import to_camel


class WireModel(BaseModel):
    """camelCase on the wire, snake_case in Python; unknown fields are ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True
    )


class AudioFrame(WireModel):
    """Client → server: base64 of interleaved little-endian samples."""

    samples: StrictStr
    sample_rate: StrictInt
    channels: StrictInt
    encoding: StrictStr = "pcm16"
    type: StrictStr | None = None


class WordMessage(WireModel):
    """One word; times are seconds of the stream."""

    word: str
    start: float
    end: float
    confidence: float | None = None
    speaker: str | None = None


class UsageMessage(WireModel):
    """How much of the turn's audio was heard."""

    type: Literal["duration"] = "duration"
    seconds: float


class TranscriptionSegment(WireModel):
    """Server → client: the text of the open turn so far, or of the whole turn when final.

    The fields after the third come only with the features a client asked for.
    """

    text: str
    is_final: bool
    is_end_of_turn: bool
    segment_id: str | None = None
    turn_id: int | None = None
    sequence: int | None = None
    start: float | None = None
    end: float | None = None
    words: list[WordMessage] | None = None
    word_times: Literal["estimated"] | None = None
    confidence: float | None = None
    language: str | None = None
    speaker: str | None = None
    usage: UsageMessage | None = None


class ErrorResponse(WireModel):
    """Server → client: a message was refused or something failed."""

    error: str
    code: str
    fatal: bool | None = None
    type: Literal["error"] | None = None


class SpeechStartedMessage(WireModel):
    """A turn opens; `time` is where speech began."""

    type: Literal["speechStarted"] = "speechStarted"
    time: float
    turn_id: int


class SpeechStoppedMessage(WireModel):
    """The turn's speech ended at `time`; its final follows."""

    type: Literal["speechStopped"] = "speechStopped"
    time: float
    turn_id: int


class EndOfTurnMessage(WireModel):
    """Follows the turn's final."""

    type: Literal["endOfTurn"] = "endOfTurn"
    turn_id: int
    reason: str
    confidence: float | None = None


class EagerEndOfTurnMessage(WireModel):
    """The turn is probably over with `text`; it is withdrawn by `turnResumed`."""

    type: Literal["eagerEndOfTurn"] = "eagerEndOfTurn"
    turn_id: int
    text: str
    confidence: float | None = None


class TurnResumedMessage(WireModel):
    """Speech goes on after all."""

    type: Literal["turnResumed"] = "turnResumed"
    turn_id: int


class WarningMessage(WireModel):
    """The server is behind by `seconds` of audio."""

    type: Literal["warning"] = "warning"
    code: str
    seconds: float


class ReadyMessage(WireModel):
    """Answer to `config`: the session's effective options."""

    type: Literal["ready"] = "ready"
    session_id: str
    config: dict[str, Any]
    resume_token: str | None = None
    resume_window_s: float | None = None


class ResumedMessage(WireModel):
    """The session goes on over this connection; what the client does not have follows."""

    type: Literal["resumed"] = "resumed"
    session_id: str
    resume_token: str
    ack_samples: int


class PongMessage(WireModel):
    """Answer to `ping`."""

    type: Literal["pong"] = "pong"
    id: Any = None


class FlushedMessage(WireModel):
    """Answer to `flush`, with the id that the client gave that."""

    type: Literal["flushed"] = "flushed"
    id: str | int | float | bool | None = None


class FinishedMessage(WireModel):
    """Answer to `finish`, and the last message."""

    type: Literal["finished"] = "finished"
    audio_seconds: float
    turns: int


TypedServerMessage = Annotated[
    SpeechStartedMessage
    | SpeechStoppedMessage
    | EndOfTurnMessage
    | EagerEndOfTurnMessage
    | TurnResumedMessage
    | WarningMessage
    | ReadyMessage
    | ResumedMessage
    | PongMessage
    | FlushedMessage
    | FinishedMessage,
    Field(discriminator="type"),
]
"""Every server message that carries a `type` other than `error`."""

"""The FastConformer protocol, `docs/protocols/fastconformer.md`: `op` messages, binary audio."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from stt_server.errors import (
    BadOpening,
    ErrorCode,
    FrameTooLarge,
    InvalidConfig,
    InvalidJson,
    InvalidMessage,
)
from stt_server.events import (
    SAMPLE_RATE,
    Finished,
    Hypothesis,
    StreamError,
    StreamEvent,
    TurnEnded,
    TurnEndReason,
)
from stt_server.protocols.base import (
    MAX_RATE,
    MIN_RATE,
    AudioFormat,
    ClientEvent,
    Finish,
    Message,
    Packet,
)
from stt_server.protocols.cumulative import CumulativeText
from stt_server.settings import EndpointingSettings, SessionOptions

SILENCE_MS = 800
MAX_OPENING = 65_536
"""Characters of the first message; megabytes of brackets would take the event loop for seconds."""
MAX_SID = 1_024
"""Characters: the label comes back in every message."""
INTERIMS_PER_SECOND = 40
"""Of the 50 messages a second that clients are promised at most; the others are for finals."""


class InterimMessage(BaseModel):
    """Server → client: the text of the whole stream; `op` is the same for finals."""

    op: str = "interim"
    sid: str
    text: str
    final: bool
    ts: int


class ErrorMessage(BaseModel):
    """Server → client: what was refused, or why the session ends."""

    op: str = "error"
    sid: str
    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Opening:
    """What the first message says."""

    sid: str
    sample_rate: int = SAMPLE_RATE


def parse_opening(message: Message) -> Opening:
    """The `init` message.

    Raises:
        BadOpening: it is something else.
    """
    match _json_object(message) if len(message) <= MAX_OPENING else None:
        case {"op": "init", "sid": str() as sid, **rest} if len(sid) <= MAX_SID:
            rate = rest.get("sr", SAMPLE_RATE)
            if type(rate) is int and MIN_RATE <= rate <= MAX_RATE:
                return Opening(sid, rate)
        case _:
            pass
    raise BadOpening("Bad init")


def endpointing_of(query: Mapping[str, str], defaults: EndpointingSettings) -> EndpointingSettings:
    """`defaults` with this protocol's own silence, or that of the URL's query.

    Raises:
        InvalidConfig: the query's is no length that the settings allow.
    """
    # Clients close their streams themselves; they may be silent for as long as they like.
    own = {"silence_ms": query.get("silence_ms", SILENCE_MS), "stall_ms": 0}
    try:
        return EndpointingSettings.model_validate({**defaults.model_dump(), **own})
    except ValidationError as error:
        raise InvalidConfig(f"silence_ms: {error.errors()[0]['msg']}") from error


class FastConformerCodec:
    """One session's side of the protocol, after its `init`. A `Codec`."""

    def __init__(
        self,
        opening: Opening,
        *,
        endpointing: EndpointingSettings,
        max_audio_bytes: int,
        now_ms: Callable[[], int],
    ) -> None:
        """
        Args:
            now_ms: Unix time in milliseconds; never goes back.
        """
        self._sid = opening.sid
        self._format = AudioFormat(opening.sample_rate)
        self._options = SessionOptions(endpointing=endpointing)
        self._max_audio_bytes = max_audio_bytes
        self._now_ms = now_ms
        self._text = CumulativeText()
        self._shown = False
        """Something of the open turn was sent."""
        self._finishing = False
        self._owes_final = False
        self._sent_ms: deque[int] = deque(maxlen=INTERIMS_PER_SECOND)

    @property
    def options(self) -> SessionOptions:
        return self._options

    def decode(self, message: Message) -> Sequence[ClientEvent]:
        if len(message) > self._max_audio_bytes:
            raise FrameTooLarge(
                f"{len(message)} bytes in one message, {self._max_audio_bytes} are allowed"
            )
        if isinstance(message, bytes):
            return [Packet(message, self._format)]
        match _json_object(message):
            case None:
                raise InvalidJson("message is not valid JSON")
            case {"op": "close"}:
                return [Finish()]
            case _:
                raise InvalidMessage("unknown op")

    def encode(self, event: StreamEvent) -> Sequence[Message]:
        match event:
            case Hypothesis(is_final=True):
                return self._end_turn(event)
            case Hypothesis():
                return self._interim() if self._text.hear(event) else []
            case TurnEnded(reason=reason):
                self._finishing = reason is TurnEndReason.FINISH
                return []
            case Finished():
                return [self._message(final=True)]
            case StreamError(fatal=fatal):
                owed = [self._message(final=True)] if fatal and self._owes_final else []
                return [*owed, encode_error(self._sid, event)]
            case _:
                return []

    def _end_turn(self, event: Hypothesis) -> Sequence[Message]:
        self._text.hear(event)
        has_text, self._shown = bool(event.text) or self._shown, False
        if self._finishing:
            # The session's last message says it; an error instead of that must not swallow it.
            self._owes_final = has_text
            return []
        return [self._message(final=True)] if has_text else []

    def _interim(self) -> Sequence[Message]:
        self._shown = True
        recent = len(self._sent_ms) == INTERIMS_PER_SECOND
        if recent and self._now_ms() - self._sent_ms[0] < 1_000:
            return []  # what is left out comes with the next one, at the latest with the final
        return [self._message(final=False)]

    def _message(self, *, final: bool) -> Message:
        self._owes_final = False
        now = self._now_ms()
        if not final:
            self._sent_ms.append(now)
        return InterimMessage(
            sid=self._sid, text=str(self._text), final=final, ts=now
        ).model_dump_json()


def encode_error(sid: str, error: StreamError) -> Message:
    """The message that tells of `error`; also before there is a codec."""
    code = ErrorCode(error.code)
    return ErrorMessage(sid=sid, code=code, message=error.message).model_dump_json()


def _json_object(message: Message) -> dict[str, object] | None:
    """The object that a text message is; an empty one for other JSON, None if it is none."""
    if isinstance(message, bytes):
        return None
    try:
        value: object = from_json(message, allow_inf_nan=False)
    except ValueError:
        return None
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}

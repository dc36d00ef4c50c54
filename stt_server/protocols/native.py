"""The native protocol, `docs/protocols/native.md`: JSON or binary audio in, segments out."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import cast

from pydantic import ValidationError
from pydantic_core import from_json

from stt_server.errors import (
    FrameTooLarge,
    InvalidConfig,
    InvalidJson,
    InvalidMessage,
    UnsupportedChannels,
    UnsupportedEncoding,
    UnsupportedSampleRate,
)
from stt_server.events import (
    Audio,
    Backlog,
    Clear,
    Configure,
    Finished,
    Flush,
    Hypothesis,
    SegmentEnded,
    SpeechPaused,
    SpeechStarted,
    Stall,
    StreamError,
    StreamEvent,
    TurnCheck,
    TurnEagerEnd,
    TurnEnded,
    TurnResumed,
    seconds,
)
from stt_server.protocols.base import (
    MAX_RATE,
    MIN_RATE,
    AudioFormat,
    Authenticate,
    ClientEvent,
    Finish,
    Message,
    Packet,
    Reply,
)
from stt_server.protocols.base64_audio import decode_base64
from stt_server.protocols.native_config import (
    Abilities,
    ConfigMessage,
    Feature,
    NativeConfig,
    parse_encoding,
    readable,
)
from stt_server.protocols.native_messages import (
    AudioFrame,
    ErrorResponse,
    FinishedMessage,
    FlushedMessage,
    PongMessage,
    ReadyMessage,
    WarningMessage,
    WireModel,
)
from stt_server.protocols.native_resume import ResumeOffer
from stt_server.protocols.native_segments import SegmentWriter
from stt_server.settings import SessionOptions

MAX_JSON_PER_AUDIO = 12
"""Text longer than so many times the most audio of a message is refused unread: reading megabytes
of brackets takes the event loop for seconds."""
MAX_PONG = 288
MAX_FLUSHED = 282
CONTROLS = ("flush", "finish", "close", "config")


class NativeCodec:
    """One session's side of the native protocol. A `Codec`."""

    def __init__(
        self,
        *,
        session_id: str,
        defaults: SessionOptions,
        abilities: Abilities,
        max_audio_bytes: int,
        query: Mapping[str, str],
        resume: ResumeOffer | None = None,
    ) -> None:
        """
        Args:
            resume: What a client is told that wants to be able to resume; None: it cannot.

        Raises:
            InvalidConfig: the URL's query has a wrong value.
        """
        self.controls = 0
        self._repeated = 0
        self._session_id = session_id
        self._resume = resume
        self._abilities = abilities
        self._max_audio_bytes = max_audio_bytes
        self._audio_seen = False
        self._config = NativeConfig(defaults, AudioFormat())
        self._writer = SegmentWriter()
        given = ConfigMessage.from_query(query)
        self._greets = given is not None and bool(given.resume)
        if given is not None:
            self._config = self._config.merge(given, abilities, audio_seen=False)
        # What clients asked for counts for output caused by audio that came after it.
        self._applied = self._config
        self._pending: deque[NativeConfig] = deque()

    @property
    def options(self) -> SessionOptions:
        return self._config.options

    @property
    def resumes(self) -> bool:
        """The client has asked for a session that it can resume, and may have been told so."""
        return self._applied.resume

    def greeting(self) -> Sequence[Message]:
        """What the client gets before it has sent anything: its way back, or that there is none,
        if its URL asks for one."""
        return [self._ready()] if self._greets else []

    def repeat(self, controls: int) -> None:
        """The client sends its control messages again from number `controls` on; those that came
        before are ignored."""
        self._repeated = self.controls - controls

    def decode(self, message: Message) -> Sequence[ClientEvent]:
        if isinstance(message, bytes):
            self._check_size(message)
            self._audio_seen = self._audio_seen or bool(message)
            return [Packet(message, self._config.format, splits_samples=True)]
        if len(message) > MAX_JSON_PER_AUDIO * self._max_audio_bytes:
            raise FrameTooLarge(f"a message of {len(message)} characters")
        try:
            value: object = from_json(message, allow_inf_nan=False)
        except ValueError as error:
            raise InvalidJson("message is not valid JSON") from error
        if not isinstance(value, dict):
            raise InvalidMessage("message is not a JSON object")
        fields = cast("dict[str, object]", value)
        kind = fields.get("type")
        if kind in CONTROLS and self._is_repeated():
            return []
        match kind:
            case "ping":
                return [Reply(_pong(fields))]
            case "flush":
                return [Flush(_flush_id(fields))]
            case "finish" | "close":
                return [Finish()]
            case "config":
                return self._decode_config(message)
            case _ if "samples" not in fields:
                shown = repr(kind[:32]) if isinstance(kind, str) else "of no text"
                raise InvalidMessage(f"unknown message type {shown} and no samples")
            case _:
                return [self._decode_audio(fields)]

    def encode(self, event: StreamEvent) -> Sequence[Message]:
        config = self._applied
        match event:
            case Hypothesis():
                return [_dump(message) for message in self._writer.hypothesis(event, config)]
            case SpeechStarted(opens_turn=True):
                return [_dump(message) for message in self._writer.speech_started(event, config)]
            case TurnEnded():
                return [_dump(message) for message in self._writer.turn_ended(event, config)]
            case TurnEagerEnd():
                return [_dump(message) for message in self._writer.eager_end(event, config)]
            case TurnResumed():
                return [_dump(message) for message in self._writer.resumed()]
            case SegmentEnded():
                self._writer.segment_ended(event)
                return []
            case StreamError():
                response = ErrorResponse(error=event.message, code=event.code)
                if config.features:
                    response = response.model_copy(update={"type": "error", "fatal": event.fatal})
                return [_dump(response)]
            case Backlog():
                if Feature.EVENTS not in config.features:
                    return []
                return [_dump(WarningMessage(code="BACKLOG", seconds=round(event.seconds, 1)))]
            case Flush():
                return [_dump(FlushedMessage(id=event.id))]
            case Configure():
                return [self._apply_config()]
            case Finished():
                turns = self._writer.turns
                return [_dump(FinishedMessage(audio_seconds=seconds(event.samples), turns=turns))]
            case Audio() | SpeechStarted() | SpeechPaused() | TurnCheck() | Stall() | Clear():
                return []

    def _check_size(self, data: bytes) -> None:
        if len(data) > self._max_audio_bytes:
            raise FrameTooLarge(
                f"{len(data)} bytes of audio in one message, {self._max_audio_bytes} are allowed"
            )

    def _decode_audio(self, fields: Mapping[str, object]) -> Packet:
        try:
            frame = AudioFrame.model_validate(fields)
        except ValidationError as error:
            raise InvalidMessage(readable(error)) from error
        data = decode_base64(frame.samples, field="samples")
        self._check_size(data)
        if frame.channels not in (1, 2):
            raise UnsupportedChannels(f"{frame.channels} channels, 1 or 2 are supported")
        if not MIN_RATE <= frame.sample_rate <= MAX_RATE:
            raise UnsupportedSampleRate(
                f"{frame.sample_rate} Hz, {MIN_RATE} to {MAX_RATE} are supported"
            )
        try:
            encoding = parse_encoding(frame.encoding)
        except ValueError as error:
            raise UnsupportedEncoding(str(error)) from error
        self._audio_seen = self._audio_seen or bool(data)
        return Packet(data, AudioFormat(frame.sample_rate, frame.channels, encoding))

    def _decode_config(self, message: str) -> list[ClientEvent]:
        try:
            given = ConfigMessage.model_validate_json(message, strict=True)
        except ValidationError as error:
            raise InvalidConfig(readable(error)) from error
        self._config = self._config.merge(given, self._abilities, audio_seen=self._audio_seen)
        self._pending.append(self._config)
        events: list[ClientEvent] = [Configure(self._config.options)]
        if given.token is not None:
            events.insert(0, Authenticate(given.token))
        return events

    def _apply_config(self) -> Message:
        self._applied = self._pending.popleft()
        return self._ready()

    def _ready(self) -> Message:
        ready = ReadyMessage(
            session_id=self._session_id, config=self._applied.describe(self._abilities)
        )
        if self.resumes and self._resume is not None:
            token, window_s = self._resume.token, self._resume.window_s
            ready = ready.model_copy(update={"resume_token": token, "resume_window_s": window_s})
            self._resume = None  # a token works once: a later `ready` must not bring it again
        return _dump(ready)

    def _is_repeated(self) -> bool:
        if self._repeated:
            self._repeated -= 1
            return True
        self.controls += 1
        return False


def _dump(message: WireModel) -> str:
    return message.model_dump_json(by_alias=True, exclude_none=True)


def _flush_id(fields: Mapping[str, object]) -> str | int | float | bool | None:
    given = fields.get("id")
    if given is not None and not isinstance(given, str | int | float):
        raise InvalidMessage("the id of a flush must be a string, a number, true or false")
    if len(_dump(FlushedMessage(id=given))) > MAX_FLUSHED:
        raise InvalidMessage("the id of a flush may have 256 characters")
    return given


def _pong(ping: Mapping[str, object]) -> str:
    """Whatever the ping had as its id, null too; no id if it had none."""
    absent = None if "id" in ping else {"id"}
    pong = PongMessage(id=ping.get("id")).model_dump_json(exclude=absent)
    if len(pong) > MAX_PONG:
        raise InvalidMessage("the id of a ping may have 256 characters")
    return pong

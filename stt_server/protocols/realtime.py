"""OpenAI's Realtime protocol for transcription, `docs/protocols/openai-realtime.md`: JSON events,
audio in base64; with its older flat form and vLLM's dialect."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from stt_server.errors import BadMessage, ErrorCode, InvalidMessage, NotText
from stt_server.events import (
    Clear,
    Configure,
    Flush,
    StreamError,
    StreamEvent,
    TurnEndReason,
)
from stt_server.protocols.base import ClientEvent, Message, Packet
from stt_server.protocols.base64_audio import decode_base64
from stt_server.protocols.realtime_flat import describe_flat, parse_flat
from stt_server.protocols.realtime_items import ItemWriter
from stt_server.protocols.realtime_messages import BadEvent, EventWriter, read_event
from stt_server.protocols.realtime_session import (
    Format,
    RealtimeConfig,
    SessionUpdate,
    Terms,
    Transcription,
    parse_part,
)
from stt_server.protocols.realtime_vllm import VLLM_RATE, VllmWriter, vllm_error
from stt_server.settings import SessionOptions

PACKET_S = 4
"""A long append is handed on in pieces, between which other sessions get their turn."""
TOLD_WHEN_FATAL = {
    ErrorCode.INTERNAL_ERROR: "server_error",
    ErrorCode.INVALID_MESSAGE: "invalid_request_error",
}
"""Ends of a session that have an `error`. Of all others the close code tells: clients that would
come back after it give up at an `error`."""


class Form(StrEnum):
    """Which names a client knows."""

    CURRENT = "session"
    FLAT = "transcription_session"
    VLLM = "vllm"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a session is called.

    Attributes:
        token: Part of all its ids, another one for each session.
        created: Unix seconds.
        expires_at: The same; for information.
    """

    token: str
    created: int
    expires_at: int

    @property
    def session_id(self) -> str:
        return f"sess_{self.token}"


@dataclass(frozen=True, slots=True)
class _Applied:
    """Options from one point of the audio on."""

    config: RealtimeConfig
    form: Form
    is_answered: bool = True


class RealtimeCodec:
    """One session's side of the protocol. A `Codec`; the greeting goes first."""

    def __init__(
        self,
        identity: Identity,
        terms: Terms,
        *,
        max_append_bytes: int,
        model: str | None = None,
        session: SessionUpdate | None = None,
    ) -> None:
        """
        Args:
            max_append_bytes: Of audio in one event, decoded.
            model: What the URL names so.
            session: What was settled before the client connected.
        """
        self._identity = identity
        self._max_append_bytes = max_append_bytes
        self._config = RealtimeConfig.initial(terms, model)
        if session is not None:
            self._config = self._config.merge(session)
        self._form = Form.CURRENT
        self._has_audio = False
        """Something came since the last commit or clear."""
        # What clients asked for counts for output caused by audio that came after it.
        self._applied = _Applied(self._config, self._form)
        self._pending: deque[_Applied] = deque()
        self._refusal: Message | None = None
        self._writer = EventWriter(identity.token)
        self._items = ItemWriter(self._writer)
        self._vllm = VllmWriter()

    @property
    def options(self) -> SessionOptions:
        return self._config.options

    def greeting(self) -> Message:
        """What the client gets before anything else."""
        return self._writer.write(
            "session.created",
            session=self._session(),
            # For clients of vLLM.
            id=self._identity.session_id,
            created=self._identity.created,
        )

    # From the client

    def decode(self, message: Message) -> Iterable[ClientEvent]:
        if isinstance(message, bytes):
            raise NotText("binary messages are not understood here")
        fields: dict[str, Any] = {}
        try:
            fields = read_event(message)
            return self._react(fields)
        except BadMessage as error:
            # The session asks for its message next.
            self._refusal = self._refuse(error, fields)
            raise

    def _react(self, fields: dict[str, Any]) -> Iterable[ClientEvent]:
        match fields.get("type"):
            case "input_audio_buffer.append":
                return self._append(fields.get("audio"))
            case "input_audio_buffer.commit":
                return self._commit(fields)
            case "input_audio_buffer.clear":
                self._has_audio = False
                return [Clear()]
            case "session.update" if "session" not in fields and "model" in fields:
                return [self._become_vllm(fields["model"])]
            case "session.update":
                given = parse_part(SessionUpdate, fields.get("session"))
                return [self._update(self._config.merge(given), Form.CURRENT)]
            case "transcription_session.update":
                given = parse_flat(fields.get("session"))
                return [self._update(self._config.merge(given), Form.FLAT)]
            case kind:
                shown = repr(kind[:64]) if isinstance(kind, str) else "of no text"
                raise BadEvent("unknown_event", f"unknown event type {shown}", "type")

    def _append(self, audio: object) -> Iterable[ClientEvent]:
        if not isinstance(audio, str):
            raise BadEvent("invalid_value", "audio must be a string of base64", "audio")
        try:
            data = decode_base64(audio, field="audio")
        except InvalidMessage as error:
            raise BadEvent("invalid_value", str(error), "audio") from error
        if len(data) > self._max_append_bytes:
            most = self._max_append_bytes
            text = f"{len(data)} bytes of audio in one event, {most} are allowed"
            raise BadEvent("audio_too_large", text, "audio")
        audio_format = self._config.format.audio
        if len(data) % audio_format.frame_bytes:
            raise BadEvent("invalid_value", "audio ends inside a sample", "audio")
        self._has_audio = self._has_audio or bool(data)
        step = PACKET_S * audio_format.sample_rate * audio_format.frame_bytes
        pieces = range(0, len(data), step)
        return (Packet(data[begin : begin + step], audio_format) for begin in pieces)

    def _commit(self, fields: dict[str, Any]) -> list[ClientEvent]:
        if "final" in fields or self._form is Form.VLLM:
            return self._commit_vllm(is_final=fields.get("final") is True)
        if self._config.is_manual and not self._has_audio:
            text = "there is no audio since the last commit or clear"
            raise BadEvent("input_audio_buffer_commit_empty", text)
        self._has_audio = False
        return [Flush(reason=TurnEndReason.COMMIT)]

    def _commit_vllm(self, *, is_final: bool) -> list[ClientEvent]:
        events: list[ClientEvent] = []
        if self._form is not Form.VLLM:
            events.append(self._become_vllm(None, is_answered=False))
        return [*events, Flush(reason=TurnEndReason.COMMIT)] if is_final else events

    def _become_vllm(self, model: object, *, is_answered: bool = True) -> Configure:
        config = replace(self._config, format=Format(rate=VLLM_RATE), turn_detection=None)
        if isinstance(model, str):
            config = replace(config, transcription=Transcription(model=model))
        return self._update(config, Form.VLLM, is_answered=is_answered)

    def _update(self, config: RealtimeConfig, form: Form, *, is_answered: bool = True) -> Configure:
        self._config, self._form = config, form
        self._pending.append(_Applied(config, form, is_answered))
        return Configure(config.options)

    def _refuse(self, error: BadMessage, fields: dict[str, Any]) -> Message:
        code = error.wire_code if isinstance(error, BadEvent) else "invalid_value"
        if self._form is Form.VLLM:
            return vllm_error(code, str(error))
        param = error.param if isinstance(error, BadEvent) else None
        culprit = fields.get("event_id")
        return self._writer.error(code, str(error), param=param, culprit=culprit)

    # To the client

    def encode(self, event: StreamEvent) -> Sequence[Message]:
        match event:
            case Configure():
                self._applied = self._pending.popleft()
                return [self._updated()] if self._applied.is_answered else []
            case StreamError(fatal=True):
                return [*self._written(event), *self._last_word(event)]
            case StreamError(code=code) if code != ErrorCode.TRANSCRIPTION_ERROR:
                refusal, self._refusal = self._refusal, None
                return [refusal] if refusal is not None else []
            case _:
                return self._written(event)

    def _written(self, event: StreamEvent) -> list[Message]:
        config, form = self._applied.config, self._applied.form
        if form is Form.VLLM:
            return self._vllm.encode(event)
        return self._items.encode(event, config, is_flat=form is Form.FLAT)

    def _last_word(self, error: StreamError) -> list[Message]:
        kind = TOLD_WHEN_FATAL.get(ErrorCode(error.code))
        if kind is None:
            return []
        code = error.code.lower()
        if self._form is Form.VLLM:
            return [vllm_error(code, error.message)]
        return [self._writer.error(code, error.message, kind=kind)]

    def _updated(self) -> Message:
        kind = Form.FLAT if self._applied.form is Form.FLAT else Form.CURRENT
        return self._writer.write(f"{kind}.updated", session=self._session())

    def _session(self) -> dict[str, Any]:
        identity, config = self._identity, self._applied.config
        named = {
            "object": "realtime.transcription_session",
            "id": identity.session_id,
            "expires_at": identity.expires_at,
        }
        if self._applied.form is Form.FLAT:
            return named | describe_flat(config)
        return {"type": "transcription", **named, **config.describe()}

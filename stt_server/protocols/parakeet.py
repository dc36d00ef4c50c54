"""The parakeet protocol, `docs/protocols/parakeet.md`: a JSON object per line, cumulative text."""

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from typing import cast
from zlib import crc32

from pydantic import BaseModel
from pydantic_core import from_json

from stt_server.errors import (
    BadMessage,
    BadOpening,
    ErrorCode,
    InvalidJson,
    InvalidMessage,
    MessageTooLarge,
    UnsupportedEncoding,
)
from stt_server.events import (
    SAMPLE_RATE,
    Finished,
    Hypothesis,
    StreamError,
    StreamEvent,
    Token,
    Word,
)
from stt_server.protocols.base import (
    AudioFormat,
    Authenticate,
    ClientEvent,
    Encoding,
    Finish,
    Message,
    Packet,
    Refused,
    Reply,
)
from stt_server.protocols.base64_audio import decode_base64
from stt_server.protocols.cumulative import CumulativeText
from stt_server.settings import EndpointingSettings, SessionOptions

MAX_MESSAGE_BYTES = 8 * 2**20
NO_FREE_STREAM = "No free streaming state available."
"""Clients compare it."""

_FORMATS = {
    "pcm16": AudioFormat(SAMPLE_RATE, 1, Encoding.PCM16),
    "f32": AudioFormat(SAMPLE_RATE, 1, Encoding.F32),
}
_PONG = '{"type":"pong"}'
_LITERAL_NEWLINE = "}\\n"
"""What a published snippet ends its pings with: a backslash and an n."""
_HTTP_REQUEST = re.compile(r"[A-Z]{3,10} \S{1,4096} HTTP/\d")


class HelloMessage(BaseModel):
    """Server → client, at once."""

    type: str = "hello"
    stream_id: int
    sample_rate: int = SAMPLE_RATE


class ResultMessage(BaseModel):
    """Server → client: the text of the whole stream so far, and what is new of it."""

    type: str = "result"
    stream_id: int
    text: str
    token_ids: list[int]
    confidence_scores: list[float]
    is_final: bool


class ErrorMessage(BaseModel):
    """Server → client: what was refused, or why the stream ends."""

    type: str = "error"
    message: str
    code: ErrorCode


class StatusMessage(BaseModel):
    """All that the status port says."""

    type: str = "status"
    connected_streams: int


class ParakeetCodec:
    """One stream's side of the parakeet protocol. A `Codec`; `hello` goes first."""

    def __init__(
        self, *, stream_id: int, endpointing: EndpointingSettings, by_turns: bool = False
    ) -> None:
        """
        Args:
            by_turns: Each turn has a result that is final, and the next begins with an empty text.
        """
        self._stream_id = stream_id
        self._by_turns = by_turns
        self._owes_final = True
        # Clients end their streams themselves; they may be silent for as long as they like.
        self._options = SessionOptions(endpointing=endpointing.model_copy(update={"stall_ms": 0}))
        self._text = CumulativeText()
        self._tokens: list[Token] = []
        """Emitted, but in no message yet."""
        self._emitted = 0
        """Tokens of the open turn that count as emitted."""
        self._has_ids = False
        """The open turn's tokens are the model's own."""

    @property
    def options(self) -> SessionOptions:
        return self._options

    @property
    def hello(self) -> Message:
        return HelloMessage(stream_id=self._stream_id).model_dump_json()

    def decode(self, message: Message) -> Iterator[ClientEvent]:
        for line in StringIO(_text_of(message)):
            if not line.strip():
                continue
            try:
                for value in _objects(line):
                    for event in _decode_object(value):
                        self._owes_final |= isinstance(event, Finish)
                        yield event
            except BadMessage as error:
                yield Refused(error)

    def encode(self, event: StreamEvent) -> Sequence[Message]:
        match event:
            case Hypothesis():
                self._emit_tokens(event)
                is_new = self._text.hear(event)
                if self._by_turns and event.is_final and event.text:
                    return [self._result(is_final=True)]
                return [self._result(is_final=False)] if is_new else []
            case Finished() if self._owes_final:
                return [self._result(is_final=True)]
            case StreamError():
                return [encode_error(event)]
            case _:
                return []

    def _emit_tokens(self, event: Hypothesis) -> None:
        """Each token is emitted once, when it cannot change any more."""
        self._has_ids |= bool(event.tokens)
        # A final may be a second recogniser's, which has no ids.
        tokens = event.tokens if self._has_ids else _word_tokens(event)
        self._tokens += tokens[self._emitted :]
        self._emitted = max(self._emitted, len(tokens))
        if event.is_final:
            self._emitted, self._has_ids = 0, False

    def _result(self, *, is_final: bool) -> Message:
        tokens, self._tokens = self._tokens, []
        text = str(self._text)
        if self._by_turns and is_final:
            self._text, self._owes_final = CumulativeText(), False
        return ResultMessage(
            stream_id=self._stream_id,
            text=text,
            token_ids=[token.id for token in tokens],
            confidence_scores=[round(token.confidence, 3) for token in tokens],
            is_final=is_final,
        ).model_dump_json()


def encode_error(error: StreamError) -> Message:
    """The message that tells of `error`; also before a stream exists."""
    return ErrorMessage(message=error.message, code=ErrorCode(error.code)).model_dump_json()


def encode_status(connected_streams: int) -> Message:
    """The one message of the status port."""
    return StatusMessage(connected_streams=connected_streams).model_dump_json()


def _text_of(message: Message) -> str:
    data = message if isinstance(message, bytes) else message.encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge("message too large")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidJson("invalid JSON") from error


def _objects(line: str) -> Iterator[object]:
    try:
        yield _parse(line)
        return
    except InvalidJson:
        if _HTTP_REQUEST.match(line):
            # A web page can make its visitor's browser post to any port.
            raise BadOpening("this is no port for HTTP") from None
        # Looked for only now: inside a string of a good line the mark means nothing.
        *marked, rest = line.split(_LITERAL_NEWLINE)
        if not marked:
            raise
    for text in marked:
        yield _parse(text + "}")
    if rest.strip():
        yield _parse(rest)


def _parse(text: str) -> object:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidJson("invalid JSON") from error


def _decode_object(value: object) -> list[ClientEvent]:
    fields = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    match fields.get("type"):
        case "audio":
            return _decode_audio(fields)
        case "close":
            return [Finish()]
        case "ping":
            return [Reply(_PONG)]
        case "auth":
            token = fields.get("token")
            return [Authenticate(token if isinstance(token, str) else "")]
        case _:
            raise InvalidMessage("unknown message type")


def _decode_audio(fields: Mapping[str, object]) -> list[ClientEvent]:
    given = {key: value for key, value in fields.items() if value is not None}
    encoding, final = given.get("encoding", "pcm16"), given.get("final", False)
    if not isinstance(encoding, str) or encoding not in _FORMATS:
        raise UnsupportedEncoding(f"unsupported encoding: {str(encoding)[:64]}")
    if not isinstance(final, bool):
        raise InvalidMessage("final must be true or false")
    match given:
        case {"samples": _, "data": _}:
            raise InvalidMessage("audio has data or samples, not both")
        case {"samples": list()}:
            packet = Packet(_pack(cast("list[float]", given["samples"])), _FORMATS["f32"])
        case {"samples": _}:
            raise InvalidMessage("samples must be a list of numbers")
        case {"data": str() as data}:
            packet = Packet(decode_base64(data, field="data"), _FORMATS[encoding])
        case {"data": _}:
            raise InvalidMessage("data must be a string of base64")
        case _:
            packet = Packet(b"", _FORMATS[encoding])
    return [packet, Finish()] if final else [packet]


def _pack(samples: list[float]) -> bytes:
    try:
        return struct.pack(f"<{len(samples)}f", *samples)
    except (struct.error, OverflowError) as error:
        raise InvalidMessage("samples must be a list of numbers") from error


def _word_tokens(event: Hypothesis) -> tuple[Token, ...]:
    """A number for each word that cannot change any more, for recognisers without tokens: the same
    word has the same one for ever."""
    stable = event.stable.count(" ") + 1 if event.stable else 0
    words = event.words if event.is_final else event.words[:stable]
    return tuple(Token(crc32(word.text.encode()) & 0x7FFF_FFFF, _score(word)) for word in words)


def _score(word: Word) -> float:
    """Clients drop what scores low; what is not known to be doubtful must not look so."""
    return 1.0 if word.confidence is None else min(max(word.confidence, 0.0), 1.0)

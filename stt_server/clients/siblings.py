"""What `stt-client` writes and reads in the protocols of other servers. Pure: no I/O.

All of them take 16 kHz mono PCM16 here, and repeat the text of the whole stream in every message.
"""

import base64
import json
from typing import Any, Protocol, cast

from stt_server.clients.errors import Refused, UnreadableMessage
from stt_server.clients.messages import ServerMessage, UnknownMessage
from stt_server.errors import ErrorCode, Unauthorized
from stt_server.protocols.native_messages import ErrorResponse, TranscriptionSegment

_SID = "stt-client"


class Dialect(Protocol):
    """One protocol, for one session."""

    path: str
    """Where a WebSocket of it is."""
    goes_over_tcp: bool
    """Its messages may also be lines of a TCP connection."""
    has_final: bool
    """A final text came."""

    @property
    def opening(self) -> str | None:
        """What a client sends first."""
        ...

    @property
    def ending(self) -> str:
        """What a client sends last."""
        ...

    def audio(self, data: bytes) -> str | bytes:
        """The message for some audio."""
        ...

    def parse(self, text: str) -> ServerMessage:
        """A message of the server, in the terms of the native protocol.

        Raises:
            UnreadableMessage: it is none.
            Refused: the server does not take this client.
        """
        ...


class ParakeetDialect:
    """The parakeet protocol: a whole stream is one turn."""

    path = "/ws/parakeet"
    goes_over_tcp = True
    opening = None
    ending = '{"type":"close"}'

    def __init__(self) -> None:
        self.has_final = False
        self._greeted = False

    def audio(self, data: bytes) -> str:
        return json.dumps({"type": "audio", "data": base64.b64encode(data).decode()})

    def parse(self, text: str) -> ServerMessage:
        fields = _fields_of(text)
        match fields:
            case {"type": "result", "text": str() as said, "is_final": bool() as is_final}:
                self.has_final |= is_final
                return _segment(said, is_final)
            case {"type": "error", "message": str() as message}:
                code = str(fields.get("code", ""))
                if code == ErrorCode.UNAUTHORIZED:
                    raise Refused(Unauthorized.close_code, message)
                if not self._greeted:
                    raise Refused(1013, message)
                return ErrorResponse(error=message, code=code)
            case {"type": str() as kind}:
                self._greeted = self._greeted or kind == "hello"
                return UnknownMessage(kind, fields)
            case _:
                raise UnreadableMessage("the server sent a message that cannot be read")


class FastConformerDialect:
    """The FastConformer protocol: a final ends a turn, and the text goes on."""

    path = "/ws/fastconformer"
    goes_over_tcp = False
    opening = json.dumps({"op": "init", "sid": _SID, "sr": 16_000})
    ending = json.dumps({"op": "close", "sid": _SID})

    def __init__(self) -> None:
        self.has_final = False
        self._ended = ""
        """Text up to the last final, which has been given out."""

    def audio(self, data: bytes) -> bytes:
        return data

    def parse(self, text: str) -> ServerMessage:
        fields = _fields_of(text)
        match fields:
            case {"op": "interim", "text": str() as said, "final": bool() as is_final}:
                turn = said.removeprefix(self._ended).strip()
                self.has_final |= is_final
                self._ended = said if is_final else self._ended
                return _segment(turn, is_final)
            case {"op": "error", "message": str() as message, "code": str() as code}:
                return ErrorResponse(error=message, code=code)
            case {"op": str() as kind}:
                return UnknownMessage(kind, fields)
            case _:
                raise UnreadableMessage("the server sent a message that cannot be read")


def _segment(text: str, is_final: bool) -> TranscriptionSegment:
    return TranscriptionSegment(text=text, is_final=is_final, is_end_of_turn=is_final)


def _fields_of(text: str) -> dict[str, Any]:
    try:
        loaded: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableMessage("the server sent no JSON") from error
    return cast("dict[str, Any]", loaded) if isinstance(loaded, dict) else {}

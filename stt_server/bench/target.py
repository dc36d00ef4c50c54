"""Which server is measured, and how it is spoken to."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from stt_server.bench.measured import Measured
from stt_server.bench.observer import NativeObserver, Observer, SiblingObserver, Timeline, Window
from stt_server.clients.address import websocket_url
from stt_server.clients.messages import ServerMessage, parse_message
from stt_server.clients.siblings import Dialect, FastConformerDialect, ParakeetDialect
from stt_server.protocols.native_messages import FinishedMessage


class ProtocolName(StrEnum):
    """What clients speak."""

    NATIVE = "native"
    PARAKEET = "parakeet"
    FASTCONFORMER = "fastconformer"


class NativeDialect:
    """The native protocol with all that tells times. A `Dialect`."""

    path = "/ws/transcribe"
    goes_over_tcp = False
    opening = json.dumps({"type": "config", "features": ["words", "times", "events"]})
    ending = '{"type":"finish"}'

    def __init__(self) -> None:
        self.has_final = False

    def audio(self, data: bytes) -> bytes:
        return data

    def parse(self, text: str) -> ServerMessage:
        message = parse_message(text)
        self.has_final |= isinstance(message, FinishedMessage)
        return message


@dataclass(frozen=True, slots=True)
class Target:
    """One endpoint of a server."""

    address: str
    """As people type it; a query goes to the server as it is."""
    protocol: ProtocolName = ProtocolName.NATIVE
    api_key: str | None = None

    @property
    def url(self) -> str:
        """Of the WebSocket.

        Raises:
            BadAddress: there can be no such address.
        """
        return websocket_url(self.address, path=self.dialect().path)

    @property
    def http(self) -> str:
        """Of the server's pages."""
        url = urlsplit(self.url)
        scheme = "https" if url.scheme == "wss" else "http"
        return url._replace(scheme=scheme, path="", query="").geturl()

    def dialect(self) -> Dialect:
        """For one session."""
        match self.protocol:
            case ProtocolName.NATIVE:
                return NativeDialect()
            case ProtocolName.PARAKEET:
                return ParakeetDialect()
            case ProtocolName.FASTCONFORMER:
                return FastConformerDialect()

    def observer(
        self,
        timeline: Timeline,
        window: Window,
        measured: Measured,
        speech_end: Callable[[int], int | None],
    ) -> Observer:
        """For one session; `speech_end` is as `SiblingObserver` takes it."""
        if self.protocol is ProtocolName.NATIVE:
            return NativeObserver(timeline, window, measured)
        return SiblingObserver(timeline, window, measured, speech_end)

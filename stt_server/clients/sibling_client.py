"""A client for the protocols of other servers, which this one speaks as well."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from stt_server.audio import Ingress
from stt_server.clients.address import tcp_address, websocket_url
from stt_server.clients.connection import open_websocket
from stt_server.clients.errors import ClientClosed, ConnectionLost, ServerSilent
from stt_server.clients.messages import ServerMessage
from stt_server.clients.samples import encode_samples
from stt_server.clients.siblings import Dialect
from stt_server.clients.wires import TcpWire, WebSocketWire, Wire
from stt_server.events import Samples
from stt_server.protocols.base import AudioFormat, Packet


class SiblingClient:
    """One session: audio of any format in, messages out. `Client` is the one for new programs.

    Somebody must iterate over `texts` while others send: it is what reads the connection.
    """

    def __init__(
        self,
        address: str,
        dialect: Dialect,
        *,
        source: AudioFormat,
        query: str = "",
        api_key: str | None = None,
        connect_timeout_s: float = 10.0,
        answer_timeout_s: float = 120.0,
    ) -> None:
        """Prepare; `async with` connects.

        Args:
            address: As for `Client`, or `tcp://host:port`.
            source: Of the bytes that `send` gets; they become 16 kHz mono.
            query: For an address that has none.

        Raises:
            BadAddress: `address` makes no sense.
        """
        self._tcp = tcp_address(address) if dialect.goes_over_tcp else None
        self._url = "" if self._tcp else websocket_url(address, path=dialect.path, query=query)
        self._dialect = dialect
        self._source = source
        self._api_key = api_key
        self._connect_timeout_s = connect_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._ingress = Ingress()
        self._wire: Wire | None = None
        self._closed = self._asked_to_end = False
        self._ended = asyncio.Event()
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Connect and say what the protocol begins with.

        Raises:
            ServerUnreachable: nobody answers there.
            Refused: the server does not take this client.
        """
        self._wire = await self._connect()
        if self._dialect.opening is not None:
            await self._wire.send(self._dialect.opening)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def send(self, audio: bytes) -> None:
        """Send audio in the source's format, of any length.

        Raises:
            ConnectionLost, ServerSilent, ClientClosed: it cannot be sent.
        """
        packet = Packet(audio, self._source, splits_samples=True)
        for samples in self._ingress.push(packet):
            await self._send(samples)

    async def finish(self) -> None:
        """Say that no audio follows; returns when everything sent is transcribed.

        Raises:
            ConnectionLost, ServerSilent, ClientClosed: it will not be.
        """
        await self._send(self._ingress.finish())
        self._asked_to_end = True
        await self._opened.send(self._dialect.ending)
        while not self._ended.is_set():
            self._news.clear()
            try:
                async with asyncio.timeout(self._answer_timeout_s):
                    await self._news.wait()
            except TimeoutError as error:
                raise ServerSilent(
                    f"no answer from the server for {self._answer_timeout_s:g} s"
                ) from error

    async def close(self) -> None:
        """Leave now, without waiting for text."""
        self._closed = True
        if self._wire is not None:
            await self._wire.close()

    async def texts(self) -> AsyncIterator[str]:
        """The server's messages as they came.

        Raises:
            ConnectionLost, UnreadableMessage: what follows cannot be had.
        """
        try:
            while (text := await self._opened.receive()) is not None:
                self._news.set()
                yield text.rstrip("\r\n")
            if not (self._asked_to_end and self._dialect.has_final):
                raise ConnectionLost(1006, "the server ended the session")
        except ConnectionLost:
            if not self._closed:
                raise
        finally:
            self._ended.set()
            self._news.set()

    def parse(self, text: str) -> ServerMessage:
        """One of `texts`, in the terms of the native protocol.

        Raises:
            UnreadableMessage, Refused: see `Dialect`.
        """
        return self._dialect.parse(text)

    @property
    def _opened(self) -> Wire:
        if self._wire is None:
            raise ClientClosed("the client is not open")
        return self._wire

    async def _send(self, samples: Samples) -> None:
        if len(samples):
            data = encode_samples(samples, AudioFormat())
            await self._opened.send(self._dialect.audio(data))

    async def _connect(self) -> Wire:
        if self._tcp is not None:
            return await TcpWire.open(
                *self._tcp, api_key=self._api_key, connect_timeout_s=self._connect_timeout_s
            )
        socket = await open_websocket(
            self._url,
            api_key=self._api_key,
            connect_timeout_s=self._connect_timeout_s,
            answer_timeout_s=self._answer_timeout_s,
        )
        return WebSocketWire(socket, answer_timeout_s=self._answer_timeout_s)

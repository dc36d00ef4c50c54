"""The native protocol from a client's side, as an asynchronous object."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Self

import numpy as np
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from stt_server.clients.address import websocket_url, with_query
from stt_server.clients.connection import make_impatient, open_websocket
from stt_server.clients.errors import ClientClosed, ConnectionLost, Refused
from stt_server.clients.incoming import Incoming
from stt_server.clients.messages import ServerMessage, parse_message
from stt_server.clients.options import ClientOptions
from stt_server.clients.outgoing import Outgoing
from stt_server.clients.resumption import Reconnector, Resumption
from stt_server.clients.samples import SampleArray, encode_samples
from stt_server.clients.window import AckWindow
from stt_server.protocols.native_messages import FinishedMessage, ReadyMessage

_PIECE_BYTES = 32 * 2**10
"""Largest binary message: far below the server's limit, and fine enough for the window."""


class Client:
    """One session with a server: audio in, segments and events out.

        options = ClientOptions(sample_rate=16_000, features=("times", "words", "events"))
        async with Client("ws://127.0.0.1:15751", options=options) as client:

            async def speak() -> None:
                async for packet in microphone:
                    await client.send(packet)
                await client.finish()

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(speak())
                async for message in client:
                    if isinstance(message, TranscriptionSegment) and message.is_final:
                        print(message.text)

    Iterating gives every message of the server, beginning with `ready`, except the pongs to the
    client's own pings. It ends after `finished` or `close` and raises `ConnectionLost` at the place
    where the connection was lost. Sending and iterating may run in different tasks, or one after
    the other: messages nobody has read yet are kept up to 16 MiB (`inbox.py`), beyond which the
    socket is not read.

    `send` waits while `window_s` seconds of audio are on their way and not read by the server
    (`window.py`), so a program may send a file as fast as this allows. All waiting ends with
    `ServerSilent` when no message at all has come from the server for `answer_timeout_s`.

    With `ClientOptions(resume=True)` a lost connection is replaced by a new one, nothing is lost
    and nothing comes twice; only `note` tells. Where that fails, `ConnectionLost` is raised.
    """

    def __init__(
        self,
        address: str,
        *,
        api_key: str | None = None,
        options: ClientOptions | None = None,
        connect_timeout_s: float = 10.0,
        answer_timeout_s: float = 120.0,
        window_s: float = 10.0,
        note: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare; `async with` connects.

        Args:
            note: Is told what its user may want to know about the connection.

        Raises:
            BadAddress: `address` makes no sense; `address.py` says what does.
        """
        self._url = websocket_url(address)
        self._api_key = api_key
        self._options = options or ClientOptions()
        self._connect_timeout_s = connect_timeout_s
        self._answer_timeout_s = answer_timeout_s
        frame_bytes = self._options.format.frame_bytes
        second = self._options.sample_rate * frame_bytes
        self._window = AckWindow(limit=round(window_s * second), step=round(window_s * second / 10))
        self._resumption = Resumption(self._window, frame_bytes) if self._options.resume else None
        self._outgoing = Outgoing(self._resumption.kept if self._resumption else None)
        self._reconnector = self._resumption and Reconnector(
            self._resumption,
            self._outgoing,
            self._window,
            connect=self._connect,
            note=note or (lambda _: None),
        )
        self._incoming = Incoming(
            self._window, answer_timeout_s=answer_timeout_s, comeback=self._reconnector
        )
        self._sending = asyncio.Lock()
        self._partial = b""
        self._flushes = 0
        self._finish_sent = False
        self._websocket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def ready(self) -> ReadyMessage:
        """The session's id and effective options.

        Raises:
            ClientClosed: the client was never open.
        """
        if self._incoming.ready is None:
            raise ClientClosed("the client is not open")
        return self._incoming.ready

    async def __aenter__(self) -> Self:
        """Connect, send the options, wait until the server has accepted them.

        Raises:
            ServerUnreachable: nobody answers there.
            Refused: the server does not take this client.
            OptionsRefused: the server cannot honour an option.
        """
        websocket = await self._connect({}, self._connect_timeout_s)
        await self._outgoing.open(websocket)
        self._reader = asyncio.create_task(self._incoming.read(websocket))
        try:
            await self._deliver(self._outgoing.send(self._options.config()))
            await self._incoming.until(
                lambda: self._incoming.ready is not None, timeout_s=self._connect_timeout_s
            )
        except ConnectionLost as error:
            await self.close()
            raise Refused(error.code, error.reason) from error
        except BaseException:
            await self.close()
            raise
        if self._resumption is not None and self._resumption.is_offered:
            make_impatient(websocket)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def send(self, audio: bytes | bytearray | memoryview | SampleArray) -> None:
        """Send audio of any length: an array of samples, or bytes in the session's format.

        Bytes may end in the middle of a sample; its rest is expected in the next call.

        Raises:
            ValueError: the array does not fit the session.
            ConnectionLost, ServerSilent, ClientClosed: it cannot be sent.
        """
        audio_format = self._options.format
        is_array = isinstance(audio, np.ndarray)
        data = encode_samples(audio, audio_format) if is_array else bytes(audio)
        async with self._sending:
            data = self._partial + data
            whole = len(data) - len(data) % audio_format.frame_bytes
            self._partial = data[whole:]
            step = _PIECE_BYTES - _PIECE_BYTES % audio_format.frame_bytes
            for start in range(0, whole, step):
                await self._send_piece(data[start : min(start + step, whole)])

    async def flush(self) -> None:
        """End the open turn now; returns when its final can be read. The session goes on."""
        async with self._sending:
            await self._deliver(self._outgoing.send({"type": "flush"}))
            self._flushes += 1
            mine = self._flushes
        await self._incoming.until(lambda: self._incoming.flushed >= mine)

    async def finish(self) -> FinishedMessage:
        """Say that no audio follows; returns when everything sent is transcribed.

        Iterating ends after the same message. Half a sample at the end of the audio is left out.
        """
        async with self._sending:
            if not self._finish_sent:
                await self._deliver(self._outgoing.send({"type": "finish"}))
                self._finish_sent = True
        await self._incoming.until(lambda: self._incoming.finished is not None)
        assert self._incoming.finished is not None
        return self._incoming.finished

    async def close(self) -> None:
        """Leave now, without waiting for text. Messages that came can still be read."""
        if self._websocket is None or self._reader is None:
            return
        self._incoming.stop(ClientClosed("the client is closed"))
        try:
            await self._websocket.close()
        finally:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            if self._reconnector is not None:
                await self._reconnector.stop()
                await self._websocket.close()  # there may be a new one

    async def __aiter__(self) -> AsyncIterator[ServerMessage]:
        async for text in self.texts():
            yield parse_message(text)

    def texts(self) -> AsyncIterator[str]:
        """What iterating gives, as JSON text as it came. Read a client in one of the two ways."""
        return self._incoming.texts()

    def parse(self, text: str) -> ServerMessage:
        """One of `texts` as an object.

        Raises:
            UnreadableMessage: it is no message of the native protocol.
        """
        return parse_message(text)

    async def _send_piece(self, data: bytes) -> None:
        if self._finish_sent:
            raise ClientClosed("audio cannot follow finish")
        await self._incoming.until(lambda: not self._window.is_full)
        await self._deliver(self._outgoing.send(data))
        mark = self._window.add(len(data))
        if mark is not None:
            await self._deliver(self._outgoing.ping(mark))

    async def _connect(self, query: Mapping[str, str], timeout_s: float) -> ClientConnection:
        self._websocket = await open_websocket(
            with_query(self._url, query) if query else self._url,
            api_key=self._api_key,
            connect_timeout_s=min(timeout_s, self._connect_timeout_s),
            answer_timeout_s=self._answer_timeout_s,
            is_impatient=self._resumption.is_offered if self._resumption else None,
        )
        return self._websocket

    async def _deliver(self, sending: Awaitable[None]) -> None:
        """Write one message; a peer that never reads it ends the connection by the ping timeout."""
        try:
            await sending
        except ConnectionClosed:
            resumption = self._resumption
            if resumption is None or not resumption.is_offered or self._incoming.end is not None:
                # The reader knows why, once it has taken what came before the end; `until` raises.
                await self._incoming.until(lambda: False)

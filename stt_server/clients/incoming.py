"""What comes from the server: one reader of the socket, and everybody who waits for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Protocol

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from stt_server.clients.errors import (
    ClientClosed,
    ClientError,
    ConnectionLost,
    OptionsRefused,
    ServerSilent,
    UnreadableMessage,
)
from stt_server.clients.inbox import Inbox
from stt_server.clients.messages import ServerMessage, parse_message
from stt_server.clients.window import AckWindow
from stt_server.errors import ErrorCode
from stt_server.protocols.native_messages import (
    ErrorResponse,
    FinishedMessage,
    FlushedMessage,
    PongMessage,
    ReadyMessage,
)

_ABOUT_OPTIONS = {
    ErrorCode.INVALID_CONFIG,
    ErrorCode.INVALID_MESSAGE,
    ErrorCode.UNSUPPORTED_SAMPLE_RATE,
    ErrorCode.UNSUPPORTED_CHANNELS,
    ErrorCode.UNSUPPORTED_ENCODING,
}


class Comeback(Protocol):
    """How a session goes on after a lost connection."""

    @property
    def is_offered(self) -> bool:
        """The server has said how."""
        ...

    async def reconnect(self, lost: ConnectionLost) -> ClientConnection:
        """The next connection.

        Raises:
            ConnectionLost: there is none.
        """
        ...

    def take(self, text: str, message: ServerMessage) -> bool:
        """Learn from a message; whether it is new and belongs to the session.

        Raises:
            ConnectionLost: it says that the session cannot go on.
        """
        ...


class Incoming:
    """The server's messages: sorted, kept until they are read, waited for.

    Attributes:
        ready, finished: those messages, once they came.
        flushed: how many flushes were answered.
        end: why nothing follows; `ClientClosed` if that was asked for.
    """

    def __init__(
        self, window: AckWindow, *, answer_timeout_s: float, comeback: Comeback | None = None
    ) -> None:
        """
        Args:
            comeback: How to go on after a lost connection; None: not at all.
        """
        self.ready: ReadyMessage | None = None
        self.finished: FinishedMessage | None = None
        self.flushed = 0
        self.end: ClientError | None = None
        self._window = window
        self._comeback = comeback
        self._inbox = Inbox()
        self._answer_timeout_s = answer_timeout_s
        self._news = asyncio.Event()  # pulsed at every change that somebody may wait for

    async def read(self, websocket: ClientConnection) -> None:
        """Take messages until the connection ends, and from those that follow it."""
        end: ClientError = UnreadableMessage("the client failed to read a message")
        try:
            while True:
                await self._read_to_end(websocket)
                if self.finished is not None:
                    raise ClientClosed("the session is finished")
                code = websocket.close_code
                lost = ConnectionLost(1006 if code is None else code, websocket.close_reason or "")
                if self._comeback is None or self.end is not None:
                    raise lost
                websocket = await self._comeback.reconnect(lost)
        except ClientError as error:
            end = error
        except asyncio.CancelledError:
            end = ClientClosed("the client is closed")
            raise
        finally:
            self.stop(end)

    def stop(self, end: ClientError) -> None:
        """Nothing follows, because of `end`; an earlier reason stands."""
        self.end = self.end or end
        self._pulse()

    async def until(self, reached: Callable[[], bool], *, timeout_s: float | None = None) -> None:
        """Wait for `reached()`; every message of the server starts the time anew.

        Raises:
            ClientError: the reason of the end, which came first.
            ServerSilent: no message for `timeout_s`, by default the answer timeout.
        """
        timeout_s = self._answer_timeout_s if timeout_s is None else timeout_s
        while not reached():
            if self.end is not None:
                raise self.end
            try:
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
            except TimeoutError as error:
                raise ServerSilent(f"no answer from the server for {timeout_s:g} s") from error

    async def texts(self) -> AsyncIterator[str]:
        """Messages as they came; ends after `finished`, raises if the end was not asked for."""
        while True:
            while self._inbox:
                text = self._inbox.get()
                self._pulse()
                yield text
            if self.finished is not None or isinstance(self.end, ClientClosed):
                return
            if self.end is not None:
                raise self.end
            await self._news.wait()

    def _pulse(self) -> None:
        """Wake everybody who waits; they look again for what they wait for."""
        self._news.set()
        self._news.clear()

    async def _read_to_end(self, websocket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                while self._inbox.is_full:
                    await self._news.wait()
                self._take(await websocket.recv())
                self._pulse()

    def _take(self, text: str | bytes) -> None:
        if isinstance(text, bytes):
            raise UnreadableMessage("the server sent a binary message")
        message = parse_message(text)
        if self._comeback is not None and not self._comeback.take(text, message):
            return
        match message:
            case PongMessage(id=int() as mark):
                self._window.acknowledge(mark)
                return
            case ReadyMessage():
                self.ready = message
                if self._comeback is not None and not self._comeback.is_offered:
                    self._comeback = None
            case ErrorResponse() if self.ready is None and message.code in _ABOUT_OPTIONS:
                raise OptionsRefused(message.code, message.error)
            case FlushedMessage():
                self.flushed += 1
            case FinishedMessage():
                self.finished = message
            case _:
                pass
        self._inbox.put(text, message)

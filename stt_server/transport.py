"""Where the web server and a session meet: WebSockets under uvicorn and Starlette."""

import asyncio

from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from stt_server.protocols.base import Message
from stt_server.session import ClientGone

EXTENSION = "stt_server"
"""Where a connection shows itself in the ASGI scope."""
REQUEST_HEAD_S = 10.0
ABORT_AFTER_S = 1.0
"""How long a closed connection may take to empty its buffers."""


class ImpatientHttpProtocol(H11Protocol):
    """Uvicorn's HTTP connection with a bound on how long a request's head may take to come."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self.loop.call_later(REQUEST_HEAD_S, self._give_up)

    def _give_up(self) -> None:
        if self.scope is None:  # pyright: ignore[reportUnnecessaryComparison]
            self.transport.abort()


class PatientWebSocketProtocol(WebSocketsSansIOProtocol):
    """Uvicorn's WebSocket connection with a keepalive that knows about flow control.

    While the server does not read, the peer's pong lies unread behind its audio: as long as
    reading is paused, or anything has come since the ping, the peer is alive. And a peer that
    reads nothing cannot hold its closed connection open.
    """

    _heard_at = 0.0
    pinged_at = 0.0
    """Loop time of the peer's last WebSocket ping."""

    async def run_asgi(self) -> None:
        self.scope.setdefault("extensions", {})[EXTENSION] = {"connection": self}
        await super().run_asgi()

    def handle_ping(self) -> None:
        self.pinged_at = self.loop.time()
        super().handle_ping()

    def pause_writing(self) -> None:
        # Pings are answered below the session: one that reads none of its pongs must not fill
        # the memory with them.
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()

    async def receive(self) -> ASGIReceiveEvent:
        message = await super().receive()
        if not self.writable.is_set():
            self.transport.pause_reading()
        return message

    def data_received(self, data: bytes) -> None:
        self._heard_at = self.loop.time()
        super().data_received(data)

    def keepalive_timeout(self) -> None:
        assert self.ping_timeout is not None
        if self.read_paused or self._heard_at > self.loop.time() - self.ping_timeout:
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        self.loop.call_later(ABORT_AFTER_S, self.transport.abort)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        if not self.disconnected:
            self.loop.call_later(self.close_timeout + ABORT_AFTER_S, self.transport.abort)


class WebSocketTransport:
    """An accepted Starlette WebSocket as a session's `Transport`."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        extension = socket.scope.get("extensions", {}).get(EXTENSION, {})
        self._connection: PatientWebSocketProtocol | None = extension.get("connection")

    @property
    def is_gone(self) -> bool:
        return self._connection is not None and self._connection.disconnected

    @property
    def is_half_closed(self) -> bool:
        return False  # a WebSocket closes both ways at once

    @property
    def pinged_at(self) -> float:
        return self._connection.pinged_at if self._connection is not None else 0.0

    async def receive(self) -> Message | None:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        text = message.get("text")
        return text if text is not None else message["bytes"]

    async def send(self, message: Message) -> None:
        try:
            if isinstance(message, str):
                await self._socket.send_text(message)
            else:
                await self._socket.send_bytes(message)
        except (WebSocketDisconnect, RuntimeError) as error:
            # RuntimeError: the keepalive has closed the connection under us.
            raise ClientGone from error

    async def close(self, code: int, reason: str) -> None:
        try:
            await self._socket.close(code, reason)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise ClientGone from error

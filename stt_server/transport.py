"""Where the web server and a session meet: WebSockets under uvicorn and Starlette."""

import asyncio
import socket as sockets
import sys
from collections.abc import Callable

from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame
from websockets.protocol import State

from stt_server.protocols.base import Message
from stt_server.session import ClientGone

EXTENSION = "stt_server"
"""Where a connection shows itself in the ASGI scope."""
REQUEST_HEAD_S = 10.0
UNREAD_S = 20.0
"""An answer over HTTP of which nothing is read for so long is given up."""
ABORT_AFTER_S = 1.0
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
"""How long a closed connection may take to empty its buffers."""
PROBE = b"are you there"
ON_PURPOSE = frozenset(
    {
        CloseCode.NORMAL_CLOSURE,
        CloseCode.NO_STATUS_RCVD,
        CloseCode.PROTOCOL_ERROR,
        CloseCode.INVALID_DATA,
        CloseCode.MESSAGE_TOO_BIG,
    }
)
"""Closes after which nobody comes back, whoever sent them."""


class ImpatientHttpProtocol(H11Protocol):
    """Uvicorn's HTTP connection with bounds on how long a request's head may take to come, and on
    how long a peer may read nothing of the answer."""

    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self.loop.call_later(REQUEST_HEAD_S, self._give_up)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._stuck is not None:
            self._stuck.cancel()

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
    _forgives = False
    _on_answer: Callable[[], None] | None = None
    pinged_at = 0.0
    """Loop time of the peer's last WebSocket ping."""
    lost_at = 0.0
    """Loop time of the end of the connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.lost = asyncio.Event()
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost_at = self.loop.time()
        self.lost.set()

    @property
    def _is_open(self) -> bool:
        """Neither side has said goodbye, which is told here before the connection ends."""
        is_ending = self.disconnected or self.close_sent
        return not is_ending and self.conn.state is State.OPEN

    def forgive_missing_pongs(self) -> None:
        """Stay open while the peer's system acknowledges what is sent, though its program reads
        nothing."""
        self._forgives = True
        connection = self.transport.get_extra_info("socket")
        if sys.platform == "linux" and connection is not None and self.ping_timeout is not None:
            # Elsewhere the system takes its own time to find out that a peer is gone.
            level, option = sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT
            connection.setsockopt(level, option, round(self.ping_timeout * 1_000))

    def probe(self, on_answer: Callable[[], None]) -> None:
        """Have `on_answer` called once the peer has read everything sent so far."""
        self._on_answer = on_answer
        if self._is_open:
            self.conn.send_ping(PROBE)
            self.transport.write(b"".join(self.conn.data_to_send()))

    def leave(self, code: int, reason: str) -> None:
        """End the connection now, whether the peer still listens or not."""
        if not self._is_open:
            self.transport.abort()
            return
        self.stop_keepalive()
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code})
        self.transport.close()
        self.loop.call_later(ABORT_AFTER_S, self.transport.abort)

    def handle_pong(self, event: Frame) -> None:
        if self._on_answer is not None and bytes(event.data) == PROBE:
            self._on_answer()
        super().handle_pong(event)

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
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # A request that could not be read: uvicorn hears of none.
            self.transport.write(BAD_REQUEST)
            self.transport.close()

    def keepalive_timeout(self) -> None:
        assert self.ping_timeout is not None
        if self._forgives:
            self.pong_timer = self.pending_ping_payload = None
            self.schedule_ping()
            return
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
    """An accepted Starlette WebSocket as a session's `Transport`, and a `Connection` that another
    one can succeed."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        extension = socket.scope.get("extensions", {}).get(EXTENSION, {})
        self._connection: PatientWebSocketProtocol | None = extension.get("connection")

    @property
    def is_gone(self) -> bool:
        return self._connection is not None and self._connection.disconnected

    @property
    def is_detached(self) -> bool:
        return False

    @property
    def is_half_closed(self) -> bool:
        return False  # a WebSocket closes both ways at once

    @property
    def pinged_at(self) -> float:
        return self._connection.pinged_at if self._connection is not None else 0.0

    @property
    def lost_at(self) -> float:
        return self._connection.lost_at if self._connection is not None else 0.0

    @property
    def can_be_succeeded(self) -> bool:
        """Its end can be told from its loss: not so under other web servers."""
        return self._connection is not None

    @property
    def may_return(self) -> bool:
        if self._connection is None:
            return False
        closing = self._connection.conn
        frames = [frame for frame in (closing.close_rcvd, closing.close_sent) if frame is not None]
        return not any(frame.code in ON_PURPOSE for frame in frames)

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

    def forgive_missing_pongs(self) -> None:
        """Keep the connection though its peer may not read for minutes."""
        if self._connection is not None:
            self._connection.forgive_missing_pongs()

    def leave(self, code: int, reason: str) -> None:
        if self._connection is not None:
            self._connection.leave(code, reason)

    def probe(self, on_answer: Callable[[], None]) -> None:
        if self._connection is not None:
            self._connection.probe(on_answer)

    async def wait_until_lost(self) -> bool:
        """Returns whether the peer has answered a close, and so read all that came before it, or
        has left on purpose."""
        if self._connection is None:
            return True
        await self._connection.lost.wait()
        closing = self._connection.conn
        said, ours = closing.close_rcvd, closing.close_sent
        if said is None:
            return False
        # An answer has the code of what it answers; another one crossed ours on the way.
        is_answer = not closing.close_rcvd_then_sent and ours is not None and said.code == ours.code
        return is_answer or said.code in ON_PURPOSE

"""A raw TCP connection that carries messages in lines as a session's `Transport`."""

import asyncio
import socket
from collections import deque
from contextlib import suppress
from typing import Protocol

from stt_server.protocols.base import Message
from stt_server.session import ClientGone

READ_BYTES = 2**16
LINGER_S = 1.0
"""How long a closed connection is read on. To close with unread input would reset it, and the
peer could lose what it has not read yet."""
ABORT_AFTER_S = 1.0
"""How long a closed connection may take to empty its buffers."""
KEEPALIVE_S = 20


class Lines(Protocol):
    """Cuts bytes into lines."""

    def push(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes."""
        ...


class TcpTransport:
    """One accepted connection; a message is a line."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lines: Lines
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._lines = lines
        self._waiting: deque[bytes] = deque()
        self._at_end = False
        self.pinged_at = 0.0
        _keep_alive(writer.get_extra_info("socket"))

    @property
    def is_gone(self) -> bool:
        return self._writer.is_closing()

    @property
    def is_detached(self) -> bool:
        return False

    @property
    def is_half_closed(self) -> bool:
        return self._at_end and not self.is_gone

    async def receive(self) -> Message | None:
        while not self._waiting:
            try:
                data = await self._reader.read(READ_BYTES)
            except OSError:  # reset, or given up by the keepalive
                return None
            if not data:
                self._at_end = True
                return None
            self._waiting.extend(self._lines.push(data))
        return self._waiting.popleft()

    async def send(self, message: Message) -> None:
        try:
            self._writer.write(message.encode() if isinstance(message, str) else message)
            self._writer.write(b"\n")
            await self._writer.drain()
        except OSError as error:
            raise ClientGone from error

    async def close(self, code: int, reason: str) -> None:
        """Send the rest, then FIN. The protocols here have no place for a code and a reason."""
        try:
            self._writer.write_eof()
            async with asyncio.timeout(LINGER_S):
                while await self._reader.read(READ_BYTES):
                    pass
        except (OSError, TimeoutError):
            pass
        finally:
            self.release()

    def release(self) -> None:
        """Give the connection back, also one that ended without `close`."""
        if self._writer.is_closing():
            return
        self._writer.close()
        # A peer that reads nothing must not hold what waits for it.
        asyncio.get_running_loop().call_later(ABORT_AFTER_S, self._writer.transport.abort)


def _keep_alive(connection: socket.socket | None) -> None:
    """Let the system find out when the peer's machine or network has gone."""
    if connection is None:
        return
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), KEEPALIVE_S)
        if hasattr(socket, "TCP_KEEPCNT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1)

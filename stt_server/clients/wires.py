"""Connections that carry whole messages: a WebSocket, or lines over raw TCP."""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable
from typing import Protocol

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from stt_server.clients.errors import (
    ConnectionLost,
    ServerSilent,
    ServerUnreachable,
    UnreadableMessage,
)

_MARK_BYTES = 2**16
_MARKS = 8
"""Audio under way that the server has not read: half a MiB, 16 s as PCM16."""
_MAX_LINE_BYTES = 16 * 2**20


class Wire(Protocol):
    """One open connection."""

    async def send(self, message: str | bytes) -> None:
        """Send one message; waits while too much is under way.

        Raises:
            ConnectionLost, ServerSilent: it cannot be sent.
        """
        ...

    async def receive(self) -> str | None:
        """The next message; None at an end that the server meant.

        Raises:
            ConnectionLost: the connection ended otherwise.
            UnreadableMessage: what came is no text.
        """
        ...

    async def close(self) -> None: ...


class WebSocketWire:
    """Paces itself by pings: the server answers one when it has read what was sent before it."""

    def __init__(self, socket: ClientConnection, *, answer_timeout_s: float) -> None:
        self._socket = socket
        self._answer_timeout_s = answer_timeout_s
        self._marks: deque[Awaitable[float]] = deque()
        self._unmarked = 0

    async def send(self, message: str | bytes) -> None:
        try:
            while len(self._marks) >= _MARKS:
                async with asyncio.timeout(self._answer_timeout_s):
                    await self._marks.popleft()
            await self._socket.send(message)
            self._unmarked += len(message)
            if self._unmarked >= _MARK_BYTES:
                self._unmarked = 0
                self._marks.append(await self._socket.ping())
        except TimeoutError as error:
            raise ServerSilent(
                f"no answer from the server for {self._answer_timeout_s:g} s"
            ) from error
        except ConnectionClosed as error:
            raise self._lost() from error

    async def receive(self) -> str | None:
        try:
            message = await self._socket.recv()
        except ConnectionClosed as error:
            if self._socket.close_code == 1000:
                return None
            raise self._lost() from error
        if isinstance(message, bytes):
            raise UnreadableMessage("the server sent a binary message")
        return message

    async def close(self) -> None:
        await self._socket.close()

    def _lost(self) -> ConnectionLost:
        code = self._socket.close_code
        return ConnectionLost(1006 if code is None else code, self._socket.close_reason or "")


class TcpWire:
    """A message is a line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(
        cls, host: str, port: int, *, api_key: str | None, connect_timeout_s: float
    ) -> "TcpWire":
        """Connect and present the key, if there is one.

        Raises:
            ServerUnreachable: nobody answers there.
        """
        try:
            async with asyncio.timeout(connect_timeout_s):
                reader, writer = await asyncio.open_connection(host, port, limit=_MAX_LINE_BYTES)
        except TimeoutError as error:
            raise ServerUnreachable(f"no answer from {host} port {port}") from error
        except OSError as error:
            why = error.strerror or error
            raise ServerUnreachable(f"cannot reach {host} port {port}: {why}") from error
        wire = cls(reader, writer)
        if api_key is not None:
            await wire.send(json.dumps({"type": "auth", "token": api_key}))
        return wire

    async def send(self, message: str | bytes) -> None:
        try:
            self._writer.write(message.encode() if isinstance(message, str) else message)
            self._writer.write(b"\n")
            await self._writer.drain()
        except OSError as error:
            raise ConnectionLost(1006, "") from error

    async def receive(self) -> str | None:
        try:
            line = await self._reader.readline()
        except OSError as error:
            raise ConnectionLost(1006, "") from error
        except ValueError as error:
            raise UnreadableMessage("the server sent a line without an end") from error
        return line.decode(errors="replace") if line else None

    async def close(self) -> None:
        self._writer.close()

"""What goes to the server: one writer of the socket, or of the sockets that follow each other."""

import asyncio
import json
from typing import Any

from websockets.asyncio.client import ClientConnection

from stt_server.clients.errors import ClientClosed
from stt_server.clients.unacknowledged import Unacknowledged


class Outgoing:
    """Writes messages in the order in which they are given."""

    def __init__(self, kept: Unacknowledged | None) -> None:
        """
        Args:
            kept: Remembers messages until the server has them; None: they go out once.
        """
        self._kept = kept
        self._writing = asyncio.Lock()
        self._websocket: ClientConnection | None = None

    def remember_nothing(self) -> None:
        """There is no other socket to come: what is written goes out once."""
        self._kept = None

    async def open(self, websocket: ClientConnection) -> None:
        """Write to `websocket` from now on, first what was written and is remembered.

        Raises:
            ConnectionClosed: the connection is lost.
        """
        async with self._writing:
            self._websocket = websocket
            for message in self._kept or ():
                await websocket.send(message)

    async def send(self, message: dict[str, Any] | bytes) -> None:
        """Write a control message or audio, and remember it if need be.

        Raises:
            ConnectionClosed: the connection is lost.
        """
        data = message if isinstance(message, bytes) else _json(message)
        async with self._writing:
            websocket = self._opened
            if self._kept is not None:
                self._kept.add(data)
            await websocket.send(data)

    async def ping(self, mark: int) -> None:
        """Ask the server to tell when it has read what was sent so far.

        Raises:
            ConnectionClosed: the connection is lost.
        """
        async with self._writing:
            await self._opened.send(_json({"type": "ping", "id": mark}))

    @property
    def _opened(self) -> ClientConnection:
        if self._websocket is None:
            raise ClientClosed("the client is not open")
        return self._websocket


def _json(message: dict[str, Any]) -> str:
    return json.dumps(message, ensure_ascii=False)

"""A network that fails: TCP connections that are cut off after so many bytes."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """How much passes before everything under way is lost, in both directions."""

    up_bytes: int | None = None
    """From the client to the server."""
    down_bytes: int | None = None
    is_silent: bool = False
    """Nobody is told: nothing passes any more, and the connections stay open."""


class CuttingProxy:
    """Forwards to one server. The first connection suffers the first cut, and so on; when there
    are no more cuts, connections last."""

    def __init__(self, server: tuple[str, int], cuts: Iterable[Cut]) -> None:
        self.url = ""
        self.is_open = True
        """Set to false, nobody new gets through."""
        self.cuts_left = list(cuts)
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [writer]
        try:
            if self.is_open:
                there = await asyncio.open_connection(*self._server)
                writers.append(there[1])
                await self._forward((reader, writer), there)
        except asyncio.CancelledError:
            return  # the test is over
        finally:
            for end in writers:
                end.transport.abort()
            self._tasks.discard(task)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _forward(
        self,
        here: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        there: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        cut = self.cuts_left.pop(0) if self.cuts_left else Cut()
        ways = [
            asyncio.create_task(_pump(here[0], there[1], cut.up_bytes)),
            asyncio.create_task(_pump(there[0], here[1], cut.down_bytes)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if any(way.done() and way.result() for way in ways):
                if cut.is_silent:
                    ways.append(asyncio.create_task(asyncio.Event().wait()))
                    for way in ways[:2]:
                        way.cancel()
                else:
                    _reset(here[1])
                    _reset(there[1])
            await asyncio.wait(ways)
        finally:
            for way in ways:
                way.cancel()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None
) -> bool:
    """Whether the limit was reached, rather than the end of the connection."""
    try:
        while data := await reader.read(2**16):
            if limit is not None and len(data) >= limit:
                writer.write(data[:limit])
                return True
            limit = None if limit is None else limit - len(data)
            writer.write(data)
            await writer.drain()
        writer.close()
    except OSError:
        pass
    return False


def _reset(writer: asyncio.StreamWriter) -> None:
    """Vanish: no goodbye, and what is still in the buffers is lost."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def cutting_proxy(
    server: tuple[str, int], cuts: Iterable[Cut]
) -> AsyncIterator[CuttingProxy]:
    """Listens on a port of its own; `url` is where."""
    proxy = CuttingProxy(server, cuts)
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as listening:
        proxy.url = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        try:
            yield proxy
        finally:
            await proxy.stop()

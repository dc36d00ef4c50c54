"""Sessions come and go in numbers, most of them rudely; nothing of them stays."""

import asyncio
import gc
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psutil
import uvicorn
from starlette.applications import Starlette

from stt_server import Settings, create_app
from stt_server.transport import PatientWebSocketProtocol
from tests.raw import BINARY, TEXT, frame, raw_peer
from tests.server import ServerProcess, run_server, wait_until
from tests.speech import pcm
from tests.wire import open_client, transcribe

ROUND = 100
"""Sessions per measurement."""


def talk_and_vanish(address: tuple[str, int], count: int) -> None:
    """Five at a time, each cut off in another way while the server is at work on its audio."""
    for begin in range(0, count, 5):
        for way in range(begin, begin + 5):
            with raw_peer(address) as peer:
                peer.upgrade()
                peer.send(frame(BINARY, pcm("demo")[: 32_000 + 997 * (way % 7)]))
                match way % 5:
                    case 0:
                        peer.reset()
                    case 1:
                        peer.send(frame(TEXT, b'{"samples":"AAA'), frame(TEXT, b"x" * 9)[:7])
                    case 2:
                        peer.send(frame(BINARY, b"\0" * 3))
                        peer.socket.shutdown(socket.SHUT_WR)
                    case 3:
                        peer.receive()
                    case _:
                        peer.send(frame(TEXT, b'{"type":"finish"}'))


def settle(server: ServerProcess) -> psutil.Process:
    wait_until(lambda: server.open_sessions() == 0, what="all sessions gone")
    assert server.active_sessions() == 0
    return server.usage()


def test_vanished_sessions_leave_no_memory_files_or_threads() -> None:
    """A session's model state and audio are about 0.3 MiB, so 200 that stayed would be 60 MiB;
    what the allocator keeps back varies by a few."""
    with run_server() as server:
        # Arenas, thread pools and code paths fill up during the first round.
        talk_and_vanish(server.address, ROUND)
        usage = settle(server)
        files, threads = usage.num_fds(), usage.num_threads()
        memory = usage.memory_info().rss
        talk_and_vanish(server.address, 2 * ROUND)
        settle(server)
        wait_until(lambda: usage.num_fds() <= files, what="all sockets closed")
        assert usage.num_threads() <= threads
        assert usage.memory_info().rss - memory < 12 * 2**20
        assert not [event for event in server.events if event["level"] == "ERROR"]
        closed = [event for event in server.events if event["event"] == "session.closed"]
        assert len(closed) == 3 * ROUND


async def test_finished_sessions_leave_nothing_either() -> None:
    with run_server() as server:
        for _ in range(10):
            await transcribe(server.url, pcm("yes"))
        usage = settle(server)
        files, threads, memory = usage.num_fds(), usage.num_threads(), usage.memory_info().rss
        for _ in range(10):
            async with asyncio.TaskGroup() as group:
                for _ in range(10):
                    group.create_task(transcribe(server.url, pcm("yes")))
        settle(server)
        wait_until(lambda: usage.num_fds() <= files, what="all sockets closed")
        assert usage.num_threads() <= threads
        assert usage.memory_info().rss - memory < 12 * 2**20


async def test_no_task_outlives_its_session() -> None:
    """The app in this loop, so that its tasks can be seen."""
    app = create_app(Settings(model="scripted"))  # pyright: ignore[reportArgumentType]
    async with serving(app) as url:
        await transcribe(url, pcm("yes"))
        before = running_tasks()
        for index in range(30):
            async with open_client(url) as client:
                await client.send(pcm("demo")[:64_000])
                if index % 3 == 0:
                    client.socket.transport.abort()
                elif index % 3 == 1:
                    await client.finish()
        await poll(lambda: not app.state.service.admission.active)
        await poll(lambda: running_tasks() <= before)
        assert app.state.service.engine.open_streams == 0


@asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[str]:
    """The address of the native protocol of an app that runs in this loop."""
    config = uvicorn.Config(
        app, port=0, ws=PatientWebSocketProtocol, log_config=None, lifespan="on"
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await poll(lambda: app.state.service.state == "ready")
            yield f"ws://127.0.0.1:{listener.getsockname()[1]}/ws/transcribe"
        finally:
            server.should_exit = True
            await task


async def poll(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the app has no event for it
            await asyncio.sleep(0.02)


def running_tasks() -> Counter[str]:
    """How many tasks of each kind run, less this one."""
    gc.collect()
    current = asyncio.current_task()
    return Counter(
        task.get_coro().__qualname__ for task in asyncio.all_tasks() if task is not current
    )

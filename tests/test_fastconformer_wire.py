"""The FastConformer protocol, `docs/protocols/fastconformer.md`."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.server import ServerProcess, free_port, run_server
from tests.speech import at_rate, clip, encode, pcm, silence, yes_and_pause

INIT = '{"op":"init","sid":"demo1","sr":16000}'
CLOSE = '{"op":"close","sid":"demo1"}'


@pytest.fixture(scope="module")
def old_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(old_port: int) -> Iterator[ServerProcess]:
    with run_server("--fastconformer-init-s=1", f"--fastconformer-port={old_port}") as process:
        yield process


@asynccontextmanager
async def opened(
    server: ServerProcess, *, init: str | bytes | None = INIT, query: str = ""
) -> AsyncIterator[ClientConnection]:
    url = server.url.replace("/ws/transcribe", "/ws/fastconformer")
    async with connect(url + query, compression=None, proxy=None) as socket:
        if init is not None:
            await socket.send(init)
        yield socket


async def rest(socket: ClientConnection) -> list[dict[str, Any]]:
    """Messages until the server closes."""
    messages: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(60.0):
            while True:
                messages.append(json.loads(await socket.recv()))
    except ConnectionClosed:
        return messages


async def send(socket: ClientConnection, data: bytes, packet_bytes: int = 640) -> None:
    for begin in range(0, len(data), packet_bytes):
        await socket.send(data[begin : begin + packet_bytes])


async def test_messages_have_exactly_these_fields(server: ServerProcess) -> None:
    before = time.time()
    async with opened(server) as socket:
        await send(socket, yes_and_pause())
        await socket.send(CLOSE)
        messages = await rest(socket)
    assert socket.close_code == 1000
    assert {tuple(message) for message in messages} == {("op", "sid", "text", "final", "ts")}
    assert {(message["op"], message["sid"]) for message in messages} == {("interim", "demo1")}
    times = [message["ts"] for message in messages]
    assert times == sorted(times)
    assert before * 1_000 - 1 <= times[0] <= times[-1] <= time.time() * 1_000 + 1
    assert all(isinstance(t, int) for t in times)


async def test_text_goes_on_over_turns(server: ServerProcess) -> None:
    async with opened(server) as socket:
        await send(socket, yes_and_pause() + yes_and_pause())
        await socket.send(CLOSE)
        messages = await rest(socket)
    finals = [message["text"] for message in messages if message["final"]]
    assert len(finals) == 3
    assert finals[1] == finals[2] == f"{finals[0]} {finals[0]}"
    first = next(i for i, message in enumerate(messages) if message["final"])
    assert messages[first + 1]["text"].startswith(finals[0] + " ")


async def test_last_message_comes_within_a_second_of_the_close(server: ServerProcess) -> None:
    """Published clients listen no longer."""
    async with opened(server) as socket:
        for begin in range(0, len(pcm("yes")), 640):
            await socket.send(pcm("yes")[begin : begin + 640])
            await asyncio.sleep(0.02)
        await socket.send(CLOSE)
        async with asyncio.timeout(1.0):
            messages = await rest(socket)
    assert messages[-1]["final"] is True
    assert messages[-1]["text"].startswith("the quick")


@pytest.mark.parametrize(
    "init",
    [
        '{"op":"close","sid":"demo1"}',
        '{"op":"init","sid":"demo1","sr":1}',
        "hello",
        b"\0" * 640,
        None,
    ],
)
async def test_anything_but_an_init_is_a_bad_init(server: ServerProcess, init: Any) -> None:
    async with opened(server, init=init) as socket:
        assert await rest(socket) == []
    assert (socket.close_code, socket.close_reason) == (1002, "Bad init")


async def test_two_sessions_may_have_the_same_sid(server: ServerProcess) -> None:
    async with opened(server) as one, opened(server) as two:
        for socket in (one, two):
            await send(socket, yes_and_pause())
            await socket.send(CLOSE)
        texts = [(await rest(socket))[-1]["text"] for socket in (one, two)]
    assert texts[0] == texts[1] != ""


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
async def test_rates_are_resampled(server: ServerProcess, rate: int) -> None:
    async with opened(server, init=json.dumps({"op": "init", "sid": "a", "sr": rate})) as socket:
        await send(socket, encode(at_rate(clip("yes"), rate), "pcm16"), rate // 25)
        await socket.send(CLOSE)
        messages = await rest(socket)
    assert messages[-1]["text"].startswith("the quick")


async def test_a_packet_of_odd_length_is_dropped_alone(server: ServerProcess) -> None:
    data = yes_and_pause()
    async with opened(server) as socket:
        await send(socket, data[:12_800])
        await socket.send(b"\1" * 641)
        await send(socket, data[12_800:])
        await socket.send(CLOSE)
        messages = await rest(socket)
    errors = [message for message in messages if message["op"] == "error"]
    assert [list(error) for error in errors] == [["op", "sid", "code", "message"]]
    assert errors[0]["code"] == "INVALID_AUDIO"
    async with opened(server) as socket:
        await send(socket, data)
        await socket.send(CLOSE)
        clean = await rest(socket)
    assert messages[-1]["text"] == clean[-1]["text"]


@pytest.mark.parametrize(
    ("query", "finals"), [("", 2), ("?silence_ms=2000", 1), ("?silence_ms=400", 2)]
)
async def test_silence_that_ends_a_turn(server: ServerProcess, query: str, finals: int) -> None:
    async with opened(server, query=query) as socket:
        await send(socket, pcm("yes") + encode(silence(1.2), "pcm16"))
        await socket.send(CLOSE)
        messages = await rest(socket)
    assert sum(message["final"] for message in messages) == finals


@pytest.mark.parametrize("value", ["99", "soon", ""])
async def test_bad_silence_in_the_url_closes(server: ServerProcess, value: str) -> None:
    async with opened(server, query=f"?silence_ms={value}") as socket:
        (error,) = await rest(socket)
    assert (error["op"], error["code"]) == ("error", "INVALID_CONFIG")
    assert socket.close_code == 4400


async def test_a_fast_file_gets_at_most_fifty_interims_a_second(server: ServerProcess) -> None:
    async with opened(server) as socket:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(rest(socket))
            await send(socket, pcm("demo") * 6, 6_400)
            await socket.send(CLOSE)
        # Finals are never left out.
        times = [message["ts"] for message in reading.result() if not message["final"]]
    busiest = max(sum(begin <= ts < begin + 1_000 for ts in times) for begin in times)
    assert 1 < busiest <= 50


@pytest.mark.parametrize("path", ["", "/", "/ws/parakeet", "/any"])
async def test_old_port_speaks_it_at_every_path(
    server: ServerProcess, old_port: int, path: str
) -> None:
    async with connect(f"ws://127.0.0.1:{old_port}{path}", proxy=None) as socket:
        await socket.send(INIT)
        await socket.send(CLOSE)
        (last,) = await rest(socket)
    assert (last["text"], last["final"]) == ("", True)

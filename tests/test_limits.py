"""Limits in time: idle clients, long sessions, keepalive, and servers that are busy."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.raw import BINARY, CLOSE, PING, TEXT, frame, raw_peer
from tests.server import ServerProcess, run_server, wait_until, with_engine
from tests.speech import pcm
from tests.wire import NativeClient, is_final, keep_talking, open_client

BUSY = with_engine("ScriptedEngine(Script(step_s=0.25))")
"""About as slow as speech itself: each packet of a turn takes it a quarter of a second."""
ONE_TURN = pcm("demo")[: 5 * 32_000]
QUICK_KEEPALIVE = ("--limits-ping-interval-s=0.5", "--limits-ping-timeout-s=0.5")


@pytest.fixture(scope="module")
def impatient() -> Iterator[ServerProcess]:
    """A server that soon calls a session idle."""
    with run_server("--limits-idle-timeout-s=1") as process:
        yield process


@pytest.fixture(scope="module")
def pinging() -> Iterator[ServerProcess]:
    """A server with a quick keepalive."""
    with run_server(*QUICK_KEEPALIVE) as process:
        yield process


@pytest.fixture(scope="module")
def brief() -> Iterator[ServerProcess]:
    """A server with short sessions."""
    with run_server("--limits-max-session-s=1.5") as process:
        yield process


async def test_idle_session_is_ended_with_its_reason(impatient: ServerProcess) -> None:
    async with open_client(impatient.url) as client:
        began = time.monotonic()
        messages = await client.receive_all()
        elapsed = time.monotonic() - began
    assert [message["code"] for message in messages] == ["IDLE_TIMEOUT"]
    assert list(messages[0]) == ["error", "code"]
    assert client.close_code == 4408
    assert 0.9 < elapsed < 4.0


async def test_idle_session_gets_the_final_of_its_open_turn(impatient: ServerProcess) -> None:
    async with open_client(impatient.url + "?stall_ms=0") as client:
        await client.send_binary(pcm("yes"))
        messages = await client.receive_all()
    assert is_final(messages[-2])
    assert messages[-1]["code"] == "IDLE_TIMEOUT"
    assert client.close_code == 4408


async def test_any_message_keeps_a_session_from_being_idle(impatient: ServerProcess) -> None:
    async def send(client: NativeClient, kind: str) -> None:
        match kind:
            case "JSON ping":
                await client.send({"type": "ping"})
            case "protocol ping":
                await (await client.socket.ping())
            case "empty packet":
                await client.send(b"")
            case _:
                await client.send("{")

    async def stay(kind: str) -> None:
        async with open_client(impatient.url) as client:
            for _ in range(6):
                await asyncio.sleep(0.4)
                await send(client, kind)
            assert (await client.finish())[-1]["type"] == "finished"

    async with asyncio.TaskGroup() as group:
        for kind in ("JSON ping", "protocol ping", "empty packet", "bad message"):
            group.create_task(stay(kind), name=kind)


async def test_waiting_for_a_busy_server_is_not_idle() -> None:
    """All is sent at once; the engine needs several idle timeouts for it."""
    with run_server("--limits-idle-timeout-s=1", command=BUSY) as server:
        async with open_client(server.url + "?features=events&silence_ms=5000") as client:
            await client.ask({"type": "config", "endpointing": {"stallMs": 200}}, "ready")
            await client.send_binary(ONE_TURN)
            messages = await client.receive_all()
        reasons = [m["reason"] for m in messages if m.get("type") == "endOfTurn"]
        # By itself, because the timeout came after it.
        assert reasons == ["stall"]
        assert messages[-1]["code"] == "IDLE_TIMEOUT"


async def test_session_limit_flushes_what_was_said(brief: ServerProcess) -> None:
    async with open_client(brief.url + "?stall_ms=0&features=events") as client:
        await client.send_binary(pcm("yes"))
        messages = await client.receive_all()
    assert is_final(messages[-3])
    assert messages[-2] == {"type": "endOfTurn", "turnId": 0, "reason": "finish"}
    assert messages[-1]["code"] == "SESSION_LIMIT"
    assert messages[-1]["fatal"] is True
    assert client.close_code == 4409


async def test_session_limit_holds_for_a_client_that_keeps_talking(brief: ServerProcess) -> None:
    async with open_client(brief.url) as client:
        messages = await keep_talking(client)
    assert client.close_code == 4409
    assert is_final(messages[-2])


async def test_paused_reading_does_not_let_the_keepalive_end_a_session() -> None:
    """The client's pongs lie behind its audio for much longer than the server waits for one."""
    flags = (*QUICK_KEEPALIVE, "--limits-max-backlog-s=1")
    with run_server(*flags, command=BUSY) as server:
        async with open_client(server.url) as client:
            began = time.monotonic()
            await client.send_binary(ONE_TURN, 8_000)
            messages = await client.finish()
            elapsed = time.monotonic() - began
        assert elapsed > 2.5
        assert client.close_code == 1000
        assert messages[-1] == {"type": "finished", "audioSeconds": 5.0, "turns": 1}


async def test_quiet_client_that_answers_pings_stays(pinging: ServerProcess) -> None:
    async with open_client(pinging.url, ping_interval=None) as client:
        await asyncio.sleep(2.0)
        assert await client.finish()
    assert client.close_code == 1000


def test_peer_that_answers_nothing_is_closed(pinging: ServerProcess) -> None:
    with raw_peer(pinging.address) as peer:
        peer.upgrade()
        began = time.monotonic()
        opcodes = [peer.receive()[0] for _ in range(2)]
        elapsed = time.monotonic() - began
    assert opcodes == [PING, CLOSE]
    assert 0.9 < elapsed < 3.0
    wait_until(lambda: pinging.open_sessions() == 0, what="session gone")


def test_peer_that_sends_but_never_answers_pings_stays(pinging: ServerProcess) -> None:
    """Anything it sends shows that it lives: some clients answer late, behind their audio."""
    with raw_peer(pinging.address) as peer:
        peer.upgrade()
        for _ in range(10):
            peer.send(frame(BINARY, bytes(3_200)))
            time.sleep(0.2)
        peer.send(frame(TEXT, b'{"type":"finish"}'))
        while (received := peer.receive())[0] == PING:
            pass
    assert b"finished" in received[1]


async def test_failed_turn_is_reported_and_the_next_one_is_heard() -> None:
    command = with_engine("ScriptedEngine(Script(failing_turns=frozenset({0})))")
    with run_server(command=command) as server:
        async with open_client(server.url) as client:
            await client.send_binary(pcm("demo"))
            messages = await client.finish()
        errors = [message for message in messages if "error" in message]
        assert [error["code"] for error in errors] == ["TRANSCRIPTION_ERROR"]
        assert len(client.finals) == 3
        # The first words of the broken turn were heard before it broke.
        assert client.finals[0].startswith("the quick")
        assert messages[-1]["turns"] == 3


async def test_internal_failure_is_told_without_its_text() -> None:
    before = """
class Broken(ScriptedEngine):
    async def open(self, options):
        raise ZeroDivisionError("secret detail")
"""
    with run_server(command=with_engine("Broken()", before=before)) as server:
        async with open_client(server.url) as client:
            await client.send_binary(pcm("yes"))
            messages = await client.receive_all()
        assert [message["code"] for message in messages] == ["INTERNAL_ERROR"]
        assert "secret" not in str(messages)
        assert client.close_code == 1011
        assert "secret detail" in server.stderr
        assert server.open_sessions() == 0


async def test_backlog_warning_comes_with_events_only(server: ServerProcess) -> None:
    audio = pcm("demo") * 12
    async with open_client(server.url + "?features=events") as client:
        await client.send_binary(audio, 2**20)
        messages = await client.finish(60.0)
    warnings = [message for message in messages if message.get("type") == "warning"]
    assert warnings
    assert all(message["code"] == "BACKLOG" for message in warnings)
    assert all(message["seconds"] > 5 for message in warnings)

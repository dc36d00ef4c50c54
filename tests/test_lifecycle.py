"""Starting, stopping and being full."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from stt_server.settings import Settings
from tests.server import (
    MODULE,
    ROOT,
    SCRIPTED,
    ServerProcess,
    free_port,
    run_server,
    wait_until,
    with_engine,
)
from tests.speech import pcm
from tests.wire import is_final, keep_talking, open_client

SCRIPT = Path(sys.executable).with_name("stt-server")


def run_to_end(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30, check=False
    )


# Starting


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(MODULE, id="python -m stt_server"),
        pytest.param((sys.executable, "stt_server/server.py"), id="python stt_server/server.py"),
        pytest.param(
            (str(SCRIPT),),
            id="stt-server",
            marks=pytest.mark.skipif(not SCRIPT.exists(), reason="not installed"),
        ),
    ],
)
def test_every_documented_command_starts_it(command: tuple[str, ...]) -> None:
    port = free_port()
    flags = ["--model", "scripted", "--log-format", "json", "--port", str(port)]
    with run_server(*flags, "--host", "0.0.0.0", command=command) as server:
        assert server.address[1] == port
        assert server.get("/status").status_code == 200
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_default_port_is_15751() -> None:
    assert Settings.model_fields["port"].default == 15_751


def test_environment_sets_what_flags_do_not() -> None:
    port = free_port()
    env = {
        "STT_MODEL": "scripted",
        "STT_PORT": str(port),
        "STT_DEVICE": "cpu",
        "STT_LOG__FORMAT": "json",
        "STT_LIMITS__MAX_SESSIONS": "7",
        "ASR_STEP_MS": "10",
        "ASR_MAX_BATCH": "9",
    }
    with run_server(command=MODULE, env=env) as server:
        assert server.address[1] == port
        assert server.get("/health").json()["max_sessions"] == 7
        (told,) = [event for event in server.events if event["event"] == "settings.old_variables"]
        assert told["level"] == "WARNING"
        assert told["same_as"] == "STT_NEMO__TICK_MS=10 STT_MAX_STREAMS=9"
    with run_server("--limits-max-sessions=3", env=env) as server:
        assert server.address[1] != port
        assert server.get("/health").json()["max_sessions"] == 3


def test_without_a_key_only_this_machine_may_connect(server: ServerProcess) -> None:
    assert server.wait_for_event("server.listening")["url"].startswith("ws://127.0.0.1:")
    with run_server("--auth-api-keys=k") as locked:
        assert locked.wait_for_event("server.listening")["url"].startswith("ws://0.0.0.0:")


def test_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run_to_end(*MODULE, "--model", "scripted", "--port", port)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.count(port) == 1
    assert "in use; set --port, or is another stt-server running?" in line


def test_warnings_tell_what_an_operator_may_not_have_meant() -> None:
    env = {"STT_API_KEY": "k", "STT_ENDPOINTING_SILENCE_MS": "700"}
    with run_server("--host", "0.0.0.0", env=env) as server:
        told = {event["event"]: event for event in server.events if event["level"] == "WARNING"}
    assert told["settings.unknown_variable"]["hint"] == "did you mean STT_ENDPOINTING__SILENCE_MS?"
    assert "STT_AUTH__API_KEYS" in told["settings.client_variable"]["hint"]
    assert "auth.api_keys" in told["server.open"]["why"]


def test_a_server_with_keys_warns_of_nothing() -> None:
    with run_server("--auth-api-keys=k", env={"STT_API_KEY": "k"}) as server:
        assert [event["event"] for event in server.events if event["level"] == "WARNING"] == []


@pytest.mark.parametrize(
    ("flags", "env", "said"),
    [
        (["--port", "70000"], {}, "port"),
        (["--port", "many"], {}, "port"),
        (["--model", "hal9000"], {}, "model"),
        (["--limits-drain-s", "-1"], {}, "drain_s"),
        (["--endpointing-onset", "0.1", "--endpointing-offset", "0.9"], {}, "offset"),
        (["--no-such-flag"], {}, "--no-such-flag"),
        (["--config", "/does/not/exist.toml"], {}, "/does/not/exist.toml"),
        ([], {"STT_PORT": "many"}, "port"),
        ([], {"STT_DEVICE": "abacus"}, "device"),
        ([], {"STT_LIMITS__NO_SUCH": "1"}, "no_such"),
    ],
)
def test_bad_settings_are_one_clear_line(flags: list[str], env: dict[str, str], said: str) -> None:
    result = run_to_end(*MODULE, *flags, **env)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert said in result.stderr.strip().splitlines()[-1]


def test_engine_that_cannot_start_ends_the_server_with_its_reason() -> None:
    before = """
from stt_server.engine.base import EngineUnavailable
class Missing(ScriptedEngine):
    async def start(self):
        raise EngineUnavailable("checkpoint is missing; run `stt-server models pull it`")
"""
    with run_server(command=with_engine("Missing()", before=before), wait=False) as server:
        assert server.wait() == 1
        errors = [event for event in server.events if event["level"] == "ERROR"]
    assert len(errors) == 1
    assert "models pull it" in str(errors[0])
    assert "Traceback" not in server.stderr


async def test_while_the_model_loads_the_server_lives_but_is_not_ready() -> None:
    before = """
import asyncio
class Slow(ScriptedEngine):
    async def start(self):
        await asyncio.sleep(2.0)
"""
    with run_server(command=with_engine("Slow()", before=before), wait=False) as server:
        server.url = server.wait_for_event("server.listening")["url"]
        health = server.get("/health")
        assert health.status_code == 200
        assert health.json()["status"] == "healthy"
        assert health.json()["model_loaded"] is False
        ready = server.get("/ready")
        assert ready.status_code == 503
        assert ready.json()["reason"]
        assert {**ready.json(), "reason": 0} == {**health.json(), "reason": 0}
        with pytest.raises(InvalidStatus) as refused:
            async with open_client(server.url):
                pass
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "1"
        server.wait_until_ready()
        assert server.get("/health").json()["model_loaded"] is True
        async with open_client(server.url) as client:
            await client.finish()


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_lets_the_live_turn_end(number: signal.Signals) -> None:
    with run_server() as server:
        async with open_client(server.url) as client:
            await client.send_binary(pcm("yes"))
            await client.receive()  # the turn is open
            server.signal(number)
            server.wait_for_event("server.draining")
            assert server.get("/health").status_code == 200
            ready = server.get("/ready")
            assert ready.status_code == 503
            assert ready.json()["reason"] == "shutting down"
            with pytest.raises(InvalidStatus) as refused:
                async with open_client(server.url):
                    pass
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["Retry-After"] == "1"
            messages = await client.receive_all()
        # By the stall rule: the signal itself does not cut a turn.
        assert is_final(messages[-2])
        assert messages[-1]["code"] == "SERVER_SHUTDOWN"
        assert client.close_code == 1012
        assert server.wait() == 0
        assert "Traceback" not in server.stderr


async def test_idle_sessions_are_closed_at_once() -> None:
    with run_server() as server:
        async with open_client(server.url) as client:
            await client.ask({"type": "ping"}, "pong")
            server.signal(signal.SIGTERM)
            began = time.monotonic()
            messages = await client.receive_all()
        assert [message["code"] for message in messages] == ["SERVER_SHUTDOWN"]
        assert client.close_code == 1012
        assert server.wait() == 0
        assert time.monotonic() - began < 4.0


async def test_turn_that_does_not_end_is_ended_at_the_deadline() -> None:
    with run_server("--limits-drain-s=1") as server:
        async with open_client(server.url) as client:
            await client.send(pcm("demo")[: 32_000 * 2])
            await client.receive()
            server.signal(signal.SIGTERM)
            messages = await keep_talking(client)
        assert is_final(messages[-2])
        assert client.close_code == 1012
        assert server.wait() == 0


async def test_hung_engine_does_not_hold_up_the_end() -> None:
    """Nothing more comes of it; the client is told to reconnect all the same."""
    command = with_engine("ScriptedEngine(Script(step_s=3600))")
    with run_server("--limits-drain-s=1", command=command) as server:
        async with open_client(server.url + "?features=events") as client:
            await client.send_binary(pcm("yes"))
            await client.receive()
            began = time.monotonic()
            server.signal(signal.SIGTERM)
            messages = await client.receive_all()
        assert messages[-1]["code"] == "SERVER_SHUTDOWN"
        assert client.close_code == 1012
        assert server.wait() == 0
        assert time.monotonic() - began < 6.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_ends_at_once(number: signal.Signals) -> None:
    with run_server() as server:
        async with open_client(server.url + "?stall_ms=0") as client:
            await client.send_binary(pcm("yes"))
            await client.receive()
            server.signal(number)
            server.wait_for_event("server.draining")
            began = time.monotonic()
            server.signal(number)
            server.wait()
        assert time.monotonic() - began < 3.0
        assert "Traceback" not in server.stderr


def test_signal_while_the_model_loads_ends_it() -> None:
    before = """
import asyncio
class Slow(ScriptedEngine):
    async def start(self):
        await asyncio.sleep(60.0)
"""
    with run_server(command=with_engine("Slow()", before=before), wait=False) as server:
        server.url = (
            server.wait_for_event("model.loading")
            and server.wait_for_event("server.listening")["url"]
        )
        wait_until(lambda: server.get("/health").status_code == 200, what="it listens")
        server.signal(signal.SIGTERM)
        assert server.wait(10.0) == 0
        assert "Traceback" not in server.stderr


# Being full


async def test_full_server_refuses_and_takes_the_next_once_one_has_left() -> None:
    with run_server("--limits-max-sessions=2") as server:
        async with open_client(server.url) as first, open_client(server.url) as second:
            with pytest.raises(InvalidStatus) as refused:
                async with open_client(server.url):
                    pass
            response = refused.value.response
            assert response.status_code == 503
            assert response.headers["Retry-After"] == "1"
            assert response.headers["Content-Type"] == "application/json"
            # Those inside notice nothing.
            await first.ask({"type": "flush"}, "flushed")
            await first.finish()
            wait_until(lambda: server.active_sessions() == 1, what="a place is free")
            async with open_client(server.url) as third:
                await third.finish()
            await second.finish()
        assert re.search(
            r'stt_refusals_total\{reason="capacity"\} 1\.0', server.get("/metrics").text
        )


async def test_sessions_that_vanish_give_their_places_back() -> None:
    with run_server("--limits-max-sessions=2") as server:
        for _ in range(6):
            async with open_client(server.url) as client:
                await client.send_binary(pcm("yes"))
                client.socket.transport.abort()
            wait_until(lambda: server.active_sessions() == 0, what="its place is free")


def test_port_zero_is_any_free_one_and_the_log_says_which(server: ServerProcess) -> None:
    with run_server(command=(*MODULE, *SCRIPTED)) as other:
        assert other.address != server.address

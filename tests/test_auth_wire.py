"""Keys and origins, over real connections."""

import asyncio
import base64
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import pytest
from websockets.exceptions import InvalidStatus

from tests.raw import raw_peer
from tests.server import ServerProcess, run_server
from tests.speech import pcm
from tests.wire import is_final, open_client

KEY = "sk-correct/horse+battery?"
WRONG = "sk-wrong"
LOOPBACK = "--host=127.0.0.1"


def browser_form(key: str) -> str:
    return "token." + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def presented(key: str) -> dict[str, dict[str, Any]]:
    """Every way to present a key with the upgrade."""
    return {
        "bearer": {"headers": {"Authorization": f"Bearer {key}"}},
        "bearer in lower case": {"headers": {"authorization": f"bearer {key}"}},
        "deepgram": {"headers": {"Authorization": f"Token {key}"}},
        "azure": {"headers": {"api-key": key}},
        "query": {"query": f"?token={quote(key, safe='')}"},
        "query alias": {"query": f"?api_key={quote(key, safe='')}"},
        "browser": {"subprotocols": ["stt.v1", browser_form(key)]},
        "browser, key first": {"subprotocols": [browser_form(key), "stt.v1"]},
    }


OPENAI_KEY = "sk-openai-browser"
WAYS = list(presented(""))


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    flags = ["--auth-api-keys", KEY, "--auth-api-keys", OPENAI_KEY, LOOPBACK]
    with run_server(*flags, "--limits-handshake-s=1", "--log-level=DEBUG") as process:
        yield process
        assert KEY not in process.stderr
        assert OPENAI_KEY not in process.stderr
        assert browser_form(KEY) not in process.stderr
        assert WRONG not in process.stderr
        assert "sk-correct" not in process.stderr


def connect_with(server: ServerProcess, way: dict[str, Any], **more: Any) -> Any:
    return open_client(
        server.url + way.get("query", ""),
        additional_headers=way.get("headers"),
        subprotocols=way.get("subprotocols"),
        **more,
    )


@pytest.mark.parametrize("way", WAYS)
async def test_key_is_accepted_however_it_is_presented(server: ServerProcess, way: str) -> None:
    form = presented(KEY)[way]
    async with connect_with(server, form) as client:
        expected = "stt.v1" if "subprotocols" in form else None
        assert client.socket.subprotocol == expected
        response = client.socket.response
        assert response is not None
        assert KEY not in str(response.headers)
        assert browser_form(KEY) not in str(response.headers)
        await client.send_binary(pcm("yes"))
        assert any(is_final(message) for message in await client.finish())


async def test_openai_browser_form_selects_realtime(server: ServerProcess) -> None:
    offered = ["realtime", f"openai-insecure-api-key.{OPENAI_KEY}"]
    async with connect_with(server, {"subprotocols": offered}) as client:
        assert client.socket.subprotocol == "realtime"


@pytest.mark.parametrize("way", WAYS)
async def test_wrong_key_is_refused_before_the_upgrade(server: ServerProcess, way: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect_with(server, presented(WRONG)[way]):
            pass
    response = refused.value.response
    assert response.status_code == 401
    assert b'"invalid_api_key"' in response.body


async def test_key_in_the_first_config_message(server: ServerProcess) -> None:
    async with open_client(server.url) as client:
        await client.ask({"type": "ping"}, "pong")
        await client.ask({"type": "config", "token": KEY, "features": ["ids"]}, "ready")
        await client.send_binary(pcm("yes"))
        assert any(is_final(message) for message in await client.finish())


@pytest.mark.parametrize(
    "message",
    [
        {"type": "config", "token": WRONG},
        {"type": "config"},
        {"type": "flush"},
        {"type": "finish"},
        {"samples": "AAAA", "sampleRate": 16_000, "channels": 2},
        b"\0\0",
    ],
    ids=["wrong token", "config without", "flush", "finish", "JSON audio", "binary audio"],
)
async def test_anything_before_the_key_closes_4401(server: ServerProcess, message: Any) -> None:
    async with open_client(server.url) as client:
        await client.send(message)
        messages = await client.receive_all()
    assert [message["code"] for message in messages] == ["UNAUTHORIZED"]
    assert client.close_code == 4401


async def test_no_key_in_time_closes_4401(server: ServerProcess) -> None:
    async with open_client(server.url) as client:
        messages = await client.receive_all(4.0)
    assert [message["code"] for message in messages] == ["UNAUTHORIZED"]
    assert client.close_code == 4401


async def test_session_that_sent_its_key_outlives_the_handshake_time(
    server: ServerProcess,
) -> None:
    async with open_client(server.url) as client:
        await client.ask({"type": "config", "token": KEY}, "ready")
        await asyncio.sleep(1.7)
        assert await client.finish() == [{"type": "finished", "audioSeconds": 0.0, "turns": 0}]


async def test_places_for_connections_without_a_key_are_free_again_once_it_came(
    server: ServerProcess,
) -> None:
    """There are 64 of them; sessions that have shown their key do not need one."""
    async with AsyncExitStack() as sessions:
        for _ in range(66):
            client = await sessions.enter_async_context(open_client(server.url))
            await client.ask({"type": "config", "token": KEY}, "ready")
        assert server.active_sessions() == 66


@pytest.mark.parametrize("path", ["/health", "/ready", "/status"])
def test_health_needs_no_key(server: ServerProcess, path: str) -> None:
    assert server.get(path).status_code == 200


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        ("open", {None: 200, WRONG: 200, KEY: 200}),
        ("key", {None: 401, WRONG: 401, KEY: 200}),
        ("off", {None: 404, WRONG: 404, KEY: 404}),
    ],
)
def test_metrics_access(access: str, expected: dict[str | None, int]) -> None:
    with run_server("--auth-api-keys", KEY, LOOPBACK, f"--auth-metrics={access}") as process:
        for key, status in expected.items():
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            answer = process.get("/metrics", headers=headers)
            assert answer.status_code == status
            if status == 401:
                assert answer.json()["error"]["code"] == "invalid_api_key"


def test_metrics_are_open_to_this_machine_by_default(server: ServerProcess) -> None:
    assert server.get("/metrics").status_code == 200


def test_metrics_are_closed_to_other_machines_by_default(server: ServerProcess) -> None:
    # The loopback proxy says for whom it asks.
    forwarded = {"X-Forwarded-For": "192.0.2.7"}
    assert server.get("/metrics", headers=forwarded).status_code == 401
    assert (
        server.get("/metrics", headers={**forwarded, "Authorization": f"Bearer {KEY}"}).status_code
        == 200
    )


@pytest.mark.parametrize("offered", [["stt.v1"], ["realtime"], ["other", "stt.v1"]])
async def test_known_subprotocol_is_selected_without_auth(
    origin_server: ServerProcess, offered: list[str]
) -> None:
    async with connect_with(origin_server, {"subprotocols": offered}) as client:
        assert client.socket.subprotocol == offered[-1]


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("http://localhost:3000", True),
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:8080", True),
        ("https://good.example", True),
        ("https://evil.example", False),
        ("https://localhost.evil.example", False),
        ("http://good.example", False),
        ("null", False),
        ("file://", False),
    ],
)
async def test_origins(origin_server: ServerProcess, origin: str | None, allowed: bool) -> None:
    headers = {"Origin": origin} if origin is not None else {}
    connection = connect_with(origin_server, {"headers": headers})
    if allowed:
        async with connection as client:
            await client.finish()
        return
    with pytest.raises(InvalidStatus) as refused:
        await connection.__aenter__()
    assert refused.value.response.status_code == 403


async def test_page_served_by_the_server_itself_is_allowed(origin_server: ServerProcess) -> None:
    def ask(origin: str) -> bytes:
        with raw_peer(origin_server.address) as peer:
            return peer.upgrade(headers=f"Origin: {origin}\r\n", host="stt.example:9")

    same = await asyncio.to_thread(ask, "http://stt.example:9")
    other = await asyncio.to_thread(ask, "http://stt.example:10")
    assert same.split()[1] == b"101"
    assert other.split()[1] == b"403"


@pytest.fixture(scope="module")
def origin_server() -> Iterator[ServerProcess]:
    with run_server("--auth-allowed-origins", "https://good.example") as process:
        yield process

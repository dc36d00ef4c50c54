"""A client whose server loses the connection; `tests/test_resume.py` has the real server."""

import asyncio
import tracemalloc
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from stt_server.clients import Client, ClientOptions, ConnectionLost
from stt_server.clients.tests.fake_server import FINAL, INTERIM, READY, FakeServer, refusal
from stt_server.protocols.native_messages import TranscriptionSegment

OPTIONS = ClientOptions(resume=True)
READY_TO_RESUME = READY | {
    "resumeToken": "s-1.first",
    "resumeWindowS": 5,
    "messageId": 0,
    "ackSamples": 0,
}
RESUMED = {"type": "resumed", "sessionId": "s-1", "resumeToken": "s-1.second", "ackSamples": 16_000}
FAILED = {"error": "no session can be resumed with this token", "code": "RESUME_FAILED"}
SECOND = bytes(range(250)) * 128


def losing_server(**behaviour: Any) -> FakeServer:
    fields: dict[str, Any] = {
        "on_config": [READY_TO_RESUME],
        "on_audio": [],
        "drops_after": len(SECOND),
        "on_resume": [RESUMED],
    }
    return FakeServer(**fields | behaviour)


async def send_slowly(client: Client, seconds: int) -> None:
    for _ in range(seconds):
        await client.send(SECOND)
        await asyncio.sleep(0.01)


async def test_it_comes_back_by_itself_and_says_what_the_server_may_not_have() -> None:
    notes: list[str] = []
    async with losing_server() as server:
        async with Client(server.url, options=OPTIONS, note=notes.append) as client:
            await send_slowly(client, 3)
            await client.finish()
        query = parse_qs(urlsplit(server.paths[1]).query)
    assert query == {
        "resume_token": ["s-1.first"],
        "acked": ["0"],
        "controls": ["0"],
        "received": ["1"],
    }
    # Nothing was acknowledged, so everything comes again: the options, too.
    assert bytes(server.audio[len(SECOND) :]).endswith(SECOND * 3)
    assert [message["type"] for message in server.texts if message["type"] != "ping"] == [
        "config",
        "config",
        "finish",
    ]
    assert notes == ["connection lost, resuming ...", "resumed"]


async def test_acknowledged_samples_are_not_said_again() -> None:
    interim = INTERIM | {"messageId": 1, "ackSamples": 12_000}
    async with losing_server(on_audio=[interim], drops_after=2 * len(SECOND)) as server:
        async with Client(server.url, options=OPTIONS) as client:
            await send_slowly(client, 3)
            await client.finish()
        query = parse_qs(urlsplit(server.paths[1]).query)
    assert (query["acked"], query["controls"], query["received"]) == (["12000"], ["1"], ["2"])
    assert bytes(server.audio).endswith((SECOND * 3)[24_000:])


async def test_messages_that_come_twice_are_shown_once() -> None:
    interim = INTERIM | {"messageId": 1, "ackSamples": 16_000}
    final = FINAL | {"messageId": 2, "ackSamples": 16_000}
    server = losing_server(on_audio=[interim], on_resume=[RESUMED, interim, final, final])
    async with server, Client(server.url, options=OPTIONS) as client:
        await send_slowly(client, 2)
        server.on_end = []
        await client.finish()
        messages = [message async for message in client]
    texts = [message.text for message in messages if isinstance(message, TranscriptionSegment)]
    assert texts == [INTERIM["text"], FINAL["text"]]
    assert len(messages) == 4


async def test_the_next_loss_is_survived_with_the_next_token() -> None:
    resumed = asyncio.Event()

    def note(text: str) -> None:
        if text == "resumed":
            resumed.set()

    async with losing_server() as server:
        async with Client(server.url, options=OPTIONS, note=note) as client:
            await send_slowly(client, 2)
            await resumed.wait()
            server.drops_after = len(server.audio) + 1
            await send_slowly(client, 2)
            await client.finish()
        tokens = [parse_qs(urlsplit(path).query)["resume_token"] for path in server.paths[1:]]
    assert tokens == [["s-1.first"], ["s-1.second"]]


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(
            {"on_resume": [FAILED], "close_resumed_with": (4410, "not resumed")}, id="no session"
        ),
        pytest.param({"refuse_resume": refusal(401, "")}, id="key"),
        pytest.param({"refuse_resume": refusal(404, "")}, id="another server"),
        pytest.param({"on_config": [READY]}, id="never offered"),
        pytest.param({"drops_after": None, "close_with": (1012, "")}, id="shutdown"),
        pytest.param({"drops_after": None, "close_with": (4409, "")}, id="session limit"),
    ],
)
async def test_where_it_cannot_come_back_the_connection_is_lost(behaviour: dict[str, Any]) -> None:
    server = losing_server(**behaviour)
    async with server, Client(server.url, options=OPTIONS) as client:
        await client.send(SECOND)
        with pytest.raises(ConnectionLost) as caught:
            await client.finish()
    expected = behaviour.get("close_with", (1006, ""))[0]
    assert caught.value.code == expected
    assert len(server.paths) <= 2


async def test_it_tries_for_as_long_as_the_server_waits() -> None:
    impatient = READY_TO_RESUME | {"resumeWindowS": 0.5}
    server = losing_server(on_config=[impatient], refuse_resume=refusal(503, "starting"))
    async with server, Client(server.url, options=OPTIONS) as client:
        await client.send(SECOND)
        with pytest.raises(ConnectionLost, match=r"within 0\.5 s; is the server running\?"):
            await client.finish()
    assert len(server.paths) > 3


async def test_connections_that_end_at_once_are_no_way_back() -> None:
    """Each of them is taken by the server, and none gets any further."""
    notes: list[str] = []
    brief = READY_TO_RESUME | {"resumeWindowS": 0.6}
    server = losing_server(on_config=[brief], drops_resumed=True)
    async with server, Client(server.url, options=OPTIONS, note=notes.append) as client:
        await client.send(SECOND)
        with pytest.raises(ConnectionLost):
            async with asyncio.timeout(10):
                await client.finish()
    assert notes.count("resumed") > 1
    assert len(server.paths) < 12


async def test_it_comes_back_after_something_on_the_way_went_away() -> None:
    async with losing_server(drops_after=None, close_with=(1001, "")) as server:

        def note(_: str) -> None:
            server.close_with = None

        async with Client(server.url, options=OPTIONS, note=note) as client:
            await client.send(SECOND)
            await client.finish()


async def test_for_a_server_that_does_not_offer_it_nothing_is_kept() -> None:
    async with (
        FakeServer(on_config=[READY], on_audio=[]) as server,
        Client(server.url, options=OPTIONS) as client,
    ):
        tracemalloc.start()
        try:
            for _ in range(50):
                await client.send(SECOND * 2)  # in pieces, which are its own
            await client.flush()
            snapshot = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
        await client.finish()
    ours = snapshot.filter_traces([tracemalloc.Filter(True, "*/clients/client.py")])
    assert sum(trace.size for trace in ours.traces) < 10 * len(SECOND)


async def test_a_server_that_does_not_offer_it_may_be_silent_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stt_server.clients.connection._IMPATIENT_S", 0.05)
    monkeypatch.setattr("stt_server.clients.connection._IMPATIENT_CLOSE_S", 0.05)
    async with (
        FakeServer(on_config=[READY], on_audio=[], deaf_s=0.6) as server,
        Client(server.url, options=OPTIONS) as client,
    ):
        await client.send(SECOND)
        await server.news.wait()
        await client.finish()


async def test_who_closes_while_it_comes_back_is_not_kept() -> None:
    async with losing_server(refuse_resume=refusal(503, "starting")) as server:
        async with asyncio.timeout(5), Client(server.url, options=OPTIONS) as client:
            await send_slowly(client, 2)
        tries = len(server.paths)
        await asyncio.sleep(0.3)
        assert len(server.paths) == tries


async def test_a_client_that_does_not_ask_for_it_is_lost() -> None:
    async with losing_server() as server, Client(server.url) as client:
        await client.send(SECOND)
        with pytest.raises(ConnectionLost):
            await client.finish()
    assert len(server.paths) == 1

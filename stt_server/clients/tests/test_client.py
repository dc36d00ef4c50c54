import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import numpy as np
import pytest

from stt_server import clients
from stt_server.clients import (
    Client,
    ClientClosed,
    ClientOptions,
    ConnectionLost,
    OptionsRefused,
    Refused,
    ServerMessage,
    ServerSilent,
    ServerUnreachable,
    UnreadableMessage,
)
from stt_server.clients.inbox import Inbox
from stt_server.clients.tests.fake_server import FINAL, INTERIM, FakeServer, refusal
from stt_server.protocols.base import Encoding
from stt_server.protocols.native_messages import (
    ErrorResponse,
    FinishedMessage,
    FlushedMessage,
    ReadyMessage,
    TranscriptionSegment,
)

Wait = Callable[[Client], Awaitable[object]]


async def read_all(client: Client) -> list[ServerMessage]:
    return [message async for message in client]


async def read_into(client: Client, messages: list[ServerMessage]) -> None:
    async for message in client:
        messages.append(message)


def texts(messages: list[ServerMessage]) -> list[str]:
    return [message.text for message in messages if isinstance(message, TranscriptionSegment)]


async def test_options_and_key_are_sent_first() -> None:
    async with FakeServer() as server:
        options = ClientOptions(silence_ms=700, features=("times", "events"))
        async with Client(server.url, api_key="k1", options=options) as client:
            assert client.ready.session_id == "s-1"
        assert server.texts == [options.config()]
        assert server.headers["Authorization"] == "Bearer k1"
        assert server.path == "/ws/transcribe"


async def test_audio_of_every_kind_arrives_as_the_sessions_bytes() -> None:
    async with FakeServer() as server:
        async with Client(server.url) as client:
            await client.send(b"\x01\x00\x02")
            await client.send(bytearray(b"\x00"))
            await client.send(np.array([3], dtype=np.int16))
            await client.send(np.array([0.5], dtype=np.float32))
            await client.send(b"")
            await client.finish()
        assert bytes(server.audio) == b"\x01\x00\x02\x00\x03\x00\x00\x40"


async def test_long_audio_is_cut_at_whole_samples() -> None:
    audio = bytes(range(256)) * 1_000
    options = ClientOptions(channels=2, encoding=Encoding.F32)
    async with FakeServer() as server:
        async with Client(server.url, options=options) as client:
            await client.send(audio)
            await client.finish()
        assert bytes(server.audio) == audio
        assert len(server.packet_bytes) > 1
        assert all(size % 8 == 0 for size in server.packet_bytes)


async def test_text_comes_while_audio_is_sent() -> None:
    async with FakeServer() as server, Client(server.url) as client:
        stream = aiter(client)
        assert isinstance(await anext(stream), ReadyMessage)
        await client.send(b"\0\0")
        interim = await anext(stream)
        assert interim == TranscriptionSegment.model_validate(INTERIM)


async def test_finish_ends_the_iteration_after_finished() -> None:
    async with FakeServer() as server, Client(server.url) as client, asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read_all(client))
        await client.send(b"\0\0")
        finished = await client.finish()
        assert finished == FinishedMessage(audio_seconds=1.0, turns=1)
        messages = await reading
        assert messages[-1] == finished
        assert texts(messages) == [INTERIM["text"], FINAL["text"]]


async def test_iteration_ends_though_the_server_stays() -> None:
    async with FakeServer(closes=False) as server, Client(server.url) as client:
        await client.finish()
        assert texts(await read_all(client)) == [FINAL["text"]]


async def test_messages_can_be_read_after_everything_was_sent() -> None:
    async with FakeServer() as server, Client(server.url) as client:
        await client.send(b"\0\0" * 16_000 * 30)
        await client.finish()
        messages = await read_all(client)
        assert texts(messages) == [INTERIM["text"], FINAL["text"]]


async def test_flush_returns_when_the_final_can_be_read() -> None:
    async with FakeServer() as server:
        async with Client(server.url) as client:
            await client.send(b"\0\0")
            await client.flush()
            await client.close()
            messages = await read_all(client)
            assert texts(messages) == [INTERIM["text"], FINAL["text"]]
            assert messages[-1] == FlushedMessage()
        await server.gone.wait()
        assert server.close_code == 1000


async def test_an_error_message_is_an_item_and_ends_nothing() -> None:
    error = {"error": "no such thing", "code": "INVALID_MESSAGE"}
    async with FakeServer(on_audio=[error]) as server, Client(server.url) as client:
        await client.send(b"\0\0")
        await client.finish()
        messages = await read_all(client)
        assert ErrorResponse.model_validate(error) in messages
        assert texts(messages) == [FINAL["text"]]


async def test_nothing_is_sent_after_finish() -> None:
    async with FakeServer() as server, Client(server.url) as client:
        await client.finish()
        assert (await client.finish()).turns == 1
        with pytest.raises(ClientClosed):
            await client.send(b"\0\0")
        with pytest.raises(ClientClosed):
            await client.flush()
        assert server.audio == b""


async def test_a_client_that_is_not_open_says_so() -> None:
    client = Client("127.0.0.1")
    with pytest.raises(ClientClosed):
        await client.send(b"\0\0")
    with pytest.raises(ClientClosed):
        _ = client.ready


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, '{"error":{"message":"wrong key","type":"x"}}', "API key.*401: wrong key"),
        (403, "", "origin.*403: Forbidden"),
        (503, "loading", "full.*503: loading"),
    ],
)
async def test_a_refusal_has_its_status_and_reason(status: int, body: str, words: str) -> None:
    async with FakeServer(refuse=refusal(status, body)) as server:
        with pytest.raises(Refused, match=words) as caught:
            await Client(server.url).__aenter__()
        assert caught.value.status == status


async def test_an_option_the_server_cannot_honour() -> None:
    answer = {"error": "no detector 'eou'", "code": "INVALID_CONFIG"}
    async with FakeServer(on_config=[answer]) as server:
        with pytest.raises(OptionsRefused, match="no detector 'eou'"):
            await Client(server.url).__aenter__()
        await server.gone.wait()


async def test_a_close_before_ready_is_a_refusal() -> None:
    async with FakeServer(on_config=[], close_with=(1013, "full")) as server:
        with pytest.raises(Refused, match="1013: full"):
            await Client(server.url).__aenter__()


async def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ServerUnreachable, match="connection refused"):
            await Client(f"127.0.0.1:{port}").__aenter__()


async def test_something_else_listens() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ServerUnreachable, match="no WebSocket server"):
            await Client(f"127.0.0.1:{port}").__aenter__()


async def test_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(ServerUnreachable, match="no answer"):
            await Client(address, connect_timeout_s=0.05).__aenter__()


async def test_what_came_before_a_lost_connection_is_kept() -> None:
    async with FakeServer(close_with=(1011, "broken")) as server, Client(server.url) as client:
        await client.send(b"\0\0")
        with pytest.raises(ConnectionLost, match="1011: broken"):
            await client.finish()
        read: list[ServerMessage] = []
        with pytest.raises(ConnectionLost) as caught:
            await read_into(client, read)
        assert texts(read) == [INTERIM["text"]]
        assert (caught.value.code, caught.value.reason) == (1011, "broken")


@pytest.mark.parametrize("wait", [Client.finish, Client.flush])
async def test_waiting_for_a_silent_server_ends(
    wait: Wait,
) -> None:
    server = FakeServer(on_end=[], answers_finish=False, answers_flush=False)
    async with server, Client(server.url, answer_timeout_s=0.05) as client:
        with pytest.raises(ServerSilent, match=r"0\.05 s"):
            await wait(client)


async def test_nonsense_from_the_server_ends_the_session() -> None:
    async with FakeServer(on_audio=[{"text": 1}]) as server, Client(server.url) as client:
        await client.send(b"\0\0")
        with pytest.raises(UnreadableMessage):
            await read_all(client)


async def test_no_more_than_the_window_is_sent_unread() -> None:
    second = 32_000
    async with FakeServer(answers_pings=False) as server:
        async with Client(server.url, window_s=2.0) as client, asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(client.send(bytes(10 * second)))
            while len(server.audio) < 2 * second:
                await server.news.wait()
            assert len(server.audio) < 3.1 * second
            assert not sending.done()
            await server.answer_pings()
            await sending
            await client.finish()
        assert len(server.audio) == 10 * second


async def test_a_sender_stuck_behind_a_silent_server_is_told() -> None:
    server = FakeServer(answers_pings=False)
    async with server, Client(server.url, window_s=1.0, answer_timeout_s=0.05) as client:
        with pytest.raises(ServerSilent):
            await client.send(bytes(320_000))


async def test_a_cancelled_client_closes_the_connection() -> None:
    async def use(opened: asyncio.Event) -> None:
        async with Client(server.url) as client:
            opened.set()
            await read_all(client)

    async with FakeServer() as server:
        opened = asyncio.Event()
        using = asyncio.ensure_future(use(opened))
        await opened.wait()
        using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await using
        await server.gone.wait()
        assert server.close_code == 1000


async def test_an_unread_client_stops_reading_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stt_server.clients.incoming.Inbox", partial(Inbox, full_bytes=300))
    async with FakeServer(on_audio=[FINAL] * 100) as server, Client(server.url) as client:
        await client.send(b"\0\0")
        stream = client.texts()
        async with asyncio.TaskGroup() as tasks:
            finishing = tasks.create_task(client.finish())
            while {"type": "finish"} not in server.texts:
                await server.news.wait()
            # Were the reader not paused, `finished` would be a few milliseconds away.
            await asyncio.wait([finishing], timeout=0.2)
            assert not finishing.done()
            assert len([text async for text in stream]) == 103


def test_the_public_names_exist() -> None:
    for name in clients.__all__:
        assert getattr(clients, name)
    with pytest.raises(AttributeError):
        _ = clients.no_such_name

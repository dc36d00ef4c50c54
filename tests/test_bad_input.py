"""What clients do wrong: each mistake gets its documented answer, and nobody else notices."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from tests.raw import BINARY, CONTINUATION, PING, TEXT, frame, raw_peer
from tests.server import ServerProcess, run_server, wait_until
from tests.speech import RATE, clip, encode, pcm, silence, yes_and_pause
from tests.wire import (
    Json,
    NativeClient,
    audio_frame,
    is_error,
    is_final,
    open_client,
    transcribe,
)

GOOD = audio_frame(b"\0\0")
MIB = 2**20


@pytest.fixture
async def neighbour(server: ServerProcess) -> AsyncIterator[None]:
    """A session in the middle of its audio that hears nothing of the test's own."""
    half = len(yes_and_pause()) // 2
    async with open_client(server.url) as client:
        await client.send_binary(yes_and_pause()[:half])
        await client.ask({"type": "ping"}, "pong")
        yield
        await client.send_binary(yes_and_pause()[half:])
        await client.finish()
    assert client.finals
    assert not list(filter(is_error, client.seen))


async def assert_alive(client: NativeClient) -> None:
    """The session still hears every sample of a turn."""
    already = len(client.finals)
    await client.send_frames(yes_and_pause())
    await client.receive_until(is_final)
    words = client.finals[already].split()
    assert 2 <= len(words) <= 4


BAD_TEXT: list[tuple[str, str, str]] = [
    ("not JSON", "{not json", "INVALID_JSON"),
    ("empty text", "", "INVALID_JSON"),
    ("half an object", '{"samples":"AAAA"', "INVALID_JSON"),
    ("two objects", '{"type":"ping"}{"type":"ping"}', "INVALID_JSON"),
    ("NaN", '{"samples":"","sampleRate":NaN,"channels":1}', "INVALID_JSON"),
    ("deep nesting", "[" * 100_000, "INVALID_JSON"),
    ("lone surrogate", '{"type":"ping","id":"\\ud800"}', "INVALID_JSON"),
    ("array", "[]", "INVALID_MESSAGE"),
    ("string", '"finish"', "INVALID_MESSAGE"),
    ("null", "null", "INVALID_MESSAGE"),
    ("empty object", "{}", "INVALID_MESSAGE"),
    ("unknown type", '{"type":"dance"}', "INVALID_MESSAGE"),
    ("type of another kind", '{"type":["finish"]}', "INVALID_MESSAGE"),
    ("audio without samples", '{"type":"audio"}', "INVALID_MESSAGE"),
]

BAD_FRAMES: list[tuple[str, dict[str, Any], str]] = [
    ("no rate", {"sampleRate": None}, "INVALID_MESSAGE"),
    ("rate as text", {"sampleRate": "16000"}, "INVALID_MESSAGE"),
    ("rate as float", {"sampleRate": 16_000.5}, "INVALID_MESSAGE"),
    ("channels as bool", {"channels": True}, "INVALID_MESSAGE"),
    ("samples as list", {"samples": [0, 0]}, "INVALID_MESSAGE"),
    ("samples null", {"samples": None}, "INVALID_MESSAGE"),
    ("foreign character", {"samples": "AA!A"}, "INVALID_MESSAGE"),
    ("URL-safe alphabet", {"samples": "-_8="}, "INVALID_MESSAGE"),
    ("no padding", {"samples": "AAA"}, "INVALID_MESSAGE"),
    ("padding inside", {"samples": "AA==AAAA"}, "INVALID_MESSAGE"),
    ("not ASCII", {"samples": "AA\u00e9A"}, "INVALID_MESSAGE"),
    ("half a sample", {"samples": "AAAA"}, "INVALID_AUDIO"),
    ("one channel of two", {"samples": "AAA=", "channels": 2}, "INVALID_AUDIO"),
    ("part of a float", {"samples": "AAA=", "encoding": "f32"}, "INVALID_AUDIO"),
    ("rate too low", {"sampleRate": 7_999}, "UNSUPPORTED_SAMPLE_RATE"),
    ("rate too high", {"sampleRate": 48_001}, "UNSUPPORTED_SAMPLE_RATE"),
    ("rate zero", {"sampleRate": 0}, "UNSUPPORTED_SAMPLE_RATE"),
    ("rate negative", {"sampleRate": -16_000}, "UNSUPPORTED_SAMPLE_RATE"),
    ("rate enormous", {"sampleRate": 10**30}, "UNSUPPORTED_SAMPLE_RATE"),
    ("no channels", {"channels": 0}, "UNSUPPORTED_CHANNELS"),
    ("three channels", {"channels": 3}, "UNSUPPORTED_CHANNELS"),
    ("unknown encoding", {"encoding": "mp3"}, "UNSUPPORTED_ENCODING"),
    # The documented order of checks.
    ("channels before rate", {"channels": 3, "sampleRate": 1}, "UNSUPPORTED_CHANNELS"),
    ("rate before length", {"samples": "AAAA", "sampleRate": 1}, "UNSUPPORTED_SAMPLE_RATE"),
    ("base64 before channels", {"samples": "AA!A", "channels": 3}, "INVALID_MESSAGE"),
]

BAD_CONFIG: list[tuple[str, dict[str, Any], str]] = [
    ("silence too short", {"endpointing": {"silenceMs": 50}}, "INVALID_CONFIG"),
    ("offset above onset", {"endpointing": {"onset": 0.3, "offset": 0.6}}, "INVALID_CONFIG"),
    ("unknown feature", {"features": ["smell"]}, "INVALID_CONFIG"),
    ("unknown model", {"model": "whisper-1"}, "INVALID_CONFIG"),
    ("unknown encoding", {"encoding": "mp3"}, "INVALID_CONFIG"),
    ("rate as text", {"sampleRate": "8000"}, "INVALID_CONFIG"),
    ("endpointing as text", {"endpointing": "none"}, "INVALID_CONFIG"),
]


def bad_messages() -> list[Any]:
    frames = [(name, {**GOOD, **change}, code) for name, change, code in BAD_FRAMES]
    config = [(name, {"type": "config", **change}, code) for name, change, code in BAD_CONFIG]
    return [
        pytest.param(message if isinstance(message, str) else json.dumps(message), code, id=name)
        for name, message, code in [*BAD_TEXT, *frames, *config]
    ]


_clean: dict[int, list[Json]] = {}


async def in_two_packets(server: ServerProcess, middle: int) -> list[Json]:
    if middle not in _clean:
        _clean[middle] = await transcribe(server.url, yes_and_pause(), middle)
    return _clean[middle]


@pytest.mark.parametrize(("message", "code"), bad_messages())
async def test_bad_message_is_answered_and_the_turn_goes_on(
    server: ServerProcess, message: str, code: str
) -> None:
    """Sent in the middle of a word: no audio before or after it is lost."""
    middle = 2 * round(0.7 * RATE)
    async with open_client(server.url) as client:
        await client.send(audio_frame(yes_and_pause()[:middle]))
        await client.send(message)
        await client.send(audio_frame(yes_and_pause()[middle:]))
        messages = await client.finish()
    errors = [message for message in messages if is_error(message)]
    assert [error["code"] for error in errors] == [code]
    assert list(errors[0]) == ["error", "code"]
    assert errors[0]["error"]
    rest = [message for message in messages if not is_error(message)]
    clean = await in_two_packets(server, middle)
    assert [m for m in rest if is_final(m)] == [m for m in clean if is_final(m)]
    assert rest[-1] == clean[-1]


async def test_errors_carry_type_and_fatal_only_with_features(server: ServerProcess) -> None:
    async with open_client(server.url + "?features=ids") as client:
        await client.send("{")
        error = await client.receive()
    assert error["type"] == "error"
    assert error["fatal"] is False
    assert error["code"] == "INVALID_JSON"


# Samples split over binary packets


@pytest.mark.parametrize(
    "then",
    [
        pytest.param({"type": "flush"}, id="flush"),
        pytest.param({"type": "config"}, id="config"),
        pytest.param(GOOD, id="JSON audio"),
    ],
)
async def test_text_behind_half_a_sample_drops_it(server: ServerProcess, then: Json) -> None:
    async with open_client(server.url) as client:
        await client.send(b"\0" * 3_201)
        await client.send(then)
        error = (await client.receive_until(is_error))[-1]
        assert error["code"] == "INVALID_AUDIO"
        await assert_alive(client)


async def test_finish_behind_half_a_sample_reports_it(server: ServerProcess) -> None:
    async with open_client(server.url) as client:
        await client.send(b"\0" * 3_201)
        messages = await client.finish()
    assert messages[0]["code"] == "INVALID_AUDIO"
    assert messages[1:] == [{"type": "finished", "audioSeconds": 0.1, "turns": 0}]


async def test_half_a_sample_alone_is_dropped_after_a_second(server: ServerProcess) -> None:
    async with open_client(server.url) as client:
        await client.send(b"\0" * 3_201)
        error = (await client.receive_until(is_error, timeout_s=3.0))[-1]
        assert error["code"] == "INVALID_AUDIO"
        # What comes next begins with a whole sample again.
        await client.send_binary(yes_and_pause())
        messages = await client.finish()
    clean = await transcribe(server.url, bytes(3_200) + yes_and_pause())
    assert [m for m in messages if is_final(m)] == [m for m in clean if is_final(m)]


# Size


async def test_ten_megabytes_of_json_are_refused_and_the_session_lives(
    server: ServerProcess, neighbour: None
) -> None:
    async with open_client(server.url) as client:
        await client.send(audio_frame(bytes(7 * MIB)))
        assert (await client.receive())["code"] == "FRAME_TOO_LARGE"
        await client.send(bytes(MIB + 1))
        assert (await client.receive())["code"] == "FRAME_TOO_LARGE"
        await assert_alive(client)


async def test_largest_allowed_packet_is_taken(server: ServerProcess) -> None:
    async with open_client(server.url) as client:
        await client.send(bytes(MIB))
        await client.send(audio_frame(bytes(MIB)))
        finished = (await client.finish())[-1]
    assert finished == {"type": "finished", "audioSeconds": 65.536, "turns": 0}


@pytest.mark.parametrize("fragments", [1, 34])
async def test_more_than_the_transport_takes_closes_1009(
    server: ServerProcess, neighbour: None, fragments: int
) -> None:
    piece = bytes(34 * MIB // fragments)
    async with open_client(server.url) as client:
        with suppress(ConnectionClosed):
            await client.socket.send(iter_pieces(piece, fragments))
        await client.receive_all()
    assert client.close_code == 1009


async def iter_pieces(piece: bytes, count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield piece


# Below the messages


async def in_thread(server: ServerProcess, *frames: bytes) -> int:
    """Close code after these frames on a fresh connection."""

    def talk() -> int:
        with raw_peer(server.address) as peer:
            assert peer.upgrade().startswith(b"HTTP/1.1 101")
            peer.send(*frames)
            return peer.close_code()

    return await asyncio.to_thread(talk)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param([frame(TEXT, b'{"type":"ping","id":"\xff"}')], 1007, id="bad UTF-8"),
        pytest.param([frame(3, b"x")], 1002, id="reserved opcode"),
        pytest.param([frame(TEXT, b"{}", flags=0x40)], 1002, id="compressed without agreement"),
        pytest.param([frame(CONTINUATION, b"{}")], 1002, id="continuation of nothing"),
        pytest.param([frame(PING, bytes(126))], 1002, id="ping too long"),
        pytest.param([frame(PING, b"", is_last=False)], 1002, id="ping in pieces"),
        pytest.param([b"\x81\x02{}"], 1002, id="no mask"),
        pytest.param(
            [frame(TEXT, b"{", is_last=False), frame(TEXT, b"}")], 1002, id="text inside text"
        ),
    ],
)
async def test_broken_frames_close_that_connection_only(
    server: ServerProcess, neighbour: None, frames: list[bytes], code: int
) -> None:
    assert await in_thread(server, *frames) == code


async def test_fragmented_messages_are_put_together(server: ServerProcess) -> None:
    def talk() -> list[bytes]:
        with raw_peer(server.address) as peer:
            peer.upgrade()
            ping = b'{"type":"ping","id":1}'
            peer.send(frame(TEXT, ping[:3], is_last=False), frame(PING, b"between"))
            peer.send(*(frame(CONTINUATION, bytes([byte]), is_last=False) for byte in ping[3:-1]))
            peer.send(frame(CONTINUATION, ping[-1:]))
            peer.send(frame(BINARY, bytes(3_201), is_last=False), frame(CONTINUATION, bytes(1)))
            peer.send(frame(TEXT, b'{"type":"finish"}'))
            return [peer.receive()[1] for _ in range(3)]

    pong, reply, finished = await asyncio.to_thread(talk)
    assert pong == b"between"
    assert json.loads(reply) == {"type": "pong", "id": 1}
    assert json.loads(finished)["audioSeconds"] == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        b"GET /ws/transcribe\xe9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\r\n" * 10 + b"\0" * 1_000 + b"\r\n\r\n",
        b"A" * 200_000,
    ],
    ids=["TLS", "bad header", "bad path", "zeros", "endless line"],
)
async def test_garbage_instead_of_http_is_turned_away(
    server: ServerProcess, neighbour: None, garbage: bytes
) -> None:
    def talk() -> bytes:
        with raw_peer(server.address) as peer:
            try:
                peer.send(garbage)
            except ConnectionError:
                return b""
            return peer.read_to_end()

    answer = await asyncio.to_thread(talk)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Origin: http://[bad\r\n", 403),
        ("Origin: \xe9\r\n", 403),
        ("Sec-WebSocket-Protocol: \xe9\r\n", 400),
        (f"X-Long: {'x' * 9_000}\r\n", 400),
    ],
)
async def test_odd_upgrade_headers_are_refused(
    server: ServerProcess, headers: str, status: int
) -> None:
    def talk() -> bytes:
        with raw_peer(server.address) as peer:
            return peer.upgrade(headers=headers)

    head = await asyncio.to_thread(talk)
    assert head.split()[1] == str(status).encode()


@pytest.mark.parametrize("path", ["/nowhere", "/", "/ws/transcribe/", "/health"])
async def test_upgrade_of_an_unknown_path_is_404(server: ServerProcess, path: str) -> None:
    def talk() -> bytes:
        with raw_peer(server.address) as peer:
            return peer.upgrade(path)

    assert (await asyncio.to_thread(talk)).split()[1] == b"404"


def test_plain_requests_get_plain_errors(server: ServerProcess) -> None:
    assert server.get("/ws/transcribe").status_code == 404
    assert server.get("/nowhere").status_code == 404


# Clients that go wrong over time


async def test_flood_of_bad_messages_is_closed(server: ServerProcess, neighbour: None) -> None:
    async with open_client(server.url) as client, asyncio.TaskGroup() as group:
        reading = group.create_task(client.receive_all())
        with suppress(ConnectionClosed):
            for _ in range(2_000):
                await client.send("{")
    codes = [message["code"] for message in reading.result()]
    assert client.close_code == 4400
    assert codes[:100] == ["INVALID_JSON"] * 100
    # One more: the reason for the close.
    assert codes[100:] == ["INVALID_MESSAGE"]


async def test_flood_does_not_lose_what_was_said_before(server: ServerProcess) -> None:
    async with open_client(server.url) as client:
        await client.send_frames(yes_and_pause())
        await client.receive_until(is_final)
        for _ in range(200):
            await client.send("{")
        await client.receive_all()
    assert client.close_code == 4400
    assert len(client.finals) == 1


@pytest.fixture(scope="module")
def deserted() -> Iterator[ServerProcess]:
    """A server whose clients all vanish: its log is of them alone."""
    with run_server() as process:
        yield process


@pytest.mark.parametrize("goodbye", ["reset", "half-closed", "close frame"])
async def test_client_that_vanishes_in_a_word_leaves_nothing(
    deserted: ServerProcess, goodbye: str
) -> None:
    def talk() -> None:
        with raw_peer(deserted.address) as peer:
            peer.upgrade()
            peer.send(frame(BINARY, pcm("demo")[:100_000]))
            peer.receive()
            if goodbye == "reset":
                peer.reset()
            elif goodbye == "half-closed":
                peer.socket.shutdown(1)
                peer.read_to_end()
            else:
                peer.send(frame(8, b"\x03\xe8"))
                peer.read_to_end()

    def closed() -> list[Json]:
        return [event for event in deserted.events if event["event"] == "session.closed"]

    before = len(closed())
    await asyncio.to_thread(talk)
    wait_until(lambda: deserted.open_sessions() == 0, what="session gone", timeout_s=2.0)
    assert deserted.active_sessions() == 0
    wait_until(lambda: len(closed()) > before, what="session closed", timeout_s=2.0)
    assert closed()[-1]["reason"] == "disconnect"
    assert not [event for event in deserted.events if event["level"] in ("WARNING", "ERROR")]


FLOODS = {
    "protocol pings": frame(PING, bytes(125)) * 500,
    "pings": frame(TEXT, b'{"type":"ping","id":"%s"}' % (b"x" * 1_000)) * 60,
    "bad messages": frame(TEXT, b"{") * 5_000,
}
FLOOD_BYTES = 400 * MIB
"""More than a peer that reads nothing may get rid of."""


def flood_until_closed(server: ServerProcess, flood: bytes) -> int:
    """Bytes sent before the server stops reading or closes."""
    sent = 0
    with raw_peer(server.address, receive_buffer=4_096, timeout_s=3.0) as peer:
        peer.upgrade()
        try:
            while sent < FLOOD_BYTES:
                peer.send(flood)
                sent += len(flood)
        except (ConnectionError, TimeoutError):
            pass
        # Timeouts for sending, for closing and for emptying the buffers: 1 + 1 + 10 + 1 s.
        wait_until(lambda: server.active_sessions() <= 1, what="the floods are closed")
    return sent


async def test_clients_that_never_read_are_closed() -> None:
    """Whatever they send; meanwhile another is served and memory stays bounded."""
    limits = [
        "--limits-send-timeout-s=1",
        "--limits-ping-interval-s=1",
        "--limits-ping-timeout-s=1",
        "--limits-max-bad-messages=1000000",
    ]
    with run_server(*limits) as server:
        memory = server.usage().memory_info().rss
        async with open_client(server.url) as client, asyncio.TaskGroup() as group:
            floods = {
                name: group.create_task(asyncio.to_thread(flood_until_closed, server, flood))
                for name, flood in FLOODS.items()
            }
            await assert_alive(client)
            await asyncio.wait(floods.values())
            grown = server.usage().memory_info().rss - memory
            await assert_alive(client)
        for name, flooding in floods.items():
            assert flooding.result() < FLOOD_BYTES, name
        assert grown < 96 * MIB


async def test_slow_loris_does_not_keep_others_out(server: ServerProcess) -> None:
    def half_requests() -> None:
        with raw_peer(server.address) as first, raw_peer(server.address) as second:
            first.send(b"GET /ws/transcribe HTTP/1.1\r\nHost: x\r\n")
            second.send(b"G")
            assert server.get("/health").status_code == 200

    await asyncio.to_thread(half_requests)


# A great deal at once


async def burst(server: ServerProcess, minutes: int) -> None:
    """Speech with pauses, sent as fast as the connection takes it, library keepalive and all."""
    minute = np.zeros(60 * RATE, dtype=np.float32)
    spoken = np.concatenate((clip("demo"), silence(2.0)))
    for start_s in (0, 20, 40):
        minute[start_s * RATE :][: len(spoken)] = spoken
    data = encode(minute, "pcm16")
    async with open_client(server.url) as client, asyncio.TaskGroup() as group:
        reading = group.create_task(client.receive_all(90.0))
        for _ in range(minutes):
            await client.send_binary(data, 64_000)
        await client.send({"type": "finish"})
    assert client.close_code == 1000
    assert reading.result()[-1] == {
        "type": "finished",
        "audioSeconds": 60.0 * minutes,
        "turns": 9 * minutes,
    }
    assert len(client.finals) == 9 * minutes
    # Every turn has all its audio: the same texts in each minute.
    assert client.finals == client.finals[:9] * minutes


async def test_six_minutes_at_once(server: ServerProcess, neighbour: None) -> None:
    await burst(server, 6)


@pytest.mark.slow
async def test_a_quarter_of_an_hour_at_once(server: ServerProcess) -> None:
    """Three times as much as the server takes before it stops reading."""
    await burst(server, 15)

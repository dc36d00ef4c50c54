"""What holds in every protocol, whatever its messages look like."""

import asyncio
import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.faces import (
    FACES,
    FASTCONFORMER,
    NATIVE,
    PARAKEET,
    PARAKEET_TCP,
    REALTIME,
    Face,
    open_face,
)
from tests.server import ROOT, ServerProcess, free_port, run_server, wait_until
from tests.speech import FOLDER, pcm, yes_and_pause

SILENCE = "--endpointing-silence-ms=800"
"""That of the FastConformer protocol, so that turns end alike in all."""
KEY = "sk-conformance"
every_face = pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
every_socket = pytest.mark.parametrize(
    "face", [NATIVE, PARAKEET, FASTCONFORMER, REALTIME], ids=lambda face: face.name
)


class Place:
    """A server, and where its raw TCP port is."""

    def __init__(self, server: ServerProcess, tcp_port: int) -> None:
        self.server = server
        self.tcp_port = tcp_port

    def open(self, face: Face, **arguments: Any) -> Any:
        return open_face(face, self.server, self.tcp_port, **arguments)


@contextmanager
def start(*flags: str) -> Iterator[Place]:
    port = free_port()
    with run_server(SILENCE, f"--parakeet-port={port}", *flags) as server:
        yield Place(server, port)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with start() as place:
        yield place


@pytest.fixture(scope="module")
def locked() -> Iterator[Place]:
    flags = ("--auth-api-keys", KEY, "--host=127.0.0.1", "--limits-handshake-s=1")
    with start(*flags) as place:
        yield place


async def transcript(place: Place, face: Face, data: bytes, packet_bytes: int) -> list[str]:
    """The session's text as of each message."""
    async with place.open(face) as client:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(client.receive_all())
            await client.send(data, packet_bytes)
            await client.say_end()
        assert reading.done()
    return client.texts


# Text


@every_face
async def test_text_grows_word_by_word_up_to_that_of_the_native_protocol(
    place: Place, face: Face
) -> None:
    texts = await transcript(place, face, pcm("demo"), 3_200)
    wanted = await transcript(place, NATIVE, pcm("demo"), 3_200)
    assert texts[-1] == wanted[-1]
    assert len(texts[-1].split()) > 10
    assert len(texts) > 5
    # The scripted engine never takes a word back; so each text begins with the one before.
    for before, after in itertools.pairwise(texts):
        assert after.startswith(before)


@every_face
@pytest.mark.parametrize("packet_bytes", [2, 640, 5_998, 500_000])
async def test_packets_of_any_length_give_the_same_text(
    place: Place, face: Face, packet_bytes: int
) -> None:
    data = yes_and_pause()[: 32_000 if packet_bytes == 2 else None]
    texts = await transcript(place, face, data, packet_bytes)
    wanted = await transcript(place, NATIVE, data, 16_000)
    assert texts[-1] == wanted[-1] != ""


@every_face
async def test_one_message_ends_each_turn_and_one_the_session(place: Place, face: Face) -> None:
    async with place.open(face) as client:
        await client.send(pcm("demo"))
        await client.finish()
    assert client.wire.close_code in (1000, None)
    passed_over = ("interim", "hello", "warning", "event")
    kinds = [kind for kind in client.kinds if kind not in passed_over]
    assert kinds == {
        "native": ["final"] * 3 + ["finished"],
        "parakeet": ["last"],
        "parakeet-tcp": ["last"],
        # The close ends the third turn: one message says both.
        "fastconformer": ["final"] * 3,
        "realtime": ["final"] * 3 + ["last"],
    }.get(face.name)
    assert client.kinds[-1] == kinds[-1]


@every_face
async def test_session_without_audio_ends_as_asked(place: Place, face: Face) -> None:
    async with place.open(face) as client:
        messages = await client.finish()
    assert messages[-1].get("text", "") == ""
    assert client.wire.close_code in (1000, None)


@every_face
async def test_pauses_do_not_end_a_session(place: Place, face: Face) -> None:
    async with place.open(face) as client:
        for _ in range(2):
            await client.send(yes_and_pause())
        await client.finish()
    assert client.texts[-1].count("the quick") == 2


@pytest.mark.parametrize(
    "face", [PARAKEET, PARAKEET_TCP, FASTCONFORMER], ids=lambda face: face.name
)
async def test_a_client_that_stops_sending_keeps_its_turn_open(place: Place, face: Face) -> None:
    async with place.open(face) as client:
        await client.send(pcm("yes"))
        await client.receive_until("interim")
        # The native protocol would end the turn after 1.2 s.
        await asyncio.sleep(1.8)
        await client.send(pcm("yes"))
        await client.finish()
    assert client.texts[-1].count("the quick") == 1


@every_face
async def test_sessions_side_by_side_do_not_mix(place: Place, face: Face) -> None:
    wanted = {
        name: (await transcript(place, NATIVE, pcm(name), 3_200))[-1] for name in ("demo", "yes")
    }

    async def one(name: str, packet_bytes: int) -> None:
        assert (await transcript(place, face, pcm(name), packet_bytes))[-1] == wanted[name]

    async with asyncio.TaskGroup() as group:
        group.create_task(one("demo", 3_200))
        group.create_task(one("yes", 640))


async def test_protocols_side_by_side_do_not_mix(place: Place) -> None:
    texts = await asyncio.gather(*(transcript(place, face, pcm("demo"), 3_200) for face in FACES))
    assert len({text[-1] for text in texts}) == 1


# Mistakes


@every_face
async def test_garbage_is_answered_and_no_audio_is_lost(place: Place, face: Face) -> None:
    middle = 2 * 11_200
    data = yes_and_pause()
    garbage = ["{not json", "[]", '{"type":"dance","op":"dance"}', "null", "[" * 10_000, "\x00"]
    async with place.open(face) as client:
        await client.send(data[:middle], middle)
        for message in garbage:
            await client.wire.send(message)
        await client.send(data[middle:], len(data))
        await client.finish()
    assert client.kinds.count("error") == len(garbage)
    clean = await transcript(place, face, data, middle)
    assert client.texts[-1] == clean[-1]


@every_face
async def test_too_large_a_message(place: Place, face: Face) -> None:
    async with place.open(face) as client:
        await client.wire.send(face.too_large)
        error = await client.receive_until("error")
        assert face.code(error) == face.too_large_code
        if face.survives_too_large:
            await client.send(yes_and_pause())
            await client.finish()
            assert client.texts[-1]
        else:
            assert error["message"] == "message too large"
            assert await client.receive() is None
            assert client.wire.close_code in (1009, None)


@every_face
async def test_a_flood_of_mistakes_ends_the_session(place: Place, face: Face) -> None:
    async with place.open(face) as client:
        for _ in range(101):
            await client.wire.send("{")
        messages = await client.receive_all()
    assert face.code(messages[-1]) == "INVALID_MESSAGE"
    assert client.wire.close_code in (4400, None)


@every_face
async def test_clients_that_vanish_give_their_places_back(place: Place, face: Face) -> None:
    for _ in range(3):
        async with place.open(face) as client:
            await client.send(pcm("yes"))
            client.wire.vanish()
    wait_until(lambda: place.server.open_sessions() == 0, what="nobody is left")
    assert place.server.active_sessions() == 0


# Keys, places, the end of the server


@every_socket
async def test_wrong_key_is_refused_at_the_upgrade(locked: Place, face: Face) -> None:
    headers = {"Authorization": "Bearer wrong"}
    with pytest.raises(InvalidStatus) as refused:
        async with locked.open(face, additional_headers=headers):
            pass
    assert refused.value.response.status_code == 401


@pytest.mark.parametrize("face", [PARAKEET, FASTCONFORMER, REALTIME], ids=lambda face: face.name)
async def test_missing_key_is_refused_where_no_message_can_bring_it(
    locked: Place, face: Face
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with locked.open(face):
            pass
    assert refused.value.response.status_code == 401


@every_socket
@pytest.mark.parametrize("way", ["header", "query", "browser"])
async def test_right_key_opens_every_protocol(locked: Place, face: Face, way: str) -> None:
    browser = ["stt.v1", "token.c2stY29uZm9ybWFuY2U"]
    arguments: dict[str, Any] = {
        "header": {"additional_headers": {"Authorization": f"Bearer {KEY}"}},
        "query": {"query": f"?token={KEY}"},
        "browser": {"subprotocols": browser},
    }[way]
    async with locked.open(face, **arguments) as client:
        assert client.wire.socket.subprotocol == ("stt.v1" if way == "browser" else None)
        await client.send(yes_and_pause())
        await client.finish()
    assert client.texts[-1]


@every_socket
async def test_pages_of_strangers_are_refused(place: Place, face: Face) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with place.open(face, additional_headers={"Origin": "https://evil.example"}):
            pass
    assert refused.value.response.status_code == 403


async def test_a_full_server_says_so_in_each_protocol() -> None:
    with start("--limits-max-sessions=1") as place:
        async with place.open(NATIVE) as first:
            for face in (NATIVE, FASTCONFORMER, REALTIME):
                with pytest.raises(InvalidStatus) as refused:
                    async with place.open(face):
                        pass
                assert refused.value.response.status_code == 503
                assert refused.value.response.headers["Retry-After"] == "1"
            for face in (PARAKEET, PARAKEET_TCP):
                async with open_face(
                    Face(**{**vars(face), "greeting": ()}), place.server, place.tcp_port
                ) as client:
                    (error,) = await client.receive_all()
                assert error["type"] == "error"
                assert error["message"] == "No free streaming state available."
                assert client.wire.close_code in (1013, None)
            await first.finish()
        for face in FACES:
            wait_until(lambda: place.server.active_sessions() == 0, what="the place is free")
            async with place.open(face) as client:
                await client.finish()


@every_face
async def test_server_that_ends_sends_what_was_said_first(face: Face) -> None:
    with start("--limits-drain-s=1") as place:
        async with place.open(face) as client:
            await client.send(pcm("yes"))
            await client.receive_until("interim")
            place.server.signal(signal.SIGTERM)
            messages = await client.receive_all()
        if face is REALTIME:
            # Clients give up at an error; the close code calls them back.
            assert "error" not in client.kinds
            assert client.kinds[-1] == "final"
        else:
            assert messages[-1]["code"] == "SERVER_SHUTDOWN"
        assert client.texts[-1].startswith("the quick")
        assert client.wire.close_code in (1012, None)
        if face is FASTCONFORMER:
            assert messages[-2]["final"] is True
        assert place.server.wait() == 0
        assert "Traceback" not in place.server.stderr


async def test_idle_sessions_are_ended_with_their_reason() -> None:
    async def be_idle(place: Place, face: Face) -> None:
        async with place.open(face) as client:
            messages = await client.receive_all()
        if face is not REALTIME:
            assert messages[-1]["code"] == "IDLE_TIMEOUT", face
        assert client.wire.close_code in (4408, None)

    with start("--limits-idle-timeout-s=1", "--realtime-idle-timeout-s=1") as place:
        await asyncio.gather(*(be_idle(place, face) for face in FACES))


# Our own client


@pytest.mark.parametrize(
    ("protocol", "is_tcp", "pace"),
    [
        ("native", False, "--fast"),
        ("parakeet", False, "--fast"),
        ("parakeet", True, "--fast"),
        ("fastconformer", False, "--fast"),
        ("fastconformer", False, ""),
    ],
)
def test_stt_client_speaks_all_protocols(
    place: Place, protocol: str, is_tcp: bool, pace: str
) -> None:
    url = f"tcp://127.0.0.1:{place.tcp_port}" if is_tcp else place.server.http
    name = "demo" if pace else "yes"
    command = [sys.executable, "-m", "stt_server.scripts.stt_client", FOLDER / f"{name}.flac"]
    flags = ["--quiet", "--expect-text", "--protocol", protocol, "--url", url]
    done = subprocess.run(
        [*command, *flags, *([pace] if pace else [])],
        cwd=ROOT,
        env={},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("the quick")
    assert done.stdout.count("\n") == (3 if pace and protocol != "parakeet" else 1)

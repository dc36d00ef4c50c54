"""The parakeet protocol over raw TCP and at its other addresses, `docs/protocols/parakeet.md`."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.faces import PARAKEET, PARAKEET_TCP, connect_face, open_face, parakeet_audio
from tests.raw import RawPeer, raw_peer
from tests.server import MODULE, ServerProcess, free_port, run_server, wait_until
from tests.speech import pcm, yes_and_pause

KEY = "sk-parakeet"
PING, PONG = b'{"type":"ping"}', b'{"type":"pong"}\n'
CLOSE = b'{"type":"close"}\n'


class Ports:
    """A server with every port of the protocol."""

    def __init__(self, *flags: str) -> None:
        self.tcp, self.status, self.websocket = (free_port() for _ in range(3))
        ports = (
            f"--parakeet-port={self.tcp}",
            f"--parakeet-status-port={self.status}",
            f"--parakeet-ws-port={self.websocket}",
        )
        self._running = run_server(*ports, *flags)

    def __enter__(self) -> "Ports":
        self.server = self._running.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._running.__exit__(*error)

    def peer(self, **arguments: Any) -> Any:
        return raw_peer(("127.0.0.1", self.tcp), **arguments)

    def connected(self) -> int:
        with raw_peer(("127.0.0.1", self.status)) as peer:
            answer = peer.read_to_end()
        assert answer.endswith(b"\n")
        status = json.loads(answer)
        assert status == {"type": "status", "connected_streams": status["connected_streams"]}
        return status["connected_streams"]


@pytest.fixture(scope="module")
def ports() -> Iterator[Ports]:
    with Ports() as ports:
        yield ports


@pytest.fixture(scope="module")
def locked() -> Iterator[Ports]:
    with Ports(f"--auth-api-keys={KEY}", "--host=127.0.0.1", "--limits-handshake-s=1") as ports:
        yield ports


def audio_line(data: bytes, **fields: Any) -> bytes:
    return parakeet_audio(data, **fields).encode() + b"\n"


def lines(answer: bytes) -> list[dict[str, Any]]:
    assert answer.endswith(b"\n")
    return [json.loads(line) for line in answer.splitlines()]


def read_line(peer: RawPeer) -> bytes:
    """A byte at a time, so that what follows stays unread."""
    line = b""
    while not line.endswith(b"\n"):
        line += peer.socket.recv(1)
    return line


# Lines


def test_greeting_ping_and_last_result_are_exact(ports: Ports) -> None:
    with ports.peer() as peer:
        hello = json.loads(read_line(peer))
        assert list(hello) == ["type", "stream_id", "sample_rate"]
        assert hello["sample_rate"] == 16_000
        peer.send(PING + b"\n")
        assert read_line(peer) == PONG
        peer.send(CLOSE)
        stream = hello["stream_id"]
        assert (
            peer.read_to_end()
            == (
                f'{{"type":"result","stream_id":{stream},"text":"","token_ids":[],'
                '"confidence_scores":[],"is_final":true}\n'
            ).encode()
        )


def test_stream_ids_are_unique(ports: Ports) -> None:
    with ports.peer() as one, ports.peer() as two:
        assert json.loads(read_line(one))["stream_id"] != json.loads(read_line(two))["stream_id"]


async def test_turns_on_request_have_their_own_finals(ports: Ports) -> None:
    url = f"ws://127.0.0.1:{ports.server.address[1]}{PARAKEET.path}?turns=1"
    async with connect(url, proxy=None) as socket:
        for _ in range(2):
            await socket.send(parakeet_audio(yes_and_pause()))
        finals: list[str] = []
        async for message in socket:
            result = json.loads(message)
            if result.get("is_final"):
                finals.append(result["text"])
            if len(finals) == 2:
                await socket.send(CLOSE.decode())

    assert len(finals) == 3
    assert finals[0] == finals[1] != ""
    assert finals[2] == ""


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n\r\n", b"\\n"], ids=repr)
def test_ends_of_lines(ports: Ports, end: bytes) -> None:
    with ports.peer() as peer:
        read_line(peer)
        peer.send(PING + end)
        assert read_line(peer) == PONG


def test_a_message_may_come_byte_by_byte_and_many_at_once(ports: Ports) -> None:
    with ports.peer() as peer:
        read_line(peer)
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in PING + b"\r\n":
            peer.send(bytes([byte]))
        assert read_line(peer) == PONG
        peer.send((PING + b"\n") * 50 + CLOSE)
        messages = lines(peer.read_to_end())
    assert [message["type"] for message in messages] == ["pong"] * 50 + ["result"]


@pytest.mark.parametrize("has_audio", [True, False])
def test_final_ends_the_stream_as_close_does(ports: Ports, has_audio: bool) -> None:
    with ports.peer() as peer:
        read_line(peer)
        if has_audio:
            peer.send(audio_line(yes_and_pause(), final=True))
        else:
            peer.send(audio_line(yes_and_pause()), audio_line(b"", final=True))
        peer.send(b"what comes later is ignored\n")
        messages = lines(peer.read_to_end())
    assert [message["is_final"] for message in messages[-2:]] == [False, True]
    assert messages[-1]["text"].startswith("the quick")
    ids = [token for message in messages for token in message["token_ids"]]
    assert len(ids) == len(messages[-1]["text"].split())


def test_a_client_that_only_reads_after_close_gets_everything(ports: Ports) -> None:
    """As `nc` does at the end of its input."""
    with ports.peer() as peer:
        peer.send(audio_line(yes_and_pause()) + CLOSE)
        peer.socket.shutdown(socket.SHUT_WR)
        messages = lines(peer.read_to_end())
    assert messages[-1]["is_final"] is True
    assert messages[-1]["text"]


def test_the_end_without_close_discards(ports: Ports) -> None:
    with ports.peer() as peer:
        read_line(peer)
        peer.send(audio_line(pcm("yes")), b'{"type":"close"}')
        peer.socket.shutdown(socket.SHUT_WR)
        rest = peer.read_to_end()
    assert b'"is_final":true' not in rest


def test_garbage_on_the_port_harms_nobody(ports: Ports) -> None:
    with ports.peer() as peer:
        read_line(peer)
        peer.send(b"\x00\xff\xfe\r\n" + b"{\n" + b"\x16\x03\x01\x02\x00\x01\n" + PING + b"\n")
        assert [json.loads(read_line(peer))["message"] for _ in range(3)] == ["invalid JSON"] * 3
        assert read_line(peer) == PONG


def test_a_web_page_cannot_use_the_port(ports: Ports) -> None:
    body = audio_line(pcm("yes"))
    with ports.peer() as peer:
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\r\n" + body)
        answer = peer.read_to_end()
    assert [message["type"] for message in lines(answer)] == ["hello", "error"]


def test_an_endless_line_is_ended(ports: Ports) -> None:
    with ports.peer() as peer:
        read_line(peer)
        with contextlib.suppress(ConnectionError):
            for _ in range(9):
                peer.send(b"x" * 2**20)
        (error,) = lines(peer.read_to_end())
    assert error == {
        "type": "error",
        "message": "message too large",
        "code": "FRAME_TOO_LARGE",
    }


@pytest.mark.parametrize("how", ["reset", "close", "half a line"])
def test_clients_that_vanish_are_forgotten(ports: Ports, how: str) -> None:
    for _ in range(3):
        with ports.peer() as peer:
            read_line(peer)
            peer.send(audio_line(pcm("yes")))
            if how == "reset":
                peer.reset()
            elif how == "half a line":
                peer.send(PING[:5])
    wait_until(lambda: ports.connected() == 0, what="no stream is left")
    assert ports.server.active_sessions() == 0


def test_a_client_that_reads_nothing_is_let_go() -> None:
    with Ports("--limits-send-timeout-s=1") as ports:
        with ports.peer(receive_buffer=4_096) as peer:
            began = time.monotonic()
            with contextlib.suppress(OSError):
                while time.monotonic() - began < 30.0:
                    peer.send((PING + b"\n") * 5_000)
        wait_until(lambda: ports.connected() == 0, what="it is gone")
        assert "Traceback" not in ports.server.stderr


# Keys


def test_first_line_may_be_the_key(locked: Ports) -> None:
    with locked.peer() as peer:
        assert json.loads(read_line(peer))["type"] == "hello"
        peer.send(json.dumps({"type": "auth", "token": KEY}).encode() + b"\n")
        peer.send(audio_line(yes_and_pause()) + CLOSE)
        assert lines(peer.read_to_end())[-1]["text"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"auth","token":"wrong"}\n',
        b'{"type":"auth"}\n',
        CLOSE,
        audio_line(b"\0\0"),
        audio_line(bytes(2**17)),
        b"",
    ],
    ids=["wrong key", "no key", "close", "audio", "large", "nothing in time"],
)
def test_no_key_no_stream(locked: Ports, line: bytes) -> None:
    with locked.peer() as peer:
        peer.send(line)
        hello, error = lines(peer.read_to_end())
    assert hello["type"] == "hello"
    assert (error["type"], error["code"]) == ("error", "UNAUTHORIZED")
    assert KEY not in locked.server.stderr


def test_those_without_a_key_keep_nobody_out() -> None:
    flags = (f"--auth-api-keys={KEY}", "--host=127.0.0.1", "--limits-max-sessions=1")
    with Ports(*flags) as ports, ports.peer() as stranger:
        read_line(stranger)
        with ports.peer() as guest:
            guest.send(json.dumps({"type": "auth", "token": KEY}).encode() + b"\n" + PING + b"\n")
            read_line(guest)
            assert read_line(guest) == PONG
            with ports.peer() as late:
                (error,) = lines(late.read_to_end())
            assert error["message"] == "No free streaming state available."


# Other addresses


async def test_status_counts_the_streams_of_both_transports(ports: Ports) -> None:
    await asyncio.to_thread(
        wait_until, lambda: ports.connected() == 0, what="streams of other tests are gone"
    )
    async with (
        open_face(PARAKEET, ports.server, ports.tcp) as one,
        open_face(PARAKEET_TCP, ports.server, ports.tcp),
    ):
        assert await asyncio.to_thread(ports.connected) == 2
        await one.finish()


@pytest.mark.parametrize("path", ["", "/", "/ws/transcribe", "/any/thing?x=1"])
async def test_old_port_speaks_it_at_every_path(ports: Ports, path: str) -> None:
    async with connect(f"ws://127.0.0.1:{ports.websocket}{path}", proxy=None) as client:
        assert json.loads(await client.recv())["type"] == "hello"


async def test_text_and_binary_messages_may_hold_several_lines(ports: Ports) -> None:
    async with connect_face(PARAKEET, ports.server, 0) as client:
        await client.wire.send(PING + b"\n" + PING)
        await client.wire.send((PING + b"\n" + CLOSE).decode())
        messages = await client.receive_all()
    assert [message["type"] for message in messages] == ["hello", "pong", "pong", "pong", "result"]


def test_default_port_that_is_taken_is_left_out_but_a_chosen_one_is_an_error() -> None:
    flags = ("--model", "scripted", "--port", "0", "--log-format", "json")
    with contextlib.ExitStack() as taken:
        for port in (8_765, 8_050):
            with contextlib.suppress(OSError):  # somebody else has it: as good
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
        with run_server(*flags, command=MODULE) as server:
            left_out = [e for e in server.events if e["event"] == "server.port_left_out"]
            assert [event["protocol"] for event in left_out] == ["parakeet", "parakeet status"]
        for flag in ("--parakeet-port", "--parakeet-status-port"):
            port = "8765" if flag == "--parakeet-port" else "8050"
            with run_server(*flags, flag, port, command=MODULE, wait=False) as server:
                assert server.wait() == 1
                assert port in server.stderr


def test_zero_turns_the_ports_off(server: ServerProcess) -> None:
    assert not [e for e in server.events if e["event"].startswith(("server.also", "server.port"))]

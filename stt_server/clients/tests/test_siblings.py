"""What the client writes and reads in the protocols of other servers."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from stt_server.clients.address import tcp_address
from stt_server.clients.errors import BadAddress, ConnectionLost, Refused, UnreadableMessage
from stt_server.clients.microphone import Microphone
from stt_server.clients.sibling_client import SiblingClient
from stt_server.clients.siblings import Dialect, FastConformerDialect, ParakeetDialect
from stt_server.clients.streaming import Streaming
from stt_server.clients.tests.fake_sounddevice import FakeSoundDevice
from stt_server.clients.tests.test_cli import run
from stt_server.clients.tests.test_streaming import HEADSET, Recorder
from stt_server.protocols.base import AudioFormat
from stt_server.protocols.native_messages import ErrorResponse, TranscriptionSegment

HELLO = {"type": "hello", "stream_id": 1, "sample_rate": 16_000}


def result(text: str, *, final: bool = False) -> dict[str, Any]:
    return {
        "type": "result",
        "stream_id": 1,
        "text": text,
        "token_ids": [],
        "confidence_scores": [],
        "is_final": final,
    }


def interim(text: str, *, final: bool = False) -> dict[str, Any]:
    return {"op": "interim", "sid": "stt-client", "text": text, "final": final, "ts": 1}


def read(dialect: Dialect, *messages: dict[str, Any]) -> list[tuple[str, bool]]:
    segments = [dialect.parse(json.dumps(message)) for message in messages]
    return [(s.text, s.is_final) for s in segments if isinstance(s, TranscriptionSegment)]


def test_parakeets_stream_is_one_turn() -> None:
    dialect = ParakeetDialect()

    assert read(dialect, HELLO, result("one"), result("one two", final=True)) == [
        ("one", False),
        ("one two", True),
    ]
    assert dialect.has_final


def test_fastconformers_turns_are_what_is_new_since_the_last_final() -> None:
    messages = [
        interim("one"),
        interim("one two", final=True),
        interim("one two three"),
        interim("one two three", final=True),
        interim("one two three", final=True),
    ]

    assert read(FastConformerDialect(), *messages) == [
        ("one", False),
        ("one two", True),
        ("three", False),
        ("three", True),
        ("", True),
    ]


def test_errors_are_those_of_the_native_protocol() -> None:
    error = {"op": "error", "sid": "a", "code": "INVALID_AUDIO", "message": "odd"}
    assert FastConformerDialect().parse(json.dumps(error)) == ErrorResponse(
        error="odd", code="INVALID_AUDIO"
    )
    greeted = ParakeetDialect()
    greeted.parse(json.dumps(HELLO))
    assert isinstance(greeted.parse('{"type":"error","message":"invalid JSON"}'), ErrorResponse)


def test_error_in_place_of_the_greeting_is_a_refusal() -> None:
    with pytest.raises(Refused, match="No free streaming state"):
        ParakeetDialect().parse('{"type":"error","message":"No free streaming state available."}')


@pytest.mark.parametrize("dialect", [ParakeetDialect, FastConformerDialect])
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "5", '{"text":"x"}'])
def test_what_is_no_message_is_unreadable(dialect: type[Dialect], text: str) -> None:
    with pytest.raises(UnreadableMessage):
        dialect().parse(text)


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("tcp://host", ("host", 8_765)),
        ("tcp://host:1234/", ("host", 1_234)),
        ("tcp://[::1]:9", ("::1", 9)),
        ("ws://host", None),
        ("host:80", None),
    ],
)
def test_tcp_addresses(address: str, place: tuple[str, int] | None) -> None:
    assert tcp_address(address) == place


@pytest.mark.parametrize("address", ["tcp://", "tcp://host:x", "tcp://host/path", "tcp://me@host"])
def test_bad_tcp_addresses(address: str) -> None:
    with pytest.raises(BadAddress):
        tcp_address(address)


class Server:
    """Answers the first audio and the ending with what a test says; keeps what it gets."""

    def __init__(self, *, on_open: list[Any], on_end: list[Any], code: int | None = 1000) -> None:
        self.on_open, self.on_end, self.code = on_open, on_end, code
        self.got: list[str | bytes] = []

    async def serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.path = connection.request.path
        await self._say(connection, self.on_open)
        try:
            async for message in connection:
                self.got.append(message)
                if isinstance(message, str) and '"close"' in message:
                    await self._say(connection, self.on_end)
                    if self.code is not None:
                        await connection.close(self.code)
        except ConnectionClosed:
            pass

    async def _say(self, connection: ServerConnection, messages: list[Any]) -> None:
        for message in messages:
            await connection.send(json.dumps(message))


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[str]:
    async with serve(server.serve, "127.0.0.1", 0) as listening:
        yield f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def test_audio_of_any_format_is_sent_as_16_khz_mono() -> None:
    server = Server(on_open=[], on_end=[interim("one", final=True)])
    stereo = np.full((44_100, 2), 8_000, dtype="<i2").tobytes()
    async with running(server) as url:
        source, dialect = AudioFormat(44_100, 2), FastConformerDialect()
        async with SiblingClient(url, dialect, source=source, query="silence_ms=500") as client:
            for begin in range(0, len(stereo), 999):
                await client.send(stereo[begin : begin + 999])
            assert len(await finished(client)) == 1
    assert server.path == "/ws/fastconformer?silence_ms=500"
    assert json.loads(server.got[0]) == {"op": "init", "sid": "stt-client", "sr": 16_000}
    audio = b"".join(message for message in server.got if isinstance(message, bytes))
    assert len(audio) == 32_000
    assert np.median(np.frombuffer(audio, dtype="<i2")) == pytest.approx(8_000, abs=5)


async def finished(client: SiblingClient) -> list[str]:
    """All messages; somebody must read while another finishes."""
    texts: list[str] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(client.finish())
        async for text in client.texts():
            client.parse(text)
            texts.append(text)
    return texts


@pytest.mark.parametrize("code", [1000, 1011])
async def test_an_end_without_a_last_text_is_a_lost_connection(code: int) -> None:
    server = Server(on_open=[HELLO], on_end=[result("one")], code=code)
    async with (
        running(server) as url,
        SiblingClient(url, ParakeetDialect(), source=AudioFormat()) as client,
    ):
        with pytest.raises(ExceptionGroup) as caught:
            await finished(client)
    assert caught.group_contains(ConnectionLost)


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    soundfile.write(path, np.zeros(16_000, dtype=np.int16), 16_000)
    return path


@pytest.mark.parametrize(
    ("protocol", "server"),
    [
        (
            "parakeet",
            Server(on_open=[HELLO, result("one")], on_end=[result("one two", final=True)]),
        ),
        (
            "fastconformer",
            Server(
                on_open=[interim("one")],
                on_end=[interim("one two", final=True), interim("one two", final=True)],
            ),
        ),
    ],
)
async def test_the_program_shows_and_saves_the_text(
    protocol: str, server: Server, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = speech.with_suffix(".txt")
    async with running(server) as url:
        flags = ("--fast", "--protocol", protocol, "--save", saved)
        assert await run(speech, "--url", url, *flags) == 0
    assert capsys.readouterr().out == "… one\n✓ one two\n"
    assert saved.read_text() == "one two\n"


async def test_a_full_server_is_exit_code_3(
    speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = {"type": "error", "message": "No free streaming state available."}
    async with running(Server(on_open=[full], on_end=[])) as url:
        assert await run(speech, "--url", url, "--protocol", "parakeet") == 3
    assert "No free streaming state available." in capsys.readouterr().err


async def test_a_missing_key_is_exit_code_3(
    speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"type": "error", "message": "send your API key first", "code": "UNAUTHORIZED"}
    async with running(Server(on_open=[HELLO, error], on_end=[])) as url:
        assert await run(speech, "--url", url, "--protocol", "parakeet") == 3
    told = capsys.readouterr().err
    assert "(4401: send your API key first)" in told
    assert "STT_API_KEY" in told


@pytest.mark.parametrize(
    "flags",
    [
        ["--protocol", "parakeet", "--silence-ms", "500"],
        ["--protocol", "fastconformer", "--language", "de"],
        ["--protocol", "fastconformer", "--no-interim"],
        ["--protocol", "parakeet", "--vocabulary", "x"],
        ["--protocol", "parakeet", "--save", "out.srt"],
        ["--protocol", "esperanto"],
    ],
)
async def test_options_that_a_protocol_has_not_are_mistakes(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        await run("a.wav", *flags)
    assert caught.value.code == 2


async def test_fastconformer_does_not_go_over_raw_tcp(speech: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        await run(speech, "--protocol", "fastconformer", "--url", "tcp://127.0.0.1:1")
    assert caught.value.code == 2


async def record(url: str, dialect: Dialect, display: Recorder) -> None:
    """200 ms of the microphone, then Ctrl-C."""
    sound = FakeSoundDevice()
    microphone = Microphone(sound, HEADSET)
    client = SiblingClient(url, dialect, source=microphone.format)
    running = asyncio.ensure_future(Streaming(client, display, save=[]).send_microphone(microphone))
    await sound.started.wait()
    sound.stream.record(b"\0\x40" * 1_600, b"\0\0" * 1_600)
    signal.raise_signal(signal.SIGINT)
    await running


async def test_the_microphone_speaks_it_too() -> None:
    display = Recorder()
    server = Server(on_open=[], on_end=[interim("one two", final=True)])
    async with running(server) as url:
        await record(url, FastConformerDialect(), display)
    audio = b"".join(message for message in server.got if isinstance(message, bytes))
    assert audio == b"\0\x40" * 1_600 + b"\0\0" * 1_600
    assert display.shown == "✓ one two\n"


async def test_a_server_that_never_ends_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stt_server.clients.streaming._LAST_TEXT_S", 0.05)
    display = Recorder()
    server = Server(on_open=[HELLO], on_end=[], code=None)
    async with running(server) as url:
        await record(url, ParakeetDialect(), display)
    assert display.noted.endswith("! the last text did not come in time\n")

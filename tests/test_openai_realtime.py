"""OpenAI's Realtime protocol with OpenAI's own client, and with what that would never send."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.faces import REALTIME, Json, open_face, realtime_audio
from tests.raw import CLOSE, PING, TEXT, raw_peer
from tests.server import ServerProcess, run_server, wait_until, with_engine
from tests.speech import at_rate, clip, encode, pcm, silence
from tests.uploads import async_sdk, sdk

PATH = "/v1/realtime?intent=transcription"
ITEM_TEXT = "conversation.item.input_audio_transcription"
DELTA, COMPLETED = f"{ITEM_TEXT}.delta", f"{ITEM_TEXT}.completed"
CLEAR = {"type": "input_audio_buffer.clear"}
COMMIT = {"type": "input_audio_buffer.commit"}
FLAKY = with_engine("ScriptedEngine(Script(failing_turns=frozenset({0})))")
SURE = with_engine('ScriptedEngine(Script(("yes",), turn_ends={"yes": 0.9}))')
KEY = "sk-realtime"


class Client:
    """A connection that shows every event as it came."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[Json] = []

    async def send(self, event: Json | str | bytes) -> None:
        await self.socket.send(json.dumps(event) if isinstance(event, dict) else event)

    async def append(self, data: bytes, packet_bytes: int = 48_000) -> None:
        for begin in range(0, len(data), packet_bytes):
            await self.send(realtime_audio(data[begin : begin + packet_bytes]))

    async def update(self, **audio_input: Any) -> Json:
        session = {"type": "transcription", "audio": {"input": audio_input}}
        await self.send({"type": "session.update", "session": session})
        return (await self.until("session.updated"))[-1]["session"]

    async def receive(self) -> Json:
        async with asyncio.timeout(60.0):
            self.seen.append(json.loads(await self.socket.recv()))
        return self.seen[-1]

    async def until(self, kind: str) -> list[Json]:
        """Events up to and including the first of type `kind`."""
        events = [await self.receive()]
        while events[-1]["type"] != kind:
            events.append(await self.receive())
        return events

    async def settle(self) -> list[Json]:
        """End the open turn; everything that follows from what was sent."""
        await self.send(COMMIT)
        await self.send(CLEAR)
        return (await self.until("input_audio_buffer.cleared"))[:-1]

    async def close_code(self) -> int | None:
        try:
            while True:
                await self.receive()
        except ConnectionClosed:
            return self.socket.close_code


@asynccontextmanager
async def opened(
    server: ServerProcess, path: str = PATH, **arguments: Any
) -> AsyncIterator[Client]:
    """A client that was greeted."""
    url = server.http.replace("http://", "ws://") + path
    async with connect(url, compression=None, proxy=None, **arguments) as socket:
        client = Client(socket)
        assert (await client.receive())["type"] == "session.created"
        yield client


def transcripts(events: list[Json]) -> list[str]:
    return [event["transcript"] for event in events if event["type"] == COMPLETED]


def kinds(events: list[Json]) -> list[str]:
    return [event["type"] for event in events]


def sound(name: str, rate: int = 24_000, encoding: str = "pcm16") -> bytes:
    return encode(at_rate(clip(name), rate), encoding)


# OpenAI's client


# The SDK uses websockets in a way that its newest version calls old.
@pytest.mark.filterwarnings(r"ignore:connect\(\) must be used:DeprecationWarning")
def test_sdk_gets_the_text_of_each_turn(server: ServerProcess) -> None:
    deltas: dict[str, str] = {}
    with (
        sdk(server) as client,
        client.realtime.connect(extra_query={"intent": "transcription"}) as connection,
    ):
        created = connection.recv()
        assert created.type == "session.created"
        detection = {"type": "server_vad", "silence_duration_ms": 800}
        session = {"type": "transcription", "audio": {"input": {"turn_detection": detection}}}
        connection.session.update(session=session)  # pyright: ignore[reportArgumentType]
        data = sound("demo")
        for begin in range(0, len(data), 24_000):
            text = base64.b64encode(data[begin : begin + 24_000]).decode()
            connection.input_audio_buffer.append(audio=text)
        connection.input_audio_buffer.commit()
        connection.input_audio_buffer.clear()
        found: dict[str, str] = {}
        for event in connection:
            match event.type:
                case "conversation.item.input_audio_transcription.delta":
                    assert event.delta
                    deltas[event.item_id] = deltas.get(event.item_id, "") + event.delta
                case "conversation.item.input_audio_transcription.completed":
                    found[event.item_id] = event.transcript
                    assert event.usage.type == "duration"
                    assert event.usage.seconds > 1
                case "input_audio_buffer.cleared":
                    break
                case kind:
                    assert kind != "error"

    assert len(found) == 3
    assert deltas == found
    assert all(text.startswith("the quick") for text in found.values())


async def test_async_sdk_commits_by_itself(server: ServerProcess) -> None:
    async with (
        async_sdk(server) as client,
        client.realtime.connect(model="gpt-realtime-whisper") as connection,
    ):
        found: list[tuple[str, float]] = []
        for _ in range(2):
            text = base64.b64encode(sound("yes")).decode()
            await connection.input_audio_buffer.append(audio=text)
            await connection.input_audio_buffer.commit()
        async for event in connection:
            assert event.type not in ("error", "input_audio_buffer.speech_started")
            if event.type == "conversation.item.input_audio_transcription.completed":
                assert event.usage.type == "duration"
                found.append((event.transcript, event.usage.seconds))
                if len(found) == 2:
                    break

    (first, seconds), second = found
    assert first.startswith("the quick")
    assert (first, seconds) == second
    assert seconds == pytest.approx(len(clip("yes")) / 16_000, abs=0.001)


# Sessions


async def test_greeting_comes_before_anything_is_sent(server: ServerProcess) -> None:
    async with opened(server, "/v1/realtime?model=whisper-1&call_id=5") as client:
        (created,) = client.seen
    assert created["session"]["audio"]["input"]["transcription"]["model"] == "whisper-1"
    assert created["session"]["expires_at"] > time.time() + 3_600


async def test_turns_do_not_depend_on_format_and_packets(server: ServerProcess) -> None:
    async def text(audio_format: Json, rate: int, encoding: str, packet_bytes: int) -> list[str]:
        async with opened(server) as client:
            await client.update(format=audio_format)
            await client.append(sound("yes", rate, encoding), packet_bytes)
            return transcripts(await client.settle())

    texts = await asyncio.gather(
        text({"type": "audio/pcm", "rate": 24_000}, 24_000, "pcm16", 2_400),
        text({"type": "audio/pcm", "rate": 24_000}, 24_000, "pcm16", 1_000_000),
        text({"type": "audio/pcm", "rate": 48_000}, 48_000, "pcm16", 998),
        text({"type": "audio/pcm", "rate": 8_000}, 8_000, "pcm16", 160),
        text({"type": "audio/pcmu"}, 8_000, "mulaw", 160),
        text({"type": "audio/pcma"}, 8_000, "alaw", 77),
    )
    assert [len(found) for found in texts] == [1] * len(texts)
    assert len({found[0].split(" dog")[0][:20] for found in texts}) == 1


async def test_deltas_come_while_the_client_speaks(server: ServerProcess) -> None:
    async with opened(server) as client:
        await client.append(sound("yes"))
        events = await client.until(DELTA)
        assert kinds(events)[0] == "input_audio_buffer.speech_started"
        rest = await client.settle()
    assert kinds(rest)[-1] == COMPLETED


async def test_turn_ends_though_the_client_sends_no_silence(server: ServerProcess) -> None:
    """And soon enough for clients that hang up two seconds after their last frame."""
    async with opened(server) as client:
        await client.append(sound("yes"))
        began = time.monotonic()
        events = await client.until(COMPLETED)
        assert time.monotonic() - began < 2.0
    assert kinds(events).count("input_audio_buffer.speech_stopped") == 1


async def test_client_that_commits_may_be_silent_for_long(server: ServerProcess) -> None:
    async with opened(server) as client:
        assert (await client.update(turn_detection=None))["audio"]["input"][
            "turn_detection"
        ] is None
        await client.append(sound("yes"))
        await asyncio.sleep(1.8)
        await client.append(sound("yes"))
        events = await client.settle()
    assert len(transcripts(events)) == 1
    assert not [kind for kind in kinds(events) if ".speech_" in kind]


async def test_each_commit_hears_all_that_was_sent_since_the_last(server: ServerProcess) -> None:
    async with opened(server) as client:
        await client.update(turn_detection=None, format={"type": "audio/pcm", "rate": 24_000})
        sizes = [1, 100, 29_616, 5, 12_000]
        for size in sizes:
            await client.append(bytes(2 * size))
            await client.send(COMMIT)
        events = [(await client.until(COMPLETED))[-1] for _ in sizes]
        seconds = [event["usage"]["seconds"] for event in events]
    assert seconds == pytest.approx([size / 24_000 for size in sizes], abs=0.001)
    assert len({event["item_id"] for event in events}) == len(sizes)


async def test_cleared_audio_is_never_heard(server: ServerProcess) -> None:
    async with opened(server) as client:
        await client.update(turn_detection=None)
        await client.append(sound("demo"))
        await client.send(CLEAR)
        before = await client.until("input_audio_buffer.cleared")
        await client.append(encode(silence(0.5), "pcm16"))
        events = await client.settle()
    assert COMPLETED not in kinds(before)
    assert [event["usage"]["seconds"] for event in events if "usage" in event] == [0.333]


async def test_commit_in_mid_speech_ends_the_turn_at_once(server: ServerProcess) -> None:
    async with opened(server) as client:
        data = sound("demo")
        await client.append(data[: 48_000 * 2])
        await client.send(COMMIT)
        events = await client.until(COMPLETED)
        await client.append(data[48_000 * 2 : 48_000 * 3])
        more = await client.settle()
    assert kinds(events).count("input_audio_buffer.committed") == 1
    assert len(transcripts(more)) == 1
    spoken = [e for e in events + more if "audio_start_ms" in e or "audio_end_ms" in e]
    times = [event.get("audio_start_ms", event.get("audio_end_ms")) for event in spoken]
    assert times == sorted(times)


async def test_connection_from_a_pool_goes_on_where_it_was(server: ServerProcess) -> None:
    async with opened(server) as client:
        data = sound("yes") + encode(silence(1.5), "pcm16")
        starts: list[int] = []
        for _ in range(2):
            session = await client.update(transcription={"model": "whisper-1"})
            await client.append(data)
            events = await client.settle()
            starts.append(events[0]["audio_start_ms"])
            assert session["id"] == client.seen[0]["session"]["id"]
    assert starts[1] - starts[0] == pytest.approx(1_000 * len(data) / 48_000, abs=40)
    items = [event["item_id"] for event in client.seen if event["type"] == COMPLETED]
    assert len(set(items)) == 2


async def test_semantic_vad_asks_the_servers_detector() -> None:
    """The model is sure behind each word that the turn is over."""
    with run_server("--endpointing-detector=eou", command=SURE) as server:
        found: dict[str, int] = {}
        for kind, fields in {
            "semantic_vad": {"eagerness": "low"},
            "server_vad": {"silence_duration_ms": 1_500},
        }.items():
            async with opened(server) as client:
                await client.update(
                    format={"type": "audio/pcm", "rate": 16_000},
                    turn_detection={"type": kind, **fields},
                )
                await client.append(pcm("conversation-delivery"))
                found[kind] = len(transcripts(await client.settle()))
    assert found == {"semantic_vad": 6, "server_vad": 3}


# Mistakes


async def test_mistakes_are_answered_with_their_event_id(server: ServerProcess) -> None:
    async with opened(server) as client:
        for event, code in (
            ({"type": "response.create"}, "unknown_event"),
            ({"type": "input_audio_buffer.append", "audio": "AAA"}, "invalid_value"),
            ({"type": "session.update", "session": {"type": "realtime"}}, "invalid_value"),
        ):
            await client.send({**event, "event_id": code})
            error = (await client.until("error"))[-1]["error"]
            assert (error["code"], error["event_id"]) == (code, code)
            assert error["type"] == "invalid_request_error"
        await client.append(sound("yes"))
        assert len(transcripts(await client.settle())) == 1


async def test_fifteen_mebibytes_at_once_are_taken(server: ServerProcess) -> None:
    async with opened(server) as client:
        await client.update(format={"type": "audio/pcm", "rate": 48_000})
        await client.append(bytes(15 * 2**20), 15 * 2**20)
        # Refusals come at once: the one of this is the first.
        await client.send("{")
        assert (await client.until("error"))[-1]["error"]["code"] == "invalid_json"


async def test_a_binary_message_closes_1003(server: ServerProcess) -> None:
    async with opened(server) as client:
        await client.send(b"\0\0")
        assert await client.close_code() == 1003


async def test_turn_that_lost_audio_is_completed_with_its_words_and_the_connection_goes_on() -> (
    None
):
    with run_server(command=FLAKY) as server:
        async with opened(server) as client:
            for _ in range(2):
                await client.append(sound("demo")[: 48_000 * 2])
                await client.settle()
        ends = [k for k in kinds(client.seen) if k.startswith(ITEM_TEXT) and k != DELTA]
    assert ends == [COMPLETED, COMPLETED]
    assert "error" not in kinds(client.seen)


# Other forms


async def test_flat_form(server: ServerProcess) -> None:
    async with opened(server, additional_headers={"OpenAI-Beta": "realtime=v1"}) as client:
        session = {"input_audio_format": "g711_ulaw", "turn_detection": None}
        await client.send({"type": "transcription_session.update", "session": session})
        updated = (await client.until("transcription_session.updated"))[-1]
        await client.append(sound("yes", 8_000, "mulaw"), 800)
        events = await client.settle()
    assert updated["session"]["input_audio_format"] == "g711_ulaw"
    assert "conversation.item.created" in kinds(events)
    assert len(transcripts(events)) == 1


async def test_vllm_client(server: ServerProcess) -> None:
    async with opened(server, "/v1/realtime") as client:
        assert client.seen[0]["id"].startswith("sess_")
        assert isinstance(client.seen[0]["created"], int)
        await client.send({"type": "session.update", "model": "any"})
        for _ in range(2):
            await client.send(COMMIT)
            await client.append(pcm("yes"), 3_200)
            await client.send({**COMMIT, "final": True})
            events = await client.until("transcription.done")
            told = "".join(event.get("delta", "") for event in events)
            assert events[-1]["text"] == told != ""


# Keys, time


@pytest.fixture(scope="module")
def locked() -> Iterator[ServerProcess]:
    flags = ("--auth-api-keys", KEY, "--host=127.0.0.1", "--realtime-idle-timeout-s=1.5")
    quick = ("--limits-ping-interval-s=0.2", "--limits-ping-timeout-s=0.2")
    with run_server(*flags, *quick) as process:
        yield process


async def test_secret_brings_its_session(locked: ServerProcess) -> None:
    with sdk(locked, key=KEY) as client:
        audio_input = {"turn_detection": None, "transcription": {"model": "m", "language": "de"}}
        secret = client.realtime.client_secrets.create(
            session={"type": "transcription", "audio": {"input": audio_input}},  # pyright: ignore[reportArgumentType]
        ).value
    offered = ["realtime", f"openai-insecure-api-key.{secret}"]
    async with opened(locked, subprotocols=offered) as client:
        assert client.socket.subprotocol == "realtime"
        shown = client.seen[0]["session"]["audio"]["input"]
        assert (shown["turn_detection"], shown["transcription"]["language"]) == (None, "de")
        await client.append(sound("yes"))
        await client.send(COMMIT)
        assert len(transcripts(await client.until(COMPLETED))) == 1


def test_client_that_reads_nothing_for_long_is_kept_until_it_is_idle(
    locked: ServerProcess,
) -> None:
    """As in a pool: nobody answers the server's pings there."""
    with raw_peer(locked.address) as peer:
        began = time.monotonic()
        peer.upgrade(PATH, f"Authorization: Bearer {KEY}\r\n")
        opcodes: list[int] = []
        while CLOSE not in opcodes:
            opcode, payload = peer.receive()
            opcodes.append(opcode)
        assert int.from_bytes(payload[:2], "big") == 4408
        assert time.monotonic() - began > 1.4
    assert opcodes[0] == TEXT
    assert opcodes.count(PING) > 2
    wait_until(lambda: locked.open_sessions() == 0, what="nobody is left")


async def test_metrics_count_sessions_of_the_protocol(server: ServerProcess) -> None:
    async with open_face(REALTIME, server, 0):
        assert 'stt_open_sessions{protocol="realtime"} 1.0' in server.get("/metrics").text

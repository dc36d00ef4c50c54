"""Sessions that outlive their connections, over real sockets."""

import asyncio
import itertools
import json
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import soundfile
from websockets.exceptions import InvalidStatus

from stt_server.clients import Client, ClientOptions, ConnectionLost
from stt_server.protocols.native_messages import TranscriptionSegment
from tests.proxy import Cut, cutting_proxy
from tests.raw import BINARY, CLOSE, TEXT, frame, raw_peer
from tests.server import MODULE, OFF, ROOT, ServerProcess, run_server, wait_until
from tests.speech import clip, encode, interleave, pcm, spans, yes_and_pause
from tests.wire import Json, NativeClient, is_error, is_final, is_type, open_client

SHARED = ROOT / "../shared"
MODEL = SHARED / "models/digits-streaming.nemo"
DIGITS = SHARED / "audio/digits"
PACKET_BYTES = 3_200
READY_BYTES = 1_500
"""The handshake and `ready`; before these a client has no way back."""
SECOND = 32_000


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """Its own: sessions whose client does not come back stay for a while."""
    with run_server("--resume-buffer-kib=16") as process:
        yield process


@pytest.fixture(scope="module")
def strict() -> Iterator[ServerProcess]:
    with run_server("--resume-window-s=1", "--limits-idle-timeout-s=1") as process:
        yield process


@pytest.fixture(scope="module")
def narrow() -> Iterator[ServerProcess]:
    with run_server("--limits-max-sessions=1", "--limits-max-session-s=4") as process:
        yield process


@pytest.fixture(scope="module")
def uncut(server: ServerProcess) -> tuple[list[str], float]:
    finals, audio_s, notes = asyncio.run(hear(server.url, pcm("demo")))
    assert len(finals) == 3
    assert not notes
    return finals, audio_s


# Our own client


async def hear(url: str, audio: bytes) -> tuple[list[str], float, list[str]]:
    """Finals, seconds of audio, and what the user was told."""
    notes: list[str] = []
    finals: list[str] = []
    options = ClientOptions(features=("all",), resume=True)

    async def speak() -> float:
        for begin in range(0, len(audio), PACKET_BYTES):
            await client.send(audio[begin : begin + PACKET_BYTES])
            await asyncio.sleep(0.002)  # so that messages come in between
        return (await client.finish()).audio_seconds

    async with (
        Client(url, options=options, note=notes.append) as client,
        asyncio.TaskGroup() as tasks,
    ):
        speaking = tasks.create_task(speak())
        async for message in client:
            if isinstance(message, TranscriptionSegment) and message.is_final:
                finals.append(message.text)
    return finals, speaking.result(), notes


async def hear_cut(
    server: ServerProcess, audio: bytes, cuts: list[Cut]
) -> tuple[list[str], float, list[str]]:
    async with cutting_proxy(server.address, cuts) as proxy:
        heard = await hear(proxy.url, audio)
        assert not proxy.cuts_left
    return heard


def random_cuts(seed: int, where: str) -> list[Cut]:
    """One cut while `where` of the demo is sent, then one as something comes back."""
    choice = random.Random(f"{where}{seed}")
    turns = spans("demo")
    gaps = [(end, begin) for (_, end), (begin, _) in itertools.pairwise(turns)]
    begin_s, end_s = choice.choice(turns if where == "word" else gaps)
    at = round(choice.uniform(begin_s, end_s) * SECOND)
    return [Cut(up_bytes=READY_BYTES + at), Cut(down_bytes=choice.randrange(200, 2_500))]


@pytest.mark.parametrize("where", ["word", "pause"])
@pytest.mark.parametrize("seed", range(10))
async def test_a_cut_anywhere_changes_nothing(
    server: ServerProcess, uncut: tuple[list[str], float], where: str, seed: int
) -> None:
    finals, audio_s, notes = await hear_cut(server, pcm("demo"), random_cuts(seed, where))
    assert (finals, audio_s) == uncut
    assert notes[:2] == ["connection lost, resuming ...", "resumed"]


async def test_a_network_that_keeps_failing_changes_nothing_either(
    server: ServerProcess, uncut: tuple[list[str], float]
) -> None:
    cuts = [Cut(up_bytes=READY_BYTES + 20_000)]
    for number in range(4):
        # Also on the way back: within the handshake, and within `resumed`.
        cuts += [Cut(down_bytes=90 + 70 * number), Cut(up_bytes=2_000 + 12_345 * number)]
    finals, audio_s, _ = await hear_cut(server, pcm("demo"), cuts)
    assert (finals, audio_s) == uncut


async def test_a_network_that_falls_silent_is_given_up(
    server: ServerProcess, uncut: tuple[list[str], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server still believes in the old connection when the client comes over a new one."""
    monkeypatch.setattr("stt_server.clients.connection._IMPATIENT_S", 0.2)
    monkeypatch.setattr("stt_server.clients.connection._IMPATIENT_CLOSE_S", 0.1)
    cut = Cut(up_bytes=READY_BYTES + 4 * SECOND, is_silent=True)
    finals, audio_s, notes = await hear_cut(server, pcm("demo"), [cut])
    assert (finals, audio_s) == uncut
    assert notes == ["connection lost, resuming ...", "resumed"]


async def test_the_client_gives_up_when_the_server_has_no_session_any_more(
    strict: ServerProcess,
) -> None:
    cuts, options = [Cut(up_bytes=20_000)], ClientOptions(resume=True)
    async with (
        cutting_proxy(strict.address, cuts) as proxy,
        Client(proxy.url, options=options) as client,
    ):
        proxy.is_open = False
        await client.send(pcm("yes"))  # is cut off, which the client need not know
        with pytest.raises(ConnectionLost):
            await client.finish()


@pytest.mark.skipif(not MODEL.is_file(), reason="../shared/models is absent")
async def test_a_real_model_hears_the_same_over_cut_connections() -> None:
    pytest.importorskip("torch")
    choice = random.Random(6)
    entries = [json.loads(line) for line in (DIGITS / "manifest.jsonl").read_text().splitlines()]
    flags = ("--model=parakeet-eou", f"--nemo-checkpoint={MODEL}", "--device=cpu")
    command = (*MODULE, "--port", "0", *OFF, "--log-format", "json")
    with run_server(*flags, "--max-streams=4", command=command, wait=False) as digits:
        digits.wait_for_event("model.ready", timeout_s=90.0)
        digits.wait_until_ready()
        spoken = [entry for entry in entries if entry["kind"] in ("hesitant", "dialogue")]
        for entry in choice.sample(spoken, 5):
            audio = pcm_of(DIGITS / entry["file"])
            step = len(audio) // 5
            cuts = [Cut(up_bytes=READY_BYTES + choice.randrange(step)) for _ in range(4)]
            whole, cut = await asyncio.gather(
                hear(digits.url, audio), hear_cut(digits, audio, cuts)
            )
            assert cut[:2] == whole[:2]
            assert whole[0]


def pcm_of(path: Path) -> bytes:
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == 16_000
    return np.asarray(samples).tobytes()


# The wire, for everybody's client


class Returning:
    """A client's own book of one session: where it is, and how to come back to it."""

    def __init__(self, url: str, *, query: str = "resume=true&features=ids,events") -> None:
        self._url = url
        self._query = query
        self.seen: list[Json] = []
        """New messages, over all connections."""
        self.token = ""
        self.acked = self.received = self.controls = 0

    @asynccontextmanager
    async def begin(self, **arguments: Any) -> AsyncIterator[NativeClient]:
        async with open_client(f"{self._url}?{self._query}", **arguments) as client:
            await self.read_until(client, is_type("ready"))
            yield client

    @asynccontextmanager
    async def come_back(self, *, query: str = "", **changes: Any) -> AsyncIterator[NativeClient]:
        """Over a new connection, with other numbers if `changes` has them."""
        said = {"resume_token": self.token, "acked": self.acked, "controls": self.controls}
        said = said | {"received": self.received} | changes
        address = f"{self._url}?{urlencode(said)}{query}"
        async with open_client(address) as client:
            yield client

    async def read_until(self, client: NativeClient, wanted: Callable[[Json], bool]) -> Json:
        while True:
            message = await client.receive()
            self.token = message.get("resumeToken", self.token)
            self.acked = message["ackSamples"]
            if "messageId" in message:
                assert message["messageId"] >= self.received
                self.received = message["messageId"] + 1
            self.seen.append(message)
            if wanted(message):
                return message

    async def ask(self, client: NativeClient) -> None:
        """Everything sent so far is known to have come."""
        number = len(self.seen)
        await client.send({"type": "ping", "id": number})
        await self.read_until(client, lambda message: message.get("id") == number)

    @property
    def finals(self) -> list[str]:
        return [message["text"] for message in self.seen if message.get("isFinal")]


async def refusal(client: NativeClient) -> Json:
    (message,) = await client.receive_all()
    assert message["code"] == "RESUME_FAILED"
    assert client.close_code == 4410
    return message


async def test_messages_are_numbered_and_samples_acknowledged(server: ServerProcess) -> None:
    book = Returning(server.url)
    async with book.begin() as client:
        ready = book.seen[0]
        assert ready["config"]["resume"] is True
        assert ready["resumeWindowS"] == 15
        await client.send_binary(pcm("demo"))
        await client.send({"type": "finish"})
        await book.read_until(client, is_type("finished"))
    assert [message["messageId"] for message in book.seen] == list(range(len(book.seen)))
    acks = [message["ackSamples"] for message in book.seen]
    assert acks == sorted(acks)
    assert acks[-1] == len(pcm("demo")) // 2


async def test_a_config_message_asks_for_it_too_but_not_after_audio(server: ServerProcess) -> None:
    async with open_client(server.url) as client:
        await client.send({"type": "ping"})
        assert set(await client.receive()) == {"type"}
        (ready,) = await client.ask({"type": "config", "resume": True}, "ready")
        assert ready["messageId"] == ready["ackSamples"] == 0
        assert ready["resumeToken"].startswith(ready["sessionId"])
        (again,) = await client.ask({"type": "config", "interimResults": False}, "ready")
        assert "resumeToken" not in again
    async with open_client(server.url) as client:
        await client.send(b"\0\0")
        await client.send({"type": "config", "resume": True})
        error = await client.receive()
        assert error["code"] == "INVALID_MESSAGE"
        assert "messageId" not in error


async def test_a_client_takes_over_from_its_own_dead_connection(server: ServerProcess) -> None:
    book, audio = Returning(server.url), pcm("demo")
    async with book.begin() as dead:
        await dead.send_binary(audio[: 3 * SECOND])
        await book.ask(dead)
        acked = book.acked
        assert acked == 3 * SECOND // 2
        async with book.come_back() as client:
            resumed = await client.receive()
            assert resumed["type"] == "resumed"
            assert resumed["ackSamples"] == acked
            assert resumed["resumeToken"] != book.token
            await client.send_binary(audio[3 * SECOND :])
            await client.send({"type": "finish"})
            await book.read_until(client, is_type("finished"))
            await dead.receive_all()
    assert dead.close_code == 4410
    assert book.seen[-1]["audioSeconds"] == len(audio) / SECOND
    assert len(book.finals) == 3


async def test_what_came_already_is_not_heard_twice(server: ServerProcess) -> None:
    """The client knows of nothing that was received and says everything again."""
    book, audio = Returning(server.url), yes_and_pause()
    async with book.begin() as client:
        await client.send_binary(audio)
        await client.send({"type": "flush"})
        await client.receive_until(is_type("flushed"))
        client.socket.transport.abort()
    async with book.come_back() as client:
        await client.send_binary(audio, packet_bytes=999)
        await client.send({"type": "flush"})
        await client.send_binary(audio)
        await client.send({"type": "finish"})
        await book.read_until(client, is_type("finished"))
    assert book.seen[-1]["audioSeconds"] == 2 * len(audio) / SECOND
    assert len(book.finals) == 2
    assert len([message for message in book.seen if message.get("type") == "flushed"]) == 1


async def test_halves_of_samples_are_not_acknowledged(server: ServerProcess) -> None:
    book, audio = Returning(server.url, query="resume=true&channels=2"), pcm("yes")
    async with book.begin() as client:
        await client.send(audio[:4_003])
        await book.ask(client)
        assert book.acked == 1_000
        client.socket.transport.abort()
    async with book.come_back() as client:
        await client.send(audio[4_000:])
        await client.send({"type": "finish"})
        await book.read_until(client, is_type("finished"))
    assert book.seen[-1]["audioSeconds"] == round(len(audio) / 4 / 16_000, 3)
    assert not any(is_error(message) for message in book.seen)


async def test_samples_are_counted_per_channel_at_the_clients_rate(server: ServerProcess) -> None:
    book = Returning(server.url)
    samples = clip("yes")[:8_000]
    async with book.begin() as client:
        stereo = encode(interleave(samples, samples), "pcm16")
        await client.send_frames(stereo, sample_rate=16_000, channels=2)
        await client.send_frames(encode(samples, "mulaw"), sample_rate=8_000, encoding="mulaw")
        await client.send({"samples": "AAA", "sampleRate": 16_000, "channels": 1})
        await book.ask(client)
        assert book.acked == 16_000


async def test_a_lost_goodbye_is_said_again(server: ServerProcess) -> None:
    book = Returning(server.url)
    with raw_peer(server.address) as peer:
        peer.upgrade("/ws/transcribe?resume=true")
        book.token = json.loads(peer.receive()[1])["resumeToken"]
        peer.send(frame(BINARY, yes_and_pause()), frame(TEXT, b'{"type":"finish"}'))
        assert peer.close_code() == 1000
        peer.reset()  # without an answer to that: who knows what it has read
    async with book.come_back() as client:
        await book.read_until(client, is_type("finished"))
        await client.receive_all()
    assert client.close_code == 1000
    assert len(book.finals) == 1
    async with book.come_back(query="&again=1") as client:
        await refusal(client)


@pytest.mark.parametrize("code", [1001, 1011, 4000])
async def test_who_gives_a_connection_up_gets_the_last_words_over_the_next(
    server: ServerProcess, code: int
) -> None:
    book = Returning(server.url)
    async with book.begin() as client:
        await client.send_binary(yes_and_pause())
        await client.send({"type": "finish"})
        await client.socket.close(code, "keepalive ping timeout")
    await asyncio.sleep(0.5)  # the session comes to its end
    async with book.come_back() as client:
        await book.read_until(client, is_type("finished"))
        await client.receive_all()
    assert client.close_code == 1000
    assert len(book.finals) == 1


async def test_a_close_that_crosses_the_goodbye_is_no_answer_to_it(server: ServerProcess) -> None:
    book = Returning(server.url)
    with raw_peer(server.address) as peer:
        peer.upgrade("/ws/transcribe?resume=true")
        book.token = json.loads(peer.receive()[1])["resumeToken"]
        peer.send(frame(BINARY, yes_and_pause()), frame(TEXT, b'{"type":"finish"}'))
        assert peer.close_code() == 1000
        peer.send(frame(CLOSE, (1011).to_bytes(2, "big")))
        peer.read_to_end()
    async with book.come_back() as client:
        await book.read_until(client, is_type("finished"))
    assert len(book.finals) == 1


async def test_who_leaves_on_purpose_cannot_come_back(server: ServerProcess) -> None:
    book = Returning(server.url)
    async with book.begin() as client:
        await client.socket.close()
    async with book.come_back() as client:
        await refusal(client)


@pytest.mark.parametrize(
    "changes",
    [
        {"resume_token": "nonsense"},
        {"resume_token": ""},
        {"resume_token": "TOKEN-"},
        {"acked": 8_001},
        {"acked": -1},
        {"controls": 1},
        {"received": 99},
        {"received": "x"},
    ],
)
async def test_what_does_not_fit_the_session_is_refused(
    server: ServerProcess, changes: dict[str, object]
) -> None:
    """And the session takes no harm."""
    book = Returning(server.url)
    async with book.begin() as client:
        await client.send(bytes(16_000))
        await book.ask(client)
        if changes.get("resume_token") == "TOKEN-":
            changes = {"resume_token": book.token[:-1]}
        async with book.come_back(**changes) as stranger:
            await refusal(stranger)
        await client.send({"type": "finish"})
        await book.read_until(client, is_type("finished"))


async def test_a_token_opens_the_session_once(server: ServerProcess) -> None:
    book = Returning(server.url)
    async with book.begin() as client:
        stolen = book.token
        client.socket.transport.abort()
    async with book.come_back() as client:
        await book.read_until(client, is_type("resumed"))
        await book.ask(client)
        async with book.come_back(resume_token=stolen) as thief:
            await refusal(thief)
        await book.ask(client)
        client.socket.transport.abort()
    async with book.come_back() as client:
        await book.read_until(client, is_type("resumed"))


async def test_a_token_whose_answer_was_lost_opens_it_again(server: ServerProcess) -> None:
    book = Returning(server.url)
    async with book.begin() as client:
        client.socket.transport.abort()
    path = f"/ws/transcribe?resume_token={book.token}&acked=0&controls=0&received=1"
    for _ in range(3):
        with raw_peer(server.address) as peer:
            assert b"101" in peer.upgrade(path)
            peer.reset()  # without having answered the ping that follows `resumed`
    async with book.come_back() as client:
        await book.read_until(client, is_type("resumed"))


async def test_only_the_key_that_began_a_session_resumes_it() -> None:
    with run_server("--auth-api-keys=one", "--auth-api-keys=two") as server:
        book = Returning(server.url, query="resume=true&token=one")
        async with book.begin() as client:
            client.socket.transport.abort()
        with pytest.raises(InvalidStatus) as refused:
            async with book.come_back():
                pass
        assert refused.value.response.status_code == 401
        async with book.come_back(token="two") as client:
            await refusal(client)
        async with book.come_back(token="one") as client:
            await book.read_until(client, is_type("resumed"))

        later = Returning(server.url)
        async with open_client(server.url) as client:
            await client.send({"type": "config", "token": "two", "resume": True})
            await later.read_until(client, is_type("ready"))
            client.socket.transport.abort()
        async with later.come_back(token="one") as client:
            await refusal(client)
        async with later.come_back(token="two", controls=1) as client:
            await later.read_until(client, is_type("resumed"))


# While nobody is there


async def test_a_turn_waits_for_its_speaker(server: ServerProcess) -> None:
    """The stall rule would have ended it long ago."""
    book, audio = Returning(server.url, query="resume=true&stall_ms=200"), pcm("yes")
    half = len(audio) // 4 * 2
    async with book.begin() as client:
        await client.send(audio[:half])
        await book.ask(client)
        client.socket.transport.abort()
    await asyncio.sleep(1.0)
    async with book.come_back() as client:
        await client.send(audio[half:])
        await client.send({"type": "finish"})
        await book.read_until(client, is_type("finished"))
    assert len(book.finals) == 1


async def test_a_client_that_is_away_is_not_idle_but_expires(strict: ServerProcess) -> None:
    for away_s, is_there in ((0.7, True), (2.2, False)):
        book = Returning(strict.url)
        async with book.begin() as client:
            await asyncio.sleep(0.6)
            client.socket.transport.abort()
        await asyncio.sleep(away_s)
        async with book.come_back() as client:
            if is_there:
                await book.read_until(client, is_type("resumed"))
            else:
                await refusal(client)
    wait_until(lambda: strict.active_sessions() == 0, what="its place is free")


async def test_a_session_grows_too_long_while_its_client_is_away(narrow: ServerProcess) -> None:
    book = Returning(narrow.url)
    async with book.begin() as client:
        for _ in range(8):
            await client.send(pcm("yes"))
            await asyncio.sleep(0.4)
        await book.ask(client)
        client.socket.transport.abort()
    await asyncio.sleep(0.9)
    async with book.come_back() as client:
        await book.read_until(client, is_error)
        await client.receive_all()
    assert book.seen[-1]["code"] == "SESSION_LIMIT"
    assert client.close_code == 4409
    assert is_final(book.seen[-3])
    assert book.seen[-2]["type"] == "endOfTurn"


async def test_what_is_kept_for_a_client_is_bounded(server: ServerProcess) -> None:
    book = Returning(server.url, query="resume=true&features=all")
    async with book.begin() as client:
        await client.send_binary(yes_and_pause() * 40, packet_bytes=2**19)
        await client.send({"type": "ping"})
        await client.receive_until(is_type("pong"))
        client.socket.transport.abort()
    wait_until(
        lambda: 'stt_errors_total{code="OVERLOADED"}' in server.get("/metrics").text,
        what="the session could not go on without its client any more",
    )
    async with book.come_back() as client:
        await refusal(client)


async def test_a_session_keeps_its_place(narrow: ServerProcess) -> None:
    book = Returning(narrow.url)
    async with book.begin() as client:
        client.socket.transport.abort()
    with pytest.raises(InvalidStatus) as refused:
        async with open_client(narrow.url):
            pass
    assert refused.value.response.status_code == 503
    async with book.come_back() as client:
        await book.read_until(client, is_type("resumed"))
        await client.finish()
    wait_until(lambda: narrow.active_sessions() == 0, what="its place is free")


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_server_that_shuts_down_waits_for_a_client_that_is_away(comes_back: bool) -> None:
    with run_server("--resume-window-s=3") as server:
        book = Returning(server.url)
        async with book.begin() as client:
            await client.send(pcm("yes"))
            await book.read_until(client, is_type("speechStarted"))
            client.socket.transport.abort()
        server.wait_for_event("session.detached")
        server.signal(signal.SIGTERM)
        server.wait_for_event("server.draining")
        if comes_back:
            async with book.come_back() as client:
                await book.read_until(client, is_error)
                await client.receive_all()
            assert len(book.finals) == 1
            assert book.seen[-1]["code"] == "SERVER_SHUTDOWN"
            assert client.close_code == 1012
        assert server.wait() == 0
        assert "Traceback" not in server.stderr

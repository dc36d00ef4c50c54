"""The embedded recogniser with real worker processes and real speech."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from stt_server.engine.base import EngineUnavailable, StreamOptions
from stt_server.engine.pocketsphinx import PocketsphinxEngine, PocketsphinxStream
from stt_server.engine.pocketsphinx_worker import (
    HOP_SAMPLES,
    MAX_UTTERANCE_HOPS,
    Recogniser,
    Segment,
    Span,
    choose_split,
)
from stt_server.engine.worker_process import WorkerLimits
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import SAMPLE_RATE, Audio, Transcript
from stt_server.settings import PocketsphinxSettings

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="finds worker processes in /proc"
)

CLIPS = Path(__file__).parents[3] / "tests" / "audio"
PRE_ROLL, HANGOVER = SAMPLE_RATE * 3 // 10, SAMPLE_RATE * 3 // 2
"""What a turn's audio has around its speech by the server's default settings."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a clip: where it is spoken and what is pushed for it."""

    text: str
    speech_start: int
    speech_end: int
    audio: Audio


def read_turns(name: str, *, hangover: int = HANGOVER) -> list[Turn]:
    clips: list[dict[str, Any]] = json.loads((CLIPS / "manifest.json").read_text())
    (clip,) = (clip for clip in clips if clip["file"] == name)
    samples, _ = soundfile.read(CLIPS / name, dtype="float32")
    turns: list[Turn] = []
    for turn in clip["turns"]:
        start, end = (round(turn[key] * SAMPLE_RATE) for key in ("start_s", "end_s"))
        first, last = max(0, start - PRE_ROLL), end + hangover
        turns.append(Turn(turn["text"], start, end, Audio(first, samples[first:last], speech=True)))
    return turns


def cut(audio: Audio, length: int = 512) -> Iterator[Audio]:
    for at in range(0, len(audio.samples), length):
        yield Audio(audio.start + at, audio.samples[at : at + length], speech=True)


def text_of(transcript: Transcript) -> str:
    return " ".join(word.text for word in transcript.words)


def normalise(text: str) -> str:
    return re.sub(r"[^a-z' ]", "", text.lower())


async def recognise(stream: PocketsphinxStream, audio: Audio, length: int = 512) -> Transcript:
    for part in cut(audio, length):
        await stream.push(part)
    return await stream.end_turn()


def worker_pids() -> set[int]:
    """The living children of this process that are workers."""
    pids: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            command = (stat.parent / "cmdline").read_bytes()
            if int(parent) == os.getpid() and state != "Z" and b"pocketsphinx_worker" in command:
                pids.add(int(stat.parent.name))
    return pids


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what another process does; no event can tell."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Running:
    """An engine of its own, for tests that kill."""

    engine: PocketsphinxEngine
    others: set[int]

    def pids(self) -> set[int]:
        return worker_pids() - self.others

    def only_pid(self) -> int:
        (pid,) = self.pids()
        return pid

    async def open(self) -> PocketsphinxStream:
        return await self.engine.open(StreamOptions())


@contextlib.asynccontextmanager
async def running(workers: int = 1, limits: WorkerLimits | None = None) -> AsyncIterator[Running]:
    others = worker_pids()
    engine = PocketsphinxEngine(PocketsphinxSettings(workers=workers), limits=limits)
    await engine.start()
    try:
        yield Running(engine, others)
    finally:
        await engine.stop()


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def engine(anyio_backend: str) -> AsyncIterator[PocketsphinxEngine]:
    """For the tests that harm no worker."""
    async with running(workers=2) as own:
        await until(lambda: len(own.pids()) == 2)
        yield own.engine


@pytest.fixture
async def stream(engine: PocketsphinxEngine) -> AsyncIterator[PocketsphinxStream]:
    stream = await engine.open(StreamOptions())
    yield stream
    await stream.close()


QUESTION, WISH, SHORT = read_turns("demo.flac")
BRIEF = Audio(0, SHORT.audio.samples[:SAMPLE_RATE], speech=True)
"""A second of speech, for tests that care for the stream and not for the words."""


# What it says about itself.


async def test_it_is_named_and_calls_its_accuracy_modest(engine: PocketsphinxEngine) -> None:
    assert engine.info.name == "pocketsphinx"
    assert "accuracy is modest" in engine.info.summary
    assert engine.info.capacity == 2


def test_capacity_is_two_per_core_by_default() -> None:
    info = PocketsphinxEngine(PocketsphinxSettings()).info
    assert info.capacity == 2 * len(os.sched_getaffinity(0))


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    engine = PocketsphinxEngine(PocketsphinxSettings())
    with pytest.raises(EngineUnavailable, match="pip install pocketsphinx"):
        await engine.start()


async def test_workers_that_do_not_start_make_it_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    engine = PocketsphinxEngine(PocketsphinxSettings(workers=2))
    with pytest.raises(EngineUnavailable, match="does not start"):
        await engine.start()
    with pytest.raises(Overloaded):
        await engine.open(StreamOptions())
    with pytest.raises(EngineUnavailable):
        await engine.check()
    await engine.stop()


# What it hears.


async def test_most_words_are_right(stream: PocketsphinxStream) -> None:
    right = total = 0
    for turn in (QUESTION, WISH, SHORT):
        heard = text_of(await recognise(stream, turn.audio)).split()
        spoken = normalise(turn.text).split()
        right += sum(word in heard for word in spoken)
        total += len(spoken)
    assert right >= 0.8 * total


async def test_interims_come_with_every_500_ms_of_speech_and_grow(
    stream: PocketsphinxStream,
) -> None:
    interims: list[tuple[int, Transcript]] = []
    for part in cut(QUESTION.audio):
        transcript = await stream.push(part)
        if transcript is not None:
            interims.append((part.end, transcript))
    final = await stream.end_turn()

    spoken = range(QUESTION.speech_start + SAMPLE_RATE // 2, QUESTION.speech_end)
    at = [end for end, transcript in interims if end in spoken and transcript.words]
    gaps = np.diff([spoken.start, *at, spoken.stop])
    assert max(gaps) <= SAMPLE_RATE // 2
    texts = [text_of(transcript) for _, transcript in interims]
    assert len(set(texts)) >= 5
    lengths = [len(transcript.words) for _, transcript in interims]
    assert lengths[0] <= 2
    assert lengths[-1] >= len(final.words) - 1


async def test_the_stable_words_never_change(stream: PocketsphinxStream) -> None:
    stable: tuple[str, ...] = ()
    for part in (*cut(QUESTION.audio), *cut(WISH.audio)):
        transcript = await stream.push(part)
        if transcript is not None:
            words = tuple(word.text for word in transcript.words[: transcript.stable])
            assert words[: len(stable)] == stable
            stable = words
    final = await stream.end_turn()
    assert 0 < len(stable) <= len(final.words) == final.stable
    assert tuple(word.text for word in final.words)[: len(stable)] == stable


async def test_words_lie_where_they_were_spoken(stream: PocketsphinxStream) -> None:
    for turn in (WISH, SHORT):
        final = await recognise(stream, turn.audio)
        words = final.words
        assert all(word.start < word.end for word in words)
        assert all(left.end <= right.start for left, right in pairwise(words))
        assert abs(words[0].start - turn.speech_start) < SAMPLE_RATE // 4
        assert abs(words[-1].end - turn.speech_end) < SAMPLE_RATE // 4


async def test_words_stay_inside_the_audio_of_their_turn(stream: PocketsphinxStream) -> None:
    audio = Audio(7_000_001, WISH.audio.samples[: SAMPLE_RATE + 77], speech=True)
    words = (await recognise(stream, audio)).words
    assert words
    assert words[0].start >= audio.start
    assert words[-1].end <= audio.end


async def test_finals_carry_confidences(stream: PocketsphinxStream) -> None:
    final = await recognise(stream, SHORT.audio)
    confidences = [word.confidence for word in final.words]
    assert all(confidence is not None and 0 <= confidence <= 1 for confidence in confidences)
    assert final.confidence is not None
    assert 0.2 < final.confidence <= 1


async def test_the_cutting_of_audio_into_messages_changes_nothing(
    engine: PocketsphinxEngine,
) -> None:
    finals: list[Transcript] = []
    for length in (160, 512, 5_001, 10**9):
        stream = await engine.open(StreamOptions())
        finals.append(await recognise(stream, SHORT.audio, length))
        await stream.close()
    assert finals[0].words
    assert all(final == finals[0] for final in finals)


async def test_a_turn_without_audio_is_empty(stream: PocketsphinxStream) -> None:
    assert await stream.end_turn() == Transcript()
    await recognise(stream, BRIEF)
    assert await stream.end_turn() == Transcript()


async def test_a_turn_without_words_is_empty(stream: PocketsphinxStream) -> None:
    silence = Audio(0, np.zeros(SAMPLE_RATE, np.float32), speech=True)
    assert (await recognise(stream, silence)).words == ()


# Turns without end.


class CountingDecoder:
    """Stands in for pocketsphinx: hears the sample value 7 as the word "7", and 0 as a pause."""

    def __init__(self) -> None:
        self._heard = np.zeros(0, np.int16)
        self.longest_hops = 0

    def reinit_feat(self) -> None:
        pass

    def get_cmn(self, update: bool) -> str:
        return ",".join("0" * 13)

    def set_cmn(self, cmn: str) -> None:
        pass

    def n_frames(self) -> int:
        return len(self._heard) // HOP_SAMPLES

    def start_utt(self) -> None:
        self._heard = self._heard[:0]

    def process_raw(self, data: bytes) -> None:
        self._heard = np.concatenate([self._heard, np.frombuffer(data, np.int16)])
        self.longest_hops = max(self.longest_hops, self.n_frames())

    def end_utt(self) -> None:
        pass

    def hyp(self) -> object:
        return self

    def seg(self) -> Iterator[Segment]:
        frames = self._heard[::HOP_SAMPLES]
        edges = [0, *(np.flatnonzero(np.diff(frames)) + 1).tolist(), len(frames)]
        for start, end in pairwise(edges):
            word = str(frames[start]) if frames[start] else "<sil>"
            yield HeardSegment(word, start, end - 1)


@dataclass
class HeardSegment:
    word: str
    start_frame: int
    end_frame: int
    prob: float = 0.5


@pytest.mark.parametrize("gap_hops", [0, 5, 35, 90])
def test_a_turn_without_end_is_heard_in_bounded_pieces(gap_hops: int) -> None:
    word_hops, words = 37, 18_000 // (37 + gap_hops)
    values = np.arange(1, words + 1, dtype=np.int16)
    frames = np.zeros((words, word_hops + gap_hops), np.int16)
    frames[:, :word_hops] = values[:, None]
    pcm = np.repeat(frames.ravel(), HOP_SAMPLES).tobytes()

    decoder = CountingDecoder()
    recogniser = Recogniser(decoder)
    settled: list[Any] = []
    for at in range(0, len(pcm), 64_000):
        recogniser.hear(pcm[at : at + 64_000])
        settled += recogniser.take_settled()
        behind = at // 2 - (settled[-1][2] if settled else 0)
        assert behind <= MAX_UTTERANCE_HOPS * HOP_SAMPLES
    recogniser.end_turn()
    settled += recogniser.take_settled()

    assert [text for text, *_ in settled] == [str(value) for value in values]
    starts = [start for _, start, *_ in settled]
    assert starts == [k * (word_hops + gap_hops) * HOP_SAMPLES for k in range(words)]
    assert decoder.longest_hops <= MAX_UTTERANCE_HOPS + 10
    assert recogniser.open_words() == []


def test_a_long_utterance_is_split_in_its_last_wide_pause() -> None:
    spans = [
        Span("a", 0, 1_350, 1.0, is_word=True),
        Span("<sil>", 1_350, 1_370, 1.0, is_word=False),
        Span("b", 1_370, 1_420, 1.0, is_word=True),
        Span("<sil>", 1_420, 1_430, 1.0, is_word=False),
        Span("c", 1_430, 1_500, 1.0, is_word=True),
    ]
    assert choose_split(spans, 1_500) == 1_360
    assert choose_split(spans[2:], 1_500) == 1_425
    assert choose_split(spans[2:3], 1_500) == 1_420
    assert choose_split(spans[4:], 1_500) == 1_500


async def test_words_of_a_long_turn_settle_while_it_goes_on(stream: PocketsphinxStream) -> None:
    """Two sentences over and over without a pause; the decoder hears each of them once."""
    speech = np.concatenate([turn.audio.samples[PRE_ROLL:-HANGOVER] for turn in (QUESTION, WISH)])
    turn = Audio(0, np.tile(speech, 4), speech=True)
    assert len(turn.samples) > MAX_UTTERANCE_HOPS * HOP_SAMPLES
    settled_at: list[int] = []
    for part in cut(turn, SAMPLE_RATE // 2):
        transcript = await stream.push(part)
        if transcript is not None and transcript.stable:
            settled_at.append(transcript.words[transcript.stable - 1].end)
    final = await stream.end_turn()
    assert settled_at == sorted(settled_at)
    assert len(set(settled_at)) >= 1
    assert final.stable == len(final.words)
    assert all(left.end <= right.start for left, right in pairwise(final.words))
    spoken = 4 * len(normalise(f"{QUESTION.text} {WISH.text}").split())
    assert abs(len(final.words) - spoken) <= 0.2 * spoken


# Places.


async def test_the_pool_is_bounded(engine: PocketsphinxEngine) -> None:
    streams = [await engine.open(StreamOptions()) for _ in range(2)]
    with pytest.raises(Overloaded):
        await engine.open(StreamOptions())
    await engine.check()
    await streams.pop().close()
    streams.append(await engine.open(StreamOptions()))
    assert len(worker_pids()) == 2
    for stream in streams:
        await stream.close()


async def test_nothing_of_a_stream_leaks_into_the_next() -> None:
    async with running() as own:
        finals: list[Transcript] = []
        for _ in range(2):
            stream = await own.open()
            finals.append(await recognise(stream, SHORT.audio))
            # Loud, and left open: must be forgotten, and what the features adapted to as well.
            await stream.push(Audio(0, np.clip(BRIEF.samples * 30, -1, 1), speech=True))
            await stream.close()
        assert finals[0].words
        assert finals[0] == finals[1]
        await own.engine.check()


async def test_a_cancelled_push_leaves_the_worker_in_order() -> None:
    async with running() as own:
        stream = await own.open()
        expected = await recognise(stream, SHORT.audio)
        await stream.close()
        pid = own.only_pid()

        stream = await own.open()
        push = asyncio.create_task(stream.push(QUESTION.audio))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(push, 0.05)
        await stream.close()

        stream = await own.open()
        assert await recognise(stream, SHORT.audio) == expected
        assert own.only_pid() == pid


async def test_a_stream_goes_on_after_a_cancelled_push() -> None:
    async with running() as own:
        stream = await own.open()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.push(QUESTION.audio), 0.05)
        assert await stream.end_turn() == Transcript()
        assert (await recognise(stream, BRIEF)).words


# Workers that die.


async def test_a_worker_killed_between_turns_is_replaced_unnoticed() -> None:
    async with running() as own:
        stream = await own.open()
        await recognise(stream, BRIEF)
        os.kill(pid := own.only_pid(), signal.SIGKILL)
        await until(lambda: not exists(pid))
        assert (await recognise(stream, BRIEF)).words
        assert own.only_pid() != pid


async def test_a_worker_killed_when_idle_is_replaced() -> None:
    async with running() as own:
        os.kill(pid := own.only_pid(), signal.SIGKILL)
        await until(lambda: not exists(pid))
        await own.engine.check()
        assert own.only_pid() != pid


async def test_a_worker_killed_within_a_turn_costs_that_turn_alone() -> None:
    async with running() as own:
        stream = await own.open()
        await stream.push(QUESTION.audio)
        os.kill(pid := own.only_pid(), signal.SIGKILL)
        await until(lambda: not exists(pid))
        with pytest.raises(TranscriptionError):
            await stream.push(BRIEF)
        assert await stream.end_turn() == Transcript()
        assert (await recognise(stream, BRIEF)).words


async def test_a_worker_killed_during_the_first_push_of_a_turn_costs_nothing() -> None:
    async with running() as own:
        stream = await own.open()
        undisturbed = await recognise(stream, BRIEF)
        push = asyncio.create_task(stream.push(BRIEF))
        await asyncio.sleep(0)
        os.kill(own.only_pid(), signal.SIGKILL)
        await push
        assert (await stream.end_turn()).words == undisturbed.words


async def test_a_worker_killed_during_end_turn_costs_that_turn_alone() -> None:
    async with running() as own:
        stream = await own.open()
        await stream.push(BRIEF)
        os.kill(own.only_pid(), signal.SIGSTOP)
        end = asyncio.create_task(stream.end_turn())
        await asyncio.sleep(0)
        os.kill(own.only_pid(), signal.SIGKILL)
        with pytest.raises(TranscriptionError):
            await end
        assert await stream.end_turn() == Transcript()
        assert (await recognise(stream, BRIEF)).words


async def test_a_worker_that_hangs_is_killed() -> None:
    async with running(limits=WorkerLimits(answer_s=1.0)) as own:
        stream = await own.open()
        await stream.push(BRIEF)
        os.kill(pid := own.only_pid(), signal.SIGSTOP)
        with pytest.raises(TranscriptionError):
            await stream.end_turn()
        await until(lambda: not exists(pid))
        assert await stream.push(BRIEF) is not None


async def test_closing_does_not_wait_for_a_worker_that_hangs() -> None:
    async with running(limits=WorkerLimits(answer_s=1.0)) as own:
        stream = await own.open()
        await stream.push(BRIEF)
        os.kill(pid := own.only_pid(), signal.SIGSTOP)
        async with asyncio.timeout(0.5):
            await stream.close()
        await own.open()
        assert own.only_pid() != pid


async def test_a_stream_that_loses_worker_after_worker_is_given_up() -> None:
    async with running(limits=WorkerLimits(losses=2)) as own:
        stream = await own.open()
        for _ in range(2):
            await stream.push(BRIEF)
            os.kill(own.only_pid(), signal.SIGKILL)
            with pytest.raises(TranscriptionError):
                await stream.push(BRIEF)
        with pytest.raises(Overloaded):
            await stream.push(QUESTION.audio)


# The end.


async def test_stopping_leaves_no_process_and_fails_open_streams() -> None:
    async with running(workers=3) as own:
        stream = await own.open()
        push = asyncio.create_task(stream.push(QUESTION.audio))
        await asyncio.sleep(0)
        pids = own.pids()
        assert pids
        async with asyncio.timeout(3):
            await own.engine.stop()
        assert not any(exists(pid) for pid in pids | own.pids())
        with pytest.raises(Overloaded):
            await push
        with pytest.raises(Overloaded):
            await stream.push(QUESTION.audio)
        with pytest.raises(Overloaded):
            await own.open()
        await stream.close()


async def test_a_worker_loads_nothing_but_its_decoder() -> None:
    async with running() as own:
        loaded = Path(f"/proc/{own.only_pid()}/maps").read_text()  # noqa: ASYNC240
        assert "_pocketsphinx" in loaded
        for package in ("numpy", "pydantic_core", "onnxruntime", "_asyncio"):
            assert package not in loaded


async def test_workers_ignore_the_signals_of_a_terminal_and_an_init_system() -> None:
    async with running() as own:
        pid = own.only_pid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        await own.engine.check()
        assert own.only_pid() == pid


def test_a_worker_ends_when_its_parent_does() -> None:
    """The parent is killed with a decoder running: nobody is left to clean up."""
    script = (
        "import asyncio, os, sys\n"
        "from stt_server.engine.pocketsphinx import PocketsphinxEngine\n"
        "from stt_server.engine.base import StreamOptions\n"
        "from stt_server.settings import PocketsphinxSettings\n"
        "async def main():\n"
        "    await PocketsphinxEngine(PocketsphinxSettings(workers=1)).start()\n"
        "    os.write(1, b'started')\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=CLIPS.parents[1]
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.read(7) == b"started"
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        parent.kill()
    assert children
    deadline = time.monotonic() + 5
    while any(exists(int(pid)) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.01)

"""Pieces of files in the engine, beside live sessions."""

import asyncio
from collections.abc import Awaitable
from contextlib import ExitStack

import numpy as np
import pytest

from stt_server.admission import Admission
from stt_server.engine.base import (
    EngineInfo,
    RecognitionStream,
    SegmentEngine,
    StreamingEngine,
    StreamOptions,
)
from stt_server.engine.fake import Script, ScriptedEngine, ScriptedSegmentEngine
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import SAMPLE_RATE, Audio, Transcript, Word
from stt_server.files import recogniser
from stt_server.files.recogniser import Recogniser


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recogniser, "RETRY_S", 0.0)


def piece(seconds: float, *, start_s: float = 0.0) -> Audio:
    samples = np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)
    return Audio(round(start_s * SAMPLE_RATE), samples, speech=True)


def make(
    engine: StreamingEngine | SegmentEngine,
    *,
    final: SegmentEngine | None = None,
    admission: Admission | None = None,
    parallel: int | None = None,
) -> Recogniser:
    return Recogniser(
        engine,
        final,
        admission or Admission(engine.info.capacity),
        parallel=parallel,
        clock=lambda: 0.0,
    )


def hear(
    room: Recogniser, audio: Audio, *, owner: str = "file", told: list[int] | None = None
) -> Awaitable[Transcript]:
    def on_stable(words: tuple[Word, ...]) -> None:
        if told is not None:
            told.append(len(words))

    return room.hear(audio, StreamOptions(), owner=owner, on_stable=on_stable)


async def test_a_piece_gets_the_words_of_a_stream_of_its_own() -> None:
    engine = ScriptedEngine()
    heard = await hear(make(engine), piece(3.0, start_s=60.0))

    assert len(heard.words) == 10
    assert heard.words[0].start == 60 * SAMPLE_RATE
    assert engine.open_streams == 0


async def test_stable_words_are_told_before_the_end() -> None:
    told: list[int] = []
    heard = await hear(make(ScriptedEngine()), piece(3.0), told=told)

    assert told == sorted(told)
    assert 0 < told[0] < len(heard.words)


async def test_a_segment_engine_hears_the_whole_piece_at_once() -> None:
    engine = ScriptedSegmentEngine()
    heard = await hear(make(engine), piece(4.0, start_s=10.0))

    assert [word.text for word in heard.words] == ["s10", "s11", "s12", "s13"]
    assert engine.heard == [(10, 14)]


async def test_pieces_are_no_longer_than_the_engine_takes() -> None:
    short = ScriptedSegmentEngine(max_segment_s=12)

    assert make(short).longest_samples == 12 * SAMPLE_RATE
    assert make(ScriptedEngine(), final=short).longest_samples == 12 * SAMPLE_RATE
    assert make(ScriptedEngine()).longest_samples == 40 * SAMPLE_RATE


async def test_a_second_recogniser_gives_the_words() -> None:
    heard = await hear(make(ScriptedEngine(), final=ScriptedSegmentEngine()), piece(3.0))

    assert [word.text for word in heard.words] == ["s0", "s1", "s2"]


async def test_without_the_second_recogniser_the_first_one_counts() -> None:
    failing = ScriptedSegmentEngine(failing_calls=frozenset({0}))
    heard = await hear(make(ScriptedEngine(), final=failing), piece(3.0))

    assert heard.words[0].text == "the"


async def test_a_failure_is_tried_again() -> None:
    engine = ScriptedSegmentEngine(failing_calls=frozenset({0, 1}))
    heard = await hear(make(engine), piece(2.0))

    assert len(heard.words) == 2


async def test_failures_in_a_row_are_told() -> None:
    engine = ScriptedSegmentEngine(failing_calls=frozenset(range(9)))
    with pytest.raises(TranscriptionError):
        await hear(make(engine), piece(2.0))


class Gate:
    """A streaming engine whose pushes wait until they are let through."""

    def __init__(self, *, capacity: int, refusals: int = 0) -> None:
        self.info = EngineInfo("gate", "For tests.", capacity)
        self.inner = ScriptedEngine(Script(), capacity=capacity)
        self.open_gate = asyncio.Event()
        self.refusals = refusals

    async def start(self) -> None: ...
    async def check(self) -> None: ...
    async def stop(self) -> None: ...

    async def open(self, options: StreamOptions) -> RecognitionStream:
        if self.refusals:
            self.refusals -= 1
            raise Overloaded("busy")
        return _GatedStream(await self.inner.open(options), self.open_gate)


class _GatedStream:
    def __init__(self, stream: RecognitionStream, gate: asyncio.Event) -> None:
        self._stream, self._gate = stream, gate

    async def push(self, audio: Audio) -> Transcript | None:
        await self._gate.wait()
        return await self._stream.push(audio)

    async def end_turn(self) -> Transcript:
        return await self._stream.end_turn()

    async def close(self) -> None:
        await self._stream.close()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_pieces_take_half_of_an_idle_engine() -> None:
    engine = Gate(capacity=8)
    room = make(engine)
    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(hear(room, piece(1.0)))  # pyright: ignore[reportArgumentType]
        await settle()
        assert engine.inner.open_streams == 4
        engine.open_gate.set()
    assert engine.inner.open_streams == 0


async def test_live_sessions_get_their_places_back_at_once() -> None:
    engine, admission = Gate(capacity=4), Admission(4)
    room = make(engine, admission=admission, parallel=4)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(hear(room, piece(1.0)))  # pyright: ignore[reportArgumentType]
            for _ in range(4)
        ]
        await settle()
        assert engine.inner.open_streams == 4
        with ExitStack() as live:
            live.enter_context(admission.place())
            await settle()
            assert engine.inner.open_streams == 1
            for _ in range(3):
                live.enter_context(admission.place())
            await settle()
            assert engine.inner.open_streams == 0
        engine.open_gate.set()
    assert all(len(task.result().words) == 3 for task in tasks)


async def test_a_busy_engine_is_asked_again() -> None:
    engine = Gate(capacity=2, refusals=5)
    engine.open_gate.set()

    assert len((await hear(make(engine), piece(1.0))).words) == 3


async def test_files_take_turns() -> None:
    engine = Gate(capacity=2)
    room = make(engine, parallel=1)
    done: list[str] = []

    async def take(owner: str) -> None:
        await hear(room, piece(1.0), owner=owner)
        done.append(owner)

    engine.open_gate.set()
    async with asyncio.TaskGroup() as group:
        for owner in ("long", "long", "long", "short"):
            group.create_task(take(owner))

    assert done.index("short") < 3


async def test_beside_live_sessions_the_engine_rests_as_long_as_it_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, rests = 0.0, list[float]()

    async def sleep(seconds: float) -> None:
        rests.append(seconds)

    class Slow(ScriptedSegmentEngine):
        async def transcribe(self, audio: Audio, options: StreamOptions) -> Transcript:
            nonlocal now
            now += 0.7
            return await super().transcribe(audio, options)

    monkeypatch.setattr(recogniser.asyncio, "sleep", sleep)
    admission = Admission(4)
    room = Recogniser(Slow(), None, admission, parallel=None, clock=lambda: now)
    await hear(room, piece(1.0))
    assert rests == []
    with admission.place():
        await hear(room, piece(1.0))
    assert rests == [pytest.approx(0.7)]

"""Many pieces at once, words in order."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, contextmanager

import numpy as np
import pytest

from stt_server.admission import Admission
from stt_server.engine.base import RecognitionStream, StreamOptions
from stt_server.engine.fake import ScriptedEngine, ScriptedSegmentEngine
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import SAMPLE_RATE, Audio, Transcript, Word
from stt_server.files.decoders import Answer
from stt_server.files.errors import InvalidFile
from stt_server.files.recogniser import Recogniser
from stt_server.files.transcription import MOST_AHEAD, FileTranscription, Heard


def piece(start_s: int, length_s: int) -> Audio:
    samples = np.zeros(length_s * SAMPLE_RATE, dtype=np.float32)
    return Audio(start_s * SAMPLE_RATE, samples, speech=True)


class Source:
    """A file of one piece every 10 s."""

    def __init__(self, pieces: int, *, length_s: int = 2, damage_at: int | None = None) -> None:
        self._pieces = pieces
        self._length_s = length_s
        self._damage_at = damage_at
        self.reads = 0

    async def read(self) -> Answer:
        await asyncio.sleep(0)
        if self.reads == self._damage_at:
            raise InvalidFile("damaged")
        self.reads += 1
        at = 10 * (self.reads - 1)
        return Answer(
            (at + 10) * SAMPLE_RATE, (piece(at, self._length_s),), is_end=self.reads == self._pieces
        )


def recogniser(engine: ScriptedEngine | ScriptedSegmentEngine | None = None) -> Recogniser:
    engine = engine or ScriptedSegmentEngine()
    return Recogniser(engine, None, Admission(64), parallel=8, clock=lambda: 0.0)


@contextmanager
def full_recogniser() -> Iterator[Recogniser]:
    """One without a place for files."""
    admission = Admission(1)
    with admission.place():
        engine = ScriptedEngine(capacity=1)
        yield Recogniser(engine, None, admission, parallel=None, clock=lambda: 0.0)


async def heard(
    source: Source, room: Recogniser | None = None, *, patience_s: float = 10.0
) -> tuple[list[Heard], FileTranscription]:
    file = FileTranscription(source, room or recogniser(), StreamOptions(), patience_s=patience_s)
    try:
        await file.probe()
        async with aclosing(file.heard()) as news:
            return [item async for item in news], file
    finally:
        await file.close()


def texts(found: list[Heard]) -> list[str]:
    return [word.text for item in found for word in item.words]


async def test_words_come_in_order_with_times_of_the_file() -> None:
    found, file = await heard(Source(40))

    assert texts(found) == [f"s{second}" for at in range(40) for second in (10 * at, 10 * at + 1)]
    assert sum(item.ends_piece for item in found) == 40
    assert file.seconds == 400.0


async def test_a_silent_file_has_no_words() -> None:
    class Silence:
        async def read(self) -> Answer:
            return Answer(5 * SAMPLE_RATE, is_end=True)

    file = FileTranscription(Silence(), recogniser(), StreamOptions(), patience_s=1.0)
    await file.probe()
    assert [item async for item in file.heard()] == []
    assert file.seconds == 5.0


async def test_stable_words_come_before_their_piece_is_done() -> None:
    found, _ = await heard(Source(3), recogniser(ScriptedEngine()))
    first_end = next(index for index, item in enumerate(found) if item.ends_piece)

    assert first_end > 0
    assert len(texts(found)) == 3 * 6


async def test_damage_further_on_is_told() -> None:
    with pytest.raises(InvalidFile):
        await heard(Source(10, damage_at=4))


async def test_a_piece_that_cannot_be_recognised_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stt_server.files.recogniser.RETRY_S", 0.0)
    engine = ScriptedSegmentEngine(failing_calls=frozenset(range(99)))
    with pytest.raises(TranscriptionError):
        await heard(Source(3), recogniser(engine))


async def test_reading_waits_for_the_recogniser() -> None:
    source = Source(1_000)
    with full_recogniser() as room:
        with pytest.raises(Overloaded):
            await heard(source, room, patience_s=0.2)
        assert source.reads == MOST_AHEAD


async def test_what_was_told_is_not_told_again_when_a_piece_is_heard_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stt_server.files.recogniser.RETRY_S", 0.0)
    engine = Forgetful()
    found, _ = await heard(Source(1, length_s=6), recogniser(engine))

    assert engine.opened == 2
    assert texts(found) == [f"s{second}" for second in range(6)]


class Forgetful(ScriptedEngine):
    """Hears a word a second; fails after three of the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0

    async def open(self, options: StreamOptions) -> RecognitionStream:
        self.opened += 1
        return _ForgetfulStream(fails_after=3 if self.opened == 1 else 99)


class _ForgetfulStream:
    def __init__(self, *, fails_after: int) -> None:
        self._fails_after = fails_after
        self._words: tuple[Word, ...] = ()

    async def push(self, audio: Audio) -> Transcript | None:
        await asyncio.sleep(0.01)
        if len(self._words) == self._fails_after:
            raise TranscriptionError("forgotten")
        self._words += (Word(f"s{len(self._words)}", audio.start, audio.end),)
        return Transcript(self._words, stable=len(self._words))

    async def end_turn(self) -> Transcript:
        return Transcript(self._words, stable=len(self._words))

    async def close(self) -> None: ...


async def test_closing_ends_what_is_under_way() -> None:
    with full_recogniser() as room:
        file = FileTranscription(Source(5), room, StreamOptions(), patience_s=9.0)
        before = asyncio.all_tasks()
        await file.probe()
        assert asyncio.all_tasks() != before
        await file.close()
        assert asyncio.all_tasks() == before

"""A streaming engine that follows a script: for tests and load, where nothing must be heard."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stt_server.engine.base import EngineInfo, SpeculativeStream, StreamOptions
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import SAMPLE_RATE, Audio, Transcript, Word

DEFAULT_SCRIPT = ("the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog")
WORD_SAMPLES = SAMPLE_RATE * 3 // 10


@dataclass(frozen=True, slots=True)
class Script:
    """What is "heard": one word per 0.3 s of a turn, over and over."""

    words: Sequence[str] = DEFAULT_SCRIPT
    step_s: float = 0.0
    """Time each call takes, as if a device was busy."""
    failing_turns: frozenset[int] = frozenset()
    """Turns (from 0) whose first second fails."""
    late_words: int = 0
    """So many of the last words are heard only when speech pauses or the turn ends."""
    turn_ends: Mapping[str, float] = field(default_factory=dict[str, float])
    """Words behind which the model says that the turn is complete, and how sure it is."""
    turn_end_s: float = 0.0
    """Silence that it wants to hear for that after speech has paused."""


class ScriptedEngine:
    """Text that depends on the amount of a turn's audio alone, up to where speech paused.

    A `StreamingEngine` with `SpeculativeStream`s.
    """

    def __init__(self, script: Script | None = None, *, capacity: int = 4_096) -> None:
        self._script = script or Script()
        self._open_streams = 0
        self.info = EngineInfo(
            name="scripted",
            summary="Recognises nothing: a fixed text for tests and load.",
            capacity=capacity,
            speculates=True,
            marks_turn_ends=bool(self._script.turn_ends),
        )

    @property
    def open_streams(self) -> int:
        return self._open_streams

    async def start(self) -> None:
        """Nothing to load."""

    async def check(self) -> None:
        """Always well."""

    async def stop(self) -> None:
        """Nothing to free."""

    async def open(self, options: StreamOptions) -> SpeculativeStream:
        if self._open_streams >= self.info.capacity:
            raise Overloaded("all places are taken, try again later")
        self._open_streams += 1
        return _ScriptedStream(self, self._script)

    def release(self) -> None:
        """A stream gives its place back."""
        self._open_streams -= 1


class _ScriptedStream:
    def __init__(self, engine: ScriptedEngine, script: Script) -> None:
        self._engine = engine
        self._script = script
        self._turn = 0
        self._start: int | None = None
        self._end = 0
        self._paused_at: int | None = None
        self._failed = False

    async def push(self, audio: Audio) -> Transcript | None:
        if self._script.step_s:
            await asyncio.sleep(self._script.step_s)
        if self._start is None:
            self._start = audio.start
        before = self._shown_words()
        self._end = audio.end
        fails = self._turn in self._script.failing_turns and not self._failed
        if fails and self._end - self._start >= SAMPLE_RATE:
            self._failed, self._start, self._paused_at = True, None, None
            raise TranscriptionError("the script says that this turn fails")
        if self._paused_at is not None or self._shown_words() == before:
            return None
        return Transcript(self._words(self._shown_words()), stable=max(0, self._shown_words() - 1))

    async def pause(self) -> Transcript:
        if self._paused_at is None:
            self._paused_at = self._end
        words = self._words(self._word_count())
        silence = self._end - self._paused_at
        sureness = self._script.turn_ends.get(words[-1].text) if words else None
        has_said_so = silence >= self._script.turn_end_s * SAMPLE_RATE
        return Transcript(words, stable=len(words), ends_turn=sureness if has_said_so else None)

    async def resume(self) -> None:
        self._paused_at = None

    async def end_turn(self) -> Transcript:
        words = self._words(self._word_count())
        self._turn += 1
        self._start, self._paused_at, self._failed = None, None, False
        return Transcript(words, stable=len(words))

    async def close(self) -> None:
        self._engine.release()

    def _word_count(self) -> int:
        end = self._end if self._paused_at is None else self._paused_at
        return 0 if self._start is None else (end - self._start) // WORD_SAMPLES

    def _shown_words(self) -> int:
        return max(0, self._word_count() - self._script.late_words)

    def _words(self, count: int) -> tuple[Word, ...]:
        start, script = self._start or 0, self._script.words
        return tuple(
            Word(
                script[index % len(script)],
                start + index * WORD_SAMPLES,
                start + (index + 1) * WORD_SAMPLES,
                confidence=1.0,
            )
            for index in range(count)
        )


class ScriptedSegmentEngine:
    """Hears the word `sN` in second N of the stream. A `SegmentEngine` for tests."""

    def __init__(
        self, *, max_segment_s: int = 40, failing_calls: frozenset[int] = frozenset()
    ) -> None:
        self.max_segment_samples = max_segment_s * SAMPLE_RATE
        self.heard: list[tuple[int, int]] = []
        """Start and end second of each call."""
        self._failing_calls = failing_calls
        self.info = EngineInfo(
            name="scripted", summary="Recognises nothing: for tests.", capacity=4_096
        )

    async def start(self) -> None:
        """Nothing to load."""

    async def check(self) -> None:
        """Always well."""

    async def stop(self) -> None:
        """Nothing to free."""

    async def transcribe(self, audio: Audio, options: StreamOptions) -> Transcript:
        first, last = audio.start // SAMPLE_RATE, audio.end // SAMPLE_RATE
        self.heard.append((first, last))
        if len(self.heard) - 1 in self._failing_calls:
            raise TranscriptionError("the script says that this call fails")
        words = tuple(
            Word(f"s{second}", second * SAMPLE_RATE, (second + 1) * SAMPLE_RATE)
            for second in range(first, last)
        )
        return Transcript(words, stable=len(words))

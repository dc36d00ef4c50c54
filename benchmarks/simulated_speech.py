"""Turns spoken from a seed, and an engine that hears them with errors that depend on the piece."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import merge
import numpy as np

from stt_server.engine.base import EngineInfo, StreamOptions
from stt_server.events import (
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    Audio,
    Samples,
    StreamEvent,
    Transcript,
    Word,
)

WINDOW_S = 40.0
EDGE_WORDS = 2
EDGE_FACTOR = 3.0
"""How much worse the first and last words of a piece are heard."""
HARD_SHARE = 0.5
"""Errors that every piece makes alike; the others depend on the piece."""
TIME_ERROR_S = 0.2
CALL_S, CALL_S_PER_S = 0.1, 0.03
"""What a recognition takes, plus so much for each second of audio."""
PACKET = SAMPLE_RATE // 10


@dataclass(frozen=True, slots=True)
class Speech:
    """One turn and the silence after it."""

    words: list[Word]
    samples: int

    @property
    def seconds(self) -> float:
        """From the first word to the last."""
        return (self.words[-1].end - self.words[0].start) / SAMPLE_RATE


def say(rng: random.Random, length_s: float) -> Speech:
    """Sentences of about `length_s` at 2.5 to 3 words a second, with pauses at commas and stops."""
    words: list[Word] = []
    at = 0.8
    for text in merge.speak(rng, round(3.2 * length_s)):
        if at > length_s:
            break
        end = at + 0.1 + 0.045 * len(text)
        words.append(Word(text, round(at * SAMPLE_RATE), round(end * SAMPLE_RATE)))
        at = end
        if text[-1] in ",.?!" or rng.random() < 0.03:
            at += min(0.15 + rng.expovariate(1 / 0.4), 1.3)
    return Speech(words, words[-1].end + 2 * SAMPLE_RATE)


@dataclass
class SimulatedEngine:
    """Hears with errors that depend on the piece. A `SegmentEngine`.

    At rate 0 it still garbles or loses a word through which a piece is cut, and writes every
    piece as sentences of its own.
    """

    speech: Speech
    error_rate: float
    seed: int
    asked: list[Audio] = field(default_factory=list[Audio])
    answers: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    """What was heard in the first piece that ended at a sample."""

    info = EngineInfo(name="simulated", summary="For the benchmark.", capacity=1)
    max_segment_samples = round(WINDOW_S * SAMPLE_RATE)

    async def start(self) -> None: ...

    async def check(self) -> None: ...

    async def stop(self) -> None: ...

    async def transcribe(self, audio: Audio, options: StreamOptions) -> Transcript:
        self.asked.append(audio)
        await asyncio.sleep(CALL_S + CALL_S_PER_S * len(audio.samples) / SAMPLE_RATE)
        words = self._hear(audio)
        self.answers.setdefault(audio.end, [word.text for word in words])
        return Transcript(words, stable=len(words))

    def _hear(self, audio: Audio) -> tuple[Word, ...]:
        inside = [
            (number, word)
            for number, word in enumerate(self.speech.words)
            if word.end > audio.start and word.start < audio.end
        ]
        rng = random.Random(f"{self.seed} {audio.start} {audio.end}")
        heard: list[Word] = []
        for position, (number, word) in enumerate(inside):
            is_edge = min(position, len(inside) - 1 - position) < EDGE_WORDS
            rate = self.error_rate * (EDGE_FACTOR if is_edge else 1.0)
            if word.start < audio.start or word.end > audio.end:
                texts = _cut_through(rng, word.text, word.start < audio.start)
            else:
                texts = self._with_error(rng, word.text, number, min(rate, 0.9))
            shift = round(rng.uniform(-TIME_ERROR_S, TIME_ERROR_S) * SAMPLE_RATE)
            start = max(audio.start, word.start + shift)
            heard += [Word(text, start, max(start, word.end + shift)) for text in texts]
        return _as_sentence(heard)

    def _with_error(self, rng: random.Random, text: str, number: int, rate: float) -> list[str]:
        hard = random.Random(f"{self.seed} {self.error_rate} {number}")
        if hard.random() < self.error_rate * HARD_SHARE:
            return _misheard(hard, text)
        if rng.random() < rate - self.error_rate * HARD_SHARE:
            return _misheard(rng, text)
        if rng.random() < self.error_rate:
            text = text.strip(",.?!") if rng.random() < 0.5 else text.capitalize()
        return [text]


def _misheard(rng: random.Random, text: str) -> list[str]:
    """Half of the errors replace a word, the others lose it or add one."""
    other = rng.choice(merge.speak(rng, 10))
    return rng.choice(([other], [other], [], [text, other]))


def _cut_through(rng: random.Random, text: str, is_first: bool) -> list[str]:
    half = (len(text) + 1) // 2
    return rng.choice(([text[-half:] if is_first else text[:half]], []))


def _as_sentence(words: list[Word]) -> tuple[Word, ...]:
    if not words:
        return ()
    first, *rest = words
    words = [Word(first.text[:1].upper() + first.text[1:], first.start, first.end), *rest]
    last = words[-1]
    words[-1] = Word(last.text.rstrip(",.?!") + ".", last.start, last.end)
    return tuple(words)


class ScriptedDetector:
    """Speech where words are. A `SpeechProbabilities`."""

    def __init__(self, speech: Speech) -> None:
        self._probabilities = np.zeros(speech.samples // WINDOW_SAMPLES + 1)
        for word in speech.words:
            self._probabilities[word.start // WINDOW_SAMPLES : word.end // WINDOW_SAMPLES] = 0.9
        self._taken = 0

    async def push(self, samples: Samples) -> list[float]:
        before = self._taken // WINDOW_SAMPLES
        self._taken += len(samples)
        return self._probabilities[before : self._taken // WINDOW_SAMPLES].tolist()

    def reset(self) -> None:
        """Knows nothing to forget."""


async def microphone(speech: Speech) -> AsyncIterator[StreamEvent]:
    for start in range(0, speech.samples, PACKET):
        await asyncio.sleep(PACKET / SAMPLE_RATE)
        length = min(PACKET, speech.samples - start)
        yield Audio(start, np.zeros(length, dtype=np.float32))

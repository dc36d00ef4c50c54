"""The embedded recogniser: pocketsphinx behind the streaming-engine interface.

Works with no download at all, with modest accuracy. Its decoder holds the interpreter lock while
it computes, so each stream is served by a process of its own (pocketsphinx_worker.py).
"""

import asyncio
import importlib.util
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stt_server.engine.base import EngineInfo, EngineUnavailable, StreamOptions
from stt_server.engine.cpus import usable_cpus
from stt_server.engine.pocketsphinx_worker import AUDIO, END, RESET
from stt_server.engine.vowel import synthesise_vowel
from stt_server.engine.worker_process import (
    LossCounter,
    WorkerLimits,
    WorkerLost,
    WorkerPool,
    WorkerProcess,
)
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import SAMPLE_RATE, Audio, Samples, Transcript, Word
from stt_server.settings import PocketsphinxSettings

logger = logging.getLogger(__name__)

SUMMARY = (
    "pocketsphinx (US English, runs on the CPU without any download): "
    "accuracy is modest, expect wrong words in everyday speech"
)

REQUEST_SAMPLES = SAMPLE_RATE
"""A longer push is sent in parts, so that no request takes long to answer or to abandon."""

CHECK_S = 10.0
EVIDENCE_S = 60.0
"""A worker that answered within this time needs no further proof of life."""


class PocketsphinxEngine:
    """Streams served by a bounded pool of worker processes."""

    def __init__(
        self, settings: PocketsphinxSettings, *, limits: WorkerLimits | None = None
    ) -> None:
        self._limits = limits or WorkerLimits()
        worker = Path(__file__).with_name("pocketsphinx_worker.py")
        self._pool = WorkerPool(
            # -P: the script's own folder holds a pocketsphinx.py and must not be searched.
            [sys.executable, "-P", str(worker), json.dumps(sys.path)],
            size=settings.workers or 2 * usable_cpus(),
            limits=self._limits,
            prepare=self._prepare,
            clean=self._clean,
        )
        self._streams: set[PocketsphinxStream] = set()

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(name="pocketsphinx", summary=SUMMARY, capacity=self._pool.size)

    async def start(self) -> None:
        """Start the first worker; returns once it has recognised a sound.

        Raises:
            EngineUnavailable: the package is missing or its decoder does not work.
        """
        if importlib.util.find_spec("pocketsphinx") is None:
            raise EngineUnavailable(
                "the pocketsphinx package is missing: install it with `pip install pocketsphinx`"
            )
        try:
            self._pool.give_back(await self._pool.borrow())
        except Overloaded as error:
            raise EngineUnavailable(
                "pocketsphinx does not start: the log has what its process wrote"
            ) from error
        logger.info("engine.ready", extra={"engine": "pocketsphinx", "capacity": self._pool.size})

    async def check(self) -> None:
        """Recognise a sound; when every place is taken, ask for a sign of life only.

        Raises:
            EngineUnavailable: no worker answered in time.
        """
        try:
            async with asyncio.timeout(CHECK_S):
                if len(self._streams) < self._pool.size:
                    await self._check_spare()
                else:
                    await self._check_taken()
        except (TimeoutError, WorkerLost, Overloaded) as error:
            raise EngineUnavailable("pocketsphinx does not answer") from error

    async def stop(self) -> None:
        """Kill every worker; open streams fail with `Overloaded`."""
        await self._pool.stop()

    async def open(self, options: StreamOptions) -> "PocketsphinxStream":
        """Take a worker; it has no use for `options`.

        Raises:
            Overloaded: no place is free, or workers do not start.
        """
        if len(self._streams) >= self._pool.size:
            raise Overloaded("every place of the recogniser is taken")
        stream = PocketsphinxStream(self._pool, self._limits, on_close=self._streams.discard)
        self._streams.add(stream)
        try:
            await stream.prepare()
        except BaseException:
            self._streams.discard(stream)
            raise
        return stream

    async def _check_spare(self) -> None:
        worker = await self._pool.borrow()
        try:
            await self._recognise_sound(worker, deadline_s=CHECK_S)
        finally:
            self._pool.give_back(worker)

    async def _check_taken(self) -> None:
        latest = max(self._pool.workers, key=lambda worker: worker.answered_at, default=None)
        if latest is None:
            raise WorkerLost("no worker is running")
        if time.monotonic() - latest.answered_at > EVIDENCE_S:
            await latest.ask(AUDIO, deadline_s=CHECK_S)

    async def _prepare(self, worker: WorkerProcess) -> None:
        await self._recognise_sound(worker, deadline_s=self._limits.start_s)
        await self._clean(worker)

    async def _clean(self, worker: WorkerProcess) -> None:
        await worker.ask(RESET, deadline_s=self._limits.answer_s)

    async def _recognise_sound(self, worker: WorkerProcess, *, deadline_s: float) -> None:
        """Have a worker that serves nobody recognise a spoken vowel."""
        await worker.ask(AUDIO, to_pcm16(synthesise_vowel()), deadline_s=deadline_s)
        heard = json.loads(await worker.ask(END, deadline_s=deadline_s))
        if not heard["settled"]:
            raise WorkerLost(f"worker {worker.pid} did not recognise a vowel")


@dataclass(slots=True)
class OpenTurn:
    """The part of a turn that has been pushed; `settled` words no longer change."""

    worker: WorkerProcess
    start: int
    end: int
    settled: list[Word] = field(default_factory=list[Word])

    def read(self, answer: bytes) -> Transcript:
        """Take over what a worker answered."""
        heard = json.loads(answer)
        self.settled += self._words(heard["settled"])
        words = (*self.settled, *self._words(heard["open"]))
        return Transcript(words=words, stable=len(self.settled))

    def _words(self, heard: list[list[Any]]) -> list[Word]:
        return [
            Word(
                text,
                start=min(self.start + start, self.end),
                end=min(self.start + end, self.end),
                confidence=confidence,
            )
            for text, start, end, confidence in heard
        ]


class PocketsphinxStream:
    """One session's recogniser: a borrowed worker and the open turn."""

    def __init__(
        self,
        pool: WorkerPool,
        limits: WorkerLimits,
        *,
        on_close: Callable[["PocketsphinxStream"], None],
    ) -> None:
        self._pool = pool
        self._answer_s = limits.answer_s
        self._on_close = on_close
        self._losses = LossCounter(limits)
        self._worker: WorkerProcess | None = None
        self._turn: OpenTurn | None = None
        self._latest = Transcript()

    async def prepare(self) -> WorkerProcess:
        """A worker for the turn that begins.

        Raises:
            Overloaded: there is none to be had, or this stream lost too many.
        """
        if self._losses.is_exceeded:
            raise Overloaded("the recogniser failed too often on this stream")
        if self._worker is None or self._worker.is_lost:
            self._worker = await self._pool.borrow()
        return self._worker

    async def push(self, audio: Audio) -> Transcript | None:
        """Decode `audio`; returns the turn's transcript if it differs from the last."""
        opens_turn = self._turn is None
        try:
            return await self._hear(audio)
        except TranscriptionError:
            if not opens_turn:
                raise
            # The whole turn is at hand: a worker that died while nobody spoke costs nothing.
            return await self._hear(audio)

    async def _hear(self, audio: Audio) -> Transcript | None:
        if self._turn is None:
            worker = await self.prepare()
            self._turn = OpenTurn(worker, start=audio.start, end=audio.start)
            self._latest = Transcript()
        turn, transcript = self._turn, self._latest
        for at in range(0, len(audio.samples), REQUEST_SAMPLES):
            part = audio.samples[at : at + REQUEST_SAMPLES]
            turn.end += len(part)
            transcript = turn.read(await self._ask(turn.worker, AUDIO, to_pcm16(part)))
        if transcript == self._latest:
            return None
        self._latest = transcript
        return transcript

    async def end_turn(self) -> Transcript:
        """The turn's words with times and confidences."""
        turn = self._turn
        if turn is None:
            return Transcript()
        transcript = turn.read(await self._ask(turn.worker, END))
        self._turn = None
        return replace(transcript, confidence=mean_confidence(transcript.words))

    async def close(self) -> None:
        """Hand the worker back; it is made fit for another stream in the background."""
        self._release_worker()
        self._on_close(self)

    async def _ask(self, worker: WorkerProcess, kind: bytes, payload: bytes = b"") -> bytes:
        try:
            return await worker.ask(kind, payload, deadline_s=self._answer_s)
        except WorkerLost as error:
            self._release_worker()
            self._losses.add()
            if self._pool.is_stopped:
                raise Overloaded("the recogniser is shutting down") from error
            raise TranscriptionError("the recogniser failed; this turn's words are lost") from error
        except asyncio.CancelledError:
            self._release_worker()
            raise

    def _release_worker(self) -> None:
        self._turn = None
        if self._worker is not None:
            self._pool.give_back(self._worker)
            self._worker = None


def mean_confidence(words: tuple[Word, ...]) -> float | None:
    """The words' mean posterior, each weighted by its length; None without words."""
    total = sum(word.end - word.start for word in words)
    if not total:
        return None
    weighted = sum((word.confidence or 0.0) * (word.end - word.start) for word in words)
    return round(weighted / total, 3)


def to_pcm16(samples: Samples) -> bytes:
    """Samples in [-1, 1] as little-endian PCM16; louder ones are clipped."""
    return (np.clip(samples, -1.0, 1.0) * 32_767).astype("<i2").tobytes()

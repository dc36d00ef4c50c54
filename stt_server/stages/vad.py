"""Audio in; audio, speech and turn events out."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Protocol, TypeAlias

from stt_server.engine.base import HearsPauses, TurnDetector
from stt_server.events import (
    Audio,
    Clear,
    Configure,
    Flush,
    Samples,
    SpeechPaused,
    Stall,
    StreamEvent,
    TurnCheck,
    TurnEagerEnd,
    TurnEnded,
    TurnEndReason,
)
from stt_server.metrics import Metrics
from stt_server.pipeline import Progress, Stage
from stt_server.settings import DetectorName, EndpointingSettings
from stt_server.turns.splitter import TurnSplitter
from stt_server.turns.turn_ends import Step, TurnEnds

TurnDetectors: TypeAlias = Mapping[DetectorName, Callable[[], TurnDetector]]
"""What makes a session's detector of each kind that the server has; `silence` needs none."""


class SpeechProbabilities(Protocol):
    """The voice activity detector of one stream."""

    async def push(self, samples: Samples) -> list[float]:
        """Probabilities of the windows that `samples` complete, oldest first."""
        ...

    def reset(self) -> None:
        """Forget what was heard."""
        ...


class VadStage(Stage[StreamEvent, StreamEvent]):
    """Finds speech and turns.

    A turn detector hears the audio of turns and is asked in their pauses, each time before the
    next window of audio is judged: turns end where they end however far ahead the client sends.
    """

    def __init__(
        self,
        detector: SpeechProbabilities,
        endpointing: EndpointingSettings,
        progress: Progress,
        *,
        turn_detectors: TurnDetectors | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._detector = detector
        self._endpointing = endpointing
        self._progress = progress
        self._splitter = TurnSplitter(endpointing)
        self._ends = TurnEnds(endpointing)
        self._turn_detectors = turn_detectors or {}
        self._metrics = metrics
        self._turn_detector = self._open_turn_detector()

    async def run(self, inputs: AsyncIterator[StreamEvent]) -> AsyncGenerator[StreamEvent, None]:
        try:
            async for event in inputs:
                if isinstance(event, Audio) and self._ends.acts:
                    async with aclosing(self._split_acting(event.samples)) as outs:
                        async for out in outs:
                            yield out
                else:
                    for out in await self._react(event):
                        yield out
                        await self._inform(out)
            rest = self._splitter.finish()
            self._note_progress()
            for out in rest:
                yield out
        finally:
            if self._turn_detector is not None:
                await self._turn_detector.close()

    async def _react(self, event: StreamEvent) -> list[StreamEvent]:
        out: list[StreamEvent] = []
        match event:
            case Audio(samples=samples):
                probabilities = await self._detector.push(samples)
                out.extend(self._splitter.push(samples, probabilities))
            case Flush(reason=reason):
                out.extend(self._splitter.end_turn(reason))
                out.append(event)
            case Clear():
                out.extend(self._splitter.drop_turn())
                out.append(Clear(self._splitter.at))
            case Stall():
                out.extend(self._splitter.end_turn(TurnEndReason.STALL))
                # It would go on hearing the word that broke off.
                self._detector.reset()
            case Configure(options=options):
                out.extend(await self._configure(options.endpointing))
                out.append(event)
            case _:
                out.append(event)
        self._note_progress()
        return out

    async def _split_acting(self, samples: Samples) -> AsyncGenerator[StreamEvent, None]:
        """Like `Audio` in `_react`, with all that follows from pauses."""
        probabilities = await self._detector.push(samples)
        for window in self._splitter.split(samples, probabilities):
            self._progress.turn_open = self._splitter.turn_open
            for out in window:
                yield out
                await self._inform(out)
            for out in window:
                if isinstance(out, SpeechPaused | TurnCheck) and self._splitter.turn_open:
                    for consequence in await self._consider(out):
                        yield consequence
                        await self._inform(consequence)
        self._note_progress()

    async def _consider(self, event: SpeechPaused | TurnCheck) -> list[StreamEvent]:
        if isinstance(event, SpeechPaused):
            self._ends.pause(event.at)
            if isinstance(self._turn_detector, HearsPauses):
                self._turn_detector.pause(event.at)
        detector = self._turn_detector if self._ends.asks else None
        sureness = await self._ask(detector) if detector is not None else None
        match self._ends.decide(sureness):
            case Step.END:
                assert detector is not None
                out = self._splitter.yield_floor(detector.reason, sureness)
                self._progress.turn_open = False
                return [*out]
            case Step.TELL_EAGER_END:
                return [TurnEagerEnd(self._ends.paused_at, sureness)]
            case Step.GO_ON:
                return []

    async def _ask(self, detector: TurnDetector) -> float | None:
        began = time.monotonic()
        sureness = await detector.judge()
        if self._metrics is not None:
            taken = self._metrics.turn_detector_seconds.labels(self._endpointing.detector)
            taken.observe(time.monotonic() - began)
        return sureness

    async def _inform(self, event: StreamEvent) -> None:
        """Keep the turn detector up to date with what left the stage."""
        if self._turn_detector is None:
            return
        match event:
            case Audio(speech=True) if self._ends.acts:
                await self._turn_detector.hear(event)
            case TurnEnded() | Clear():
                await self._turn_detector.reset()
            case _:
                pass

    async def _configure(self, endpointing: EndpointingSettings) -> Sequence[StreamEvent]:
        is_other = endpointing.detector is not self._endpointing.detector
        self._endpointing = endpointing
        out = self._splitter.configure(endpointing)
        self._ends.configure(endpointing)
        if is_other:
            if self._turn_detector is not None:
                await self._turn_detector.close()
            self._turn_detector = self._open_turn_detector()
        return out

    def _open_turn_detector(self) -> TurnDetector | None:
        make = self._turn_detectors.get(self._endpointing.detector)
        return make() if make is not None else None

    def _note_progress(self) -> None:
        self._progress.held = self._splitter.held_samples
        self._progress.turn_open = self._splitter.turn_open

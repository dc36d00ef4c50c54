"""Audio in; audio, speech and turn events out."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from stt_server.events import (
    Audio,
    Configure,
    Flush,
    Samples,
    Stall,
    StreamEvent,
    TurnEndReason,
)
from stt_server.pipeline import Progress, Stage
from stt_server.settings import EndpointingSettings
from stt_server.turns.splitter import TurnSplitter


class SpeechProbabilities(Protocol):
    """The voice activity detector of one stream."""

    async def push(self, samples: Samples) -> list[float]:
        """Probabilities of the windows that `samples` complete, oldest first."""
        ...

    def reset(self) -> None:
        """Forget what was heard."""
        ...


class VadStage(Stage[StreamEvent, StreamEvent]):
    """Finds speech and turns."""

    def __init__(
        self, detector: SpeechProbabilities, endpointing: EndpointingSettings, progress: Progress
    ) -> None:
        self._detector = detector
        self._splitter = TurnSplitter(endpointing)
        self._progress = progress

    async def run(self, inputs: AsyncIterator[StreamEvent]) -> AsyncGenerator[StreamEvent, None]:
        async for event in inputs:
            for out in await self._react(event):
                yield out
        rest = self._splitter.finish()
        self._note_progress()
        for out in rest:
            yield out

    async def _react(self, event: StreamEvent) -> list[StreamEvent]:
        out: list[StreamEvent] = []
        match event:
            case Audio(samples=samples):
                probabilities = await self._detector.push(samples)
                out.extend(self._splitter.push(samples, probabilities))
            case Flush():
                out.extend(self._splitter.end_turn(TurnEndReason.FLUSH))
                out.append(event)
            case Stall():
                out.extend(self._splitter.end_turn(TurnEndReason.STALL))
                # It would go on hearing the word that broke off.
                self._detector.reset()
            case Configure(options=options):
                self._splitter.configure(options.endpointing)
                out.append(event)
            case _:
                out.append(event)
        self._note_progress()
        return out

    def _note_progress(self) -> None:
        self._progress.held = self._splitter.held_samples
        self._progress.turn_open = self._splitter.turn_open

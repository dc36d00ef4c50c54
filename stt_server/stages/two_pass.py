"""Interims by a streaming engine, the final of each turn by a segment engine."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from enum import StrEnum

from stt_server.engine.base import SegmentEngine, StreamOptions
from stt_server.errors import SttError
from stt_server.events import (
    Audio,
    Clear,
    Configure,
    Hypothesis,
    SegmentEnded,
    SpeechPaused,
    SpeechStarted,
    StreamError,
    StreamEvent,
    Transcript,
    TurnEagerEnd,
    TurnEnded,
    TurnResumed,
)
from stt_server.metrics import Metrics
from stt_server.pipeline import Stage
from stt_server.settings import SessionOptions
from stt_server.turns.second_pass import TurnRecording, second_final

logger = logging.getLogger(__name__)


class Outcome(StrEnum):
    """What became of a second pass."""

    READY = "ready"
    """Its text is the turn's final."""
    LATE = "late"
    FAILED = "failed"
    EMPTY = "empty"
    """It heard no word where the first pass did."""
    DROPPED = "dropped"
    """Speech went on, pieces of the turn became final, or the session ended."""


class TwoPassStage(Stage[StreamEvent, StreamEvent]):
    """Listens to what goes into a streaming stage and replaces the finals that come out.

    The second pass hears the whole turn. It begins when speech pauses and is dropped when speech
    goes on; it begins anew when the streaming final has words behind what it heard. From the turn's
    end it has `timeout_s`, during which nothing else goes through this stage; then, or when it
    fails, the streaming final stands. A turn that is longer than the segment engine's window keeps
    its streaming final, and so does one of which pieces may already be final (`segment_finals`).
    The streaming engine's failures are told only where it has the word, and then the first one of
    what could still have been heard by the second pass.
    """

    def __init__(
        self,
        streaming: Stage[StreamEvent, StreamEvent],
        engine: SegmentEngine,
        options: SessionOptions,
        metrics: Metrics,
        *,
        timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._streaming = streaming
        self._engine = engine
        self._options = options
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._clock = clock
        self._recording = TurnRecording(engine.max_segment_samples)
        self._is_cut = self._segment_finals = False
        self._pass: asyncio.Task[Transcript] | None = None
        self._pass_end = 0
        self._deadline = 0.0
        self._error: StreamError | None = None

    async def run(self, inputs: AsyncIterator[StreamEvent]) -> AsyncGenerator[StreamEvent, None]:
        try:
            async with aclosing(self._streaming.run(_Tapped(inputs, self._listen))) as events:
                async for event in events:
                    for out in await self._pass_on(event):
                        yield out
        finally:
            await self._drop()

    # Into the streaming stage

    async def _listen(self, event: StreamEvent) -> None:
        match event:
            case Audio(speech=True):
                self._recording.append(event)
            case SpeechStarted(opens_turn=opens_turn):
                await self._drop()
                if opens_turn:
                    self._recording = TurnRecording(self._engine.max_segment_samples)
                    self._is_cut, self._segment_finals = False, self._options.segment_finals
            case SpeechPaused():
                await self._begin()
            case SegmentEnded():
                self._is_cut = True
                await self._give_up_if_pieces()
            case TurnEnded():
                self._deadline = self._clock() + self._timeout_s
                if self._pass is None or (self._pass.done() and self._pass.exception() is not None):
                    await self._begin()
            case Clear():
                self._recording.give_up()
                self._error = None
                await self._drop()
            case Configure(options=options):
                self._options = options
                self._segment_finals |= options.segment_finals
                await self._give_up_if_pieces()
            case _:
                pass

    async def _begin(self) -> None:
        await self._drop()
        audio = self._recording.whole()
        if audio is not None:
            self._pass_end = audio.end
            self._pass = asyncio.create_task(self._hear(audio), name="second pass")

    async def _give_up_if_pieces(self) -> None:
        """Pieces may be final, of the cuts before segment finals were asked for, too."""
        if self._is_cut and self._segment_finals:
            self._recording.give_up()
            await self._drop()

    async def _hear(self, audio: Audio) -> Transcript:
        began = self._clock()
        transcript = await self._engine.transcribe(audio, StreamOptions.of(self._options))
        self._metrics.second_pass_seconds.observe(self._clock() - began)
        return transcript

    # Out of it

    async def _pass_on(self, event: StreamEvent) -> list[StreamEvent]:
        if isinstance(event, TurnEagerEnd | TurnResumed):
            return []  # its text is not that of the final
        if isinstance(event, StreamError) and self._recording.is_kept:
            self._error = self._error or event
            return []
        if isinstance(event, Hypothesis) and event.is_final:
            second = await self._second(event)
            # The session may be silent for hours: its audio is not kept.
            self._recording.give_up()
            if second is not None:
                self._error = None
                return [second]
        if self._error is None or self._recording.is_kept:
            return [event]
        error, self._error = self._error, None
        return [error, event]

    async def _second(self, first: Hypothesis) -> Hypothesis | None:
        """The final by the second pass; None when the streaming one stands."""
        if self._pass is not None and any(word.end > self._pass_end for word in first.words):
            # Said after the last pause, too softly for the detector or just before the end.
            await self._begin()
        if self._pass is None:
            return None
        running = self._pass
        await asyncio.wait([running], timeout=max(0.0, self._deadline - self._clock()))
        if not running.done():
            await self._drop(Outcome.LATE)
            logger.info("second_pass.late", extra={"timeout_s": self._timeout_s})
            return None
        try:
            transcript = running.result()
        except SttError:
            await self._drop()
            return None
        if first.words and not transcript.words:
            await self._drop(Outcome.EMPTY)
            return None
        await self._drop(Outcome.READY)
        return second_final(first, transcript)

    async def _drop(self, outcome: Outcome = Outcome.DROPPED) -> None:
        """Forget the pass, and end it if it is under way."""
        running, self._pass = self._pass, None
        if running is None:
            return
        running.cancel()
        await asyncio.wait([running])
        error = None if running.cancelled() else running.exception()
        if error is not None:
            logger.warning("second_pass.failed", extra={"error": str(error)})
            outcome = Outcome.FAILED
        self._metrics.second_passes.labels(outcome).inc()


class _Tapped(AsyncIterator[StreamEvent]):
    """An iterator that shows each item to a listener first."""

    def __init__(
        self, items: AsyncIterator[StreamEvent], listen: Callable[[StreamEvent], Awaitable[None]]
    ) -> None:
        self._items = items
        self._listen = listen

    async def __anext__(self) -> StreamEvent:
        item = await anext(self._items)
        await self._listen(item)
        return item

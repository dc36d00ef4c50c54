"""Audio of turns in, hypotheses out."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace

from stt_server.engine.base import (
    AnnouncingStream,
    OpenStream,
    RecognitionStream,
    SpeculativeStream,
    StreamOptions,
)
from stt_server.errors import TranscriptionError
from stt_server.events import (
    Audio,
    Clear,
    Configure,
    SpeechPaused,
    SpeechStarted,
    StreamError,
    StreamEvent,
    Transcript,
    TurnCheck,
    TurnEagerEnd,
    TurnEnded,
    TurnResumed,
)
from stt_server.pipeline import Progress, Stage
from stt_server.settings import DetectorName, SessionOptions
from stt_server.stages.recognition import end_tasks, news_before, next_event
from stt_server.stages.verdict import Verdict
from stt_server.turns.turn_text import TurnText

logger = logging.getLogger(__name__)


class StreamingAsrStage(Stage[StreamEvent, StreamEvent]):
    """Feeds a streaming engine the audio of turns and nothing else, unless it asks for more.

    The engine's stream is opened by the first turn, so that options sent before it count and a
    silent session costs nothing. A turn's final comes right behind its `TurnEnded`. From streams
    that speculate it is had when speech pauses, and shown as an interim: it becomes the final if
    the turn ends in that pause, whatever happens to the engine meanwhile. Only such streams can
    have an eager end, which has the text of that interim.
    """

    def __init__(
        self,
        open_stream: OpenStream,
        options: SessionOptions,
        progress: Progress,
        *,
        clock: Callable[[], float],
        verdict: Verdict | None = None,
        hears_silence: bool = False,
    ) -> None:
        """
        Args:
            verdict: Is told after each pause what the model thinks of it.
            hears_silence: The engine wants the audio between turns, too.
        """
        self._open_stream = open_stream
        self._options = options
        self._progress = progress
        self._clock = clock
        self._verdict = verdict
        self._hears_silence = hears_silence
        self._stream: RecognitionStream | None = None
        # The same stream if it can do more; to ask it each time would cost much.
        self._speculative: SpeculativeStream | None = None
        self._announcing: AnnouncingStream | None = None
        self._stream_options = StreamOptions()
        self._text = TurnText()
        self._paused: Transcript | None = None
        """The final if the turn ends in the present pause; None while speech goes on."""
        self._told_eager = self._told_failure = False
        self._turn_open = False

    async def run(self, inputs: AsyncIterator[StreamEvent]) -> AsyncGenerator[StreamEvent, None]:
        arriving: asyncio.Task[StreamEvent | None] | None = None
        try:
            while True:
                if self._listens_between_pushes:
                    arriving = arriving or asyncio.create_task(next_event(inputs))
                    for out in await self._overhear(arriving):
                        yield out
                    if not arriving.done():
                        continue
                event = await (arriving or next_event(inputs))
                arriving = None
                if event is None:
                    return
                async with aclosing(self._react(event)) as outs:
                    async for out in outs:
                        yield out
        finally:
            await end_tasks(arriving)
            if self._stream is not None:
                await self._stream.close()

    @property
    def _listens_between_pushes(self) -> bool:
        """Words may be found before the client sends the next packet."""
        return self._turn_open and self._paused is None and self._announcing is not None

    async def _overhear(self, arriving: asyncio.Task[StreamEvent | None]) -> list[StreamEvent]:
        assert self._announcing is not None
        news = await news_before(arriving, self._announcing)
        return [] if news is None else self._interim(news, at=self._progress.done)

    async def _react(self, event: StreamEvent) -> AsyncGenerator[StreamEvent, None]:
        match event:
            case Audio():
                for out in await self._take(event):
                    yield out
            case SpeechStarted(at=at, opens_turn=True):
                self._turn_open, self._told_failure = True, False
                self._text.open(at)
                await self._leave_outdated_stream()
                yield event
            case SpeechStarted(at=at):
                if self._told_eager:
                    self._told_eager = False
                    yield TurnResumed(at)
                for out in await self._resume():
                    yield out
                yield event
            case SpeechPaused():
                yield event
                for out in await self._pause():
                    yield out
            case TurnCheck():
                for out in await self._look_again():
                    yield out
            case TurnEagerEnd():
                for out in self._eager_end(event):
                    yield out
            case TurnEnded():
                yield event  # on its way before the final is ready
                async with aclosing(self._close_turn(event)) as outs:
                    async for out in outs:
                        yield out
            case Clear():
                await self._drop_turn()
                yield event
            case Configure(options=options):
                self._options = options
                yield event
            case _:
                yield event

    async def _take(self, audio: Audio) -> list[StreamEvent]:
        out: list[StreamEvent] = []
        if audio.speech:
            out = await self._hear(audio)
        elif self._hears_silence:
            await self._hear_silence(audio)
        self._progress.done = audio.end
        self._progress.done_at = self._clock()
        if self._verdict is not None:
            self._verdict.reach(audio.end)
        return out

    async def _hear(self, audio: Audio) -> list[StreamEvent]:
        stream = await self._opened()
        self._text.take(audio)
        try:
            transcript = await stream.push(audio)
        except TranscriptionError as error:
            return self._failed(error)
        if transcript is None or self._paused is not None:
            return []
        return self._interim(transcript, at=audio.end)

    async def _hear_silence(self, audio: Audio) -> None:
        stream = await self._opened()
        try:
            # What is found here belongs to the next turn, which will tell it.
            await stream.push(audio)
        except TranscriptionError as error:
            if not self._told_failure:
                logger.warning("asr.silence_failed", extra={"error": str(error)})
            self._told_failure = True

    def _interim(
        self, transcript: Transcript, *, at: int, is_lasting: bool = True
    ) -> list[StreamEvent]:
        new = self._text.hear(transcript, at=at, is_lasting=is_lasting)
        return [] if new is None else [new]

    async def _pause(self) -> list[StreamEvent]:
        if self._speculative is None:
            self._answer(None)
            return []
        try:
            paused = await self._speculative.pause()
        except TranscriptionError as error:
            self._answer(None)
            return self._failed(error)
        self._answer(paused.ends_turn)
        self._paused = paused
        # If speech goes on, it may take back what is new here.
        return self._interim(paused, at=self._progress.done, is_lasting=False)

    async def _look_again(self) -> list[StreamEvent]:
        if self._verdict is None or self._options.endpointing.detector is not DetectorName.EOU:
            return []
        if self._paused is None or self._speculative is None:
            self._answer(None)
            return []
        try:
            later = await self._speculative.pause()
        except TranscriptionError as error:
            self._answer(None)
            return self._failed(error)
        self._answer(later.ends_turn)
        self._paused = replace(self._paused, tokens=later.tokens)
        return []

    async def _resume(self) -> list[StreamEvent]:
        paused, self._paused = self._paused, None
        try:
            if paused is not None and self._speculative is not None:
                await self._speculative.resume()
        except TranscriptionError as error:
            return self._failed(error)
        return []

    def _eager_end(self, event: TurnEagerEnd) -> list[StreamEvent]:
        if self._paused is None or self._hears_silence:
            return []
        text = self._text.spell(self._paused)
        if not text:
            return []
        self._told_eager = True
        return [replace(event, text=text)]

    def _answer(self, sureness: float | None) -> None:
        if self._verdict is not None:
            self._verdict.answer(sureness)

    async def _close_turn(self, ended: TurnEnded) -> AsyncGenerator[StreamEvent, None]:
        # What hears everything may find words behind the pause.
        paused = None if self._hears_silence else self._paused
        self._paused, self._told_eager, self._turn_open = None, False, False
        stream = await self._opened()
        if paused is not None:
            yield self._text.close(paused, at=ended.at)
        try:
            transcript = await stream.end_turn()
        except TranscriptionError as error:
            if paused is not None:
                # It has all been told.
                logger.warning("asr.turn_end_failed", extra={"error": str(error)})
                return
            for out in self._failed(error):
                yield out
            transcript = Transcript()
        if paused is None:
            yield self._text.close(transcript, at=ended.at)

    async def _drop_turn(self) -> None:
        was_open, self._turn_open = self._turn_open, False
        self._paused, self._told_eager = None, False
        try:
            if was_open and self._stream is not None:
                await self._stream.end_turn()
        except TranscriptionError as error:
            logger.info("asr.dropped_turn_failed", extra={"error": str(error)})

    def _failed(self, error: TranscriptionError) -> list[StreamEvent]:
        """Told once per turn: it has lost audio, and may go on to do so until the engine serves."""
        self._text.engine_failed()
        if self._paused is not None:
            # The words had at the pause have just been kept; behind them nothing was said.
            self._paused = Transcript()
        if self._told_failure:
            return []
        self._told_failure = True
        logger.warning("asr.turn_failed", extra={"error": str(error)})
        return [StreamError(error.code, str(error))]

    async def _opened(self) -> RecognitionStream:
        if self._stream is None:
            self._stream_options = StreamOptions.of(self._options)
            stream = self._stream = await self._open_stream(self._stream_options)
            self._speculative = stream if isinstance(stream, SpeculativeStream) else None
            self._announcing = stream if isinstance(stream, AnnouncingStream) else None
        return self._stream

    async def _leave_outdated_stream(self) -> None:
        """Options that came since the last turn began count from this one on."""
        if self._stream is not None and self._stream_options != StreamOptions.of(self._options):
            stream = self._stream
            self._stream = self._speculative = self._announcing = None
            await stream.close()

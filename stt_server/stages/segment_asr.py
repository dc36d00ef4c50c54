"""Audio of turns in, hypotheses out, by an engine that hears one piece at a time."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from stt_server.engine.base import SegmentEngine, StreamOptions
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import (
    SAMPLE_RATE,
    Audio,
    Clear,
    Configure,
    SegmentEnded,
    SpeechPaused,
    SpeechStarted,
    StreamError,
    StreamEvent,
    Transcript,
    TurnCheck,
    TurnEagerEnd,
    TurnEnded,
)
from stt_server.pipeline import Progress, Stage
from stt_server.settings import SessionOptions
from stt_server.stages.recognition import Recognition, end_tasks, next_event
from stt_server.turns.segments import OVERLAP_SAMPLES, TurnAudio
from stt_server.turns.turn_text import TurnText

logger = logging.getLogger(__name__)

RECOGNITION_S = 90.0
"""A piece, and also a turn's final with all its attempts, may take no longer: less than a session
that finishes is given (`FINISH_STALL_S`)."""
RETRY_S = 1.0
"""Wait before what failed at the end of a turn is tried again: at once it would fail alike."""
TOO_LONG = "the recogniser took too long"


class SegmentAsrStage(Stage[StreamEvent, StreamEvent]):
    """Interims grow by overlapping pieces; the final is one recognition of the whole turn.

    At most one recognition is under way, and events pass it by: cuts that come meanwhile make one
    piece together. After half of the silence that ends a turn the whole turn is recognised ahead of
    its end, which is dropped if speech resumes; a piece that is the whole turn serves as both. So
    the final has usually been found when the turn ends, and it does not depend on whether it was:
    else the same span of audio is heard then.

    Stitching costs accuracy: it makes the final only of a turn longer than the engine's window, of
    one of which words are already final (`segment_finals`), or when recognising the whole fails. A
    piece that fails is heard again with the next one; the client is told only of audio that is
    lost, and the session goes on, also when the engine is too busy.
    """

    def __init__(
        self,
        engine: SegmentEngine,
        options: SessionOptions,
        progress: Progress,
        *,
        clock: Callable[[], float],
        overlap_samples: int = OVERLAP_SAMPLES,
    ) -> None:
        self._engine = engine
        self._options = options
        self._progress = progress
        self._clock = clock
        self._overlap_samples = overlap_samples
        self._text = TurnText()
        self._stream_options = StreamOptions()
        self._recognition: Recognition | None = None
        self._segment_finals = False
        self._turn = self._new_turn(0)
        self._tried: tuple[int, int] | None = None
        self._ready: tuple[tuple[int, int], Transcript] | None = None

    async def run(self, inputs: AsyncIterator[StreamEvent]) -> AsyncGenerator[StreamEvent, None]:
        arriving: asyncio.Task[StreamEvent | None] | None = None
        try:
            while True:
                if self._recognition is not None:
                    # Reading on stops when more audio waits than should.
                    if arriving is None and not self._turn.is_behind:
                        arriving = asyncio.create_task(next_event(inputs))
                    waited = [self._recognition.task, *([arriving] if arriving else [])]
                    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                    if self._recognition.task.done():
                        for out in self._take_result(self._recognition):
                            yield out
                        self._recognise_next()
                        continue
                event = await (arriving or next_event(inputs))
                arriving = None
                if event is None:
                    return
                if isinstance(event, Configure):
                    # What was said before it must not be heard of behind its answer.
                    await self._postpone_interim()
                if not isinstance(event, Audio | TurnCheck | TurnEagerEnd):
                    # Also a turn's end: on its way before the final is ready. Nothing can be told
                    # to be the final before the turn has ended.
                    yield event
                for out in await self._react(event):
                    yield out
        finally:
            await end_tasks(arriving, self._recognition and self._recognition.task)

    async def _react(self, event: StreamEvent) -> list[StreamEvent]:
        match event:
            case Audio():
                if event.speech:
                    self._text.take(event)
                    self._turn.append(event)
                    self._recognise_next()
                self._progress.done = event.end
                self._progress.done_at = self._clock()
            case SpeechStarted(at=at, opens_turn=True):
                self._open_turn(at)
            case SpeechStarted(at=at):
                self._turn.resume(at)
                if self._recognition is not None and not self._recognition.is_piece:
                    await self._drop_recognition()
                self._recognise_next()
            case SpeechPaused(at=at):
                self._turn.pause(at)
            case SegmentEnded(at=at):
                self._turn.cut(at)
                self._recognise_next()
            case TurnEnded():
                return await self._close_turn(event)
            case Clear():
                await self._drop_recognition()
                self._forget_turn(self._progress.done)
            case Configure(options=options):
                self._options = options
                self._segment_finals |= options.segment_finals
            case _:
                pass
        return []

    def _open_turn(self, at: int) -> None:
        self._text.open(at)
        self._forget_turn(at)
        self._stream_options = StreamOptions.of(self._options)
        self._segment_finals = self._options.segment_finals

    def _forget_turn(self, at: int) -> None:
        self._turn = self._new_turn(at)
        self._tried = self._ready = None

    # Recognitions beside the events

    def _recognise_next(self) -> None:
        """Start what is worth most now, unless something is under way."""
        if self._recognition is not None:
            return
        turn, options = self._turn, self._options
        if options.interim_results or options.segment_finals or turn.whole is None:
            piece = turn.piece()
            if piece is not None:
                self._start(piece, is_piece=True)
                return
        half_silence = options.endpointing.silence_ms * SAMPLE_RATE // 2_000
        is_ending = turn.silence_samples >= half_silence
        whole = self._final_span
        if is_ending and whole is not None and whole != self._tried:
            self._start(turn.slice(*whole), is_piece=False)

    def _start(self, audio: Audio, *, is_piece: bool) -> None:
        task = asyncio.create_task(self._transcribe(audio))
        self._recognition = Recognition(audio, task, is_piece)
        if self._recognition.span == self._turn.whole:
            self._tried = self._turn.whole

    def _take_result(self, recognition: Recognition) -> list[StreamEvent]:
        """What follows from a recognition that is done."""
        self._recognition = None
        try:
            transcript = recognition.task.result()
        except (TranscriptionError, Overloaded) as error:
            logger.warning("asr.piece_failed", extra={"error": str(error)})
            if not recognition.is_piece:
                return []
            if self._turn.is_behind:
                self._turn.give_up(recognition.audio)
                return [_loss(str(error))]
            self._turn.postpone()
            return []
        if recognition.span == self._turn.whole:
            self._ready = recognition.span, transcript
        if not recognition.is_piece:
            return []
        heard = self._turn.heard(recognition.audio, transcript)
        hypothesis = self._text.hear(heard, at=recognition.audio.end)
        return [hypothesis] if hypothesis is not None else []

    async def _drop_recognition(self) -> None:
        recognition, self._recognition = self._recognition, None
        if recognition is not None:
            await end_tasks(recognition.task)
            if recognition.span == self._tried:
                self._tried = None

    async def _postpone_interim(self) -> None:
        """What is being heard for an interim is heard again with the next piece."""
        if self._recognition is not None and self._recognition.is_piece:
            await self._drop_recognition()
        self._turn.postpone()

    # The final

    @property
    def _final_span(self) -> tuple[int, int] | None:
        """What one recognition for the final hears; None if it is made of pieces."""
        has_final_words = self._segment_finals and self._text.has_stable_words
        return None if has_final_words else self._turn.whole

    async def _close_turn(self, ended: TurnEnded) -> list[StreamEvent]:
        lost: list[StreamError] = []
        try:
            async with asyncio.timeout(RECOGNITION_S):
                whole = self._final_span
                transcript = await self._whole(whole) if whole is not None else None
                if transcript is None:
                    transcript = await self._stitched(lost, has_failed=whole is not None)
        except TimeoutError:
            await self._drop_recognition()
            lost.append(_loss(TOO_LONG))
            transcript = self._turn.so_far()
        # The session may be silent for hours: its audio is not kept.
        self._forget_turn(ended.at)
        # Once is enough to say that words are missing.
        return [*lost[:1], self._text.close(transcript, at=ended.at)]

    async def _whole(self, whole: tuple[int, int]) -> Transcript | None:
        """One recognition of the whole turn; None if that failed."""
        if self._recognition is None or self._recognition.span != whole:
            # An interim is of no more use.
            await self._drop_recognition()
            self._start(self._turn.slice(*whole), is_piece=False)
        assert self._recognition is not None
        try:
            transcript = await self._recognition.task
        except (TranscriptionError, Overloaded) as error:
            logger.warning("asr.final_failed", extra={"error": str(error)})
            transcript = None
        self._recognition = None
        return transcript

    async def _stitched(self, lost: list[StreamError], *, has_failed: bool) -> Transcript:
        """The words of all pieces; what went wrong with some is added to `lost`.

        Args:
            has_failed: The engine failed just now. Then a piece is tried once more, else twice.
        """
        recognition = self._recognition
        if recognition is not None and recognition.is_piece:
            await asyncio.wait([recognition.task])
            has_failed = recognition.task.exception() is not None
            out = self._take_result(recognition)
            lost += [event for event in out if isinstance(event, StreamError)]
        await self._drop_recognition()
        self._turn.end()
        while (piece := self._turn.piece()) is not None:
            if has_failed:
                await asyncio.sleep(RETRY_S)
            try:
                self._turn.heard(piece, await self._transcribe(piece))
                has_failed = False
            except (TranscriptionError, Overloaded) as error:
                logger.warning("asr.piece_failed", extra={"error": str(error), "lost": has_failed})
                if has_failed:
                    self._turn.give_up(piece)
                    lost.append(_loss(str(error)))
                has_failed = True
        return self._turn.so_far()

    async def _transcribe(self, audio: Audio) -> Transcript:
        if self._ready is not None and self._ready[0] == (audio.start, audio.end):
            return self._ready[1]
        try:
            async with asyncio.timeout(RECOGNITION_S):
                return await self._engine.transcribe(audio, self._stream_options)
        except TimeoutError as error:
            raise TranscriptionError(TOO_LONG) from error

    def _new_turn(self, start: int) -> TurnAudio:
        leading_ms = self._options.endpointing.leading_silence_ms
        return TurnAudio(
            start,
            leading_silence_samples=leading_ms * SAMPLE_RATE // 1_000,
            window_samples=self._engine.max_segment_samples,
            overlap_samples=self._overlap_samples,
        )


def _loss(message: str) -> StreamError:
    """Audio of the turn is lost; whatever the engine's reason, the session goes on."""
    return StreamError(TranscriptionError.code, message)

"""Audio of turns in, hypotheses out, by an engine that hears one piece at a time."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from stt_server.engine.base import SegmentEngine, StreamOptions
from stt_server.errors import TranscriptionError
from stt_server.events import (
    SAMPLE_RATE,
    Audio,
    Configure,
    SegmentEnded,
    SpeechStarted,
    StreamError,
    StreamEvent,
    Transcript,
    TurnEnded,
)
from stt_server.pipeline import Progress, Stage
from stt_server.settings import SessionOptions
from stt_server.turns.segments import TurnAudio
from stt_server.turns.turn_text import TurnText

logger = logging.getLogger(__name__)


class SegmentAsrStage(Stage[StreamEvent, StreamEvent]):
    """Interims grow by overlapping segments; the final is one recognition of the whole turn.

    Stitching costs accuracy, so it makes the final only of a turn that is longer than the
    engine's window. A segment that fails is heard again with the next one.
    """

    def __init__(
        self,
        engine: SegmentEngine,
        options: SessionOptions,
        progress: Progress,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._options = options
        self._progress = progress
        self._clock = clock
        self._text = TurnText()
        self._turn = self._new_turn()

    async def run(self, inputs: AsyncIterator[StreamEvent]) -> AsyncGenerator[StreamEvent, None]:
        async for event in inputs:
            if not isinstance(event, Audio):
                # Also a turn's end: on its way before the final is ready.
                yield event
            for out in await self._react(event):
                yield out

    async def _react(self, event: StreamEvent) -> list[StreamEvent]:
        match event:
            case Audio():
                if event.speech:
                    self._turn.append(event)
                self._progress.done = event.end
                self._progress.done_at = self._clock()
            case SpeechStarted(at=at, opens_turn=True):
                self._text.open(at)
                self._turn = self._new_turn()
            case SpeechStarted(at=at):
                self._turn.speech_resumed(at)
            case SegmentEnded(at=at):
                return await self._hear(at)
            case TurnEnded():
                return await self._close_turn(event)
            case Configure(options=options):
                self._options = options
            case _:
                pass
        return []

    async def _hear(self, at: int) -> list[StreamEvent]:
        segment = self._turn.cut(at)
        if segment is None:
            return []
        try:
            transcript = await self._transcribe(segment)
        except TranscriptionError as error:
            return [_failed(error)]
        hypothesis = self._text.hear(self._turn.heard(segment, transcript), at=segment.end)
        return [hypothesis] if hypothesis is not None else []

    async def _close_turn(self, ended: TurnEnded) -> list[StreamEvent]:
        out: list[StreamEvent] = []
        transcript: Transcript | None = None
        whole = self._turn.whole()
        if whole is not None:
            try:
                transcript = await self._transcribe(whole)
            except TranscriptionError as error:
                out.append(_failed(error))
        else:
            out += await self._hear(self._turn.end)
        out.append(self._text.close(transcript or self._turn.so_far(), at=ended.at))
        return out

    async def _transcribe(self, audio: Audio) -> Transcript:
        return await self._engine.transcribe(audio, StreamOptions.of(self._options))

    def _new_turn(self) -> TurnAudio:
        return TurnAudio(
            leading_silence_samples=self._options.endpointing.leading_silence_ms
            * SAMPLE_RATE
            // 1_000,
            whole_samples=self._engine.max_segment_samples,
        )


def _failed(error: TranscriptionError) -> StreamError:
    logger.warning("asr.segment_failed", extra={"error": str(error)})
    return StreamError(error.code, str(error))

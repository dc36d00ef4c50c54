"""Audio of turns in, hypotheses out."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from stt_server.engine.base import OpenStream, RecognitionStream, StreamOptions
from stt_server.errors import TranscriptionError
from stt_server.events import (
    Audio,
    Configure,
    SpeechStarted,
    StreamError,
    StreamEvent,
    Transcript,
    TurnEnded,
)
from stt_server.pipeline import Progress, Stage
from stt_server.settings import SessionOptions
from stt_server.turns.turn_text import TurnText

logger = logging.getLogger(__name__)


class StreamingAsrStage(Stage[StreamEvent, StreamEvent]):
    """Feeds a streaming engine the audio of turns and nothing else.

    The engine's stream is opened by the first turn, so that options sent before it count and a
    silent session costs nothing. A turn's final comes right behind its `TurnEnded`.
    """

    def __init__(
        self,
        open_stream: OpenStream,
        options: SessionOptions,
        progress: Progress,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._open_stream = open_stream
        self._options = options
        self._progress = progress
        self._clock = clock
        self._stream: RecognitionStream | None = None
        self._stream_options = StreamOptions()
        self._text = TurnText()

    async def run(self, inputs: AsyncIterator[StreamEvent]) -> AsyncGenerator[StreamEvent, None]:
        try:
            async for event in inputs:
                if isinstance(event, TurnEnded):
                    # On its way before the final is ready.
                    yield event
                for out in await self._react(event):
                    yield out
        finally:
            if self._stream is not None:
                await self._stream.close()

    async def _react(self, event: StreamEvent) -> list[StreamEvent]:
        match event:
            case Audio():
                out = await self._hear(event) if event.speech else []
                self._progress.done = event.end
                self._progress.done_at = self._clock()
                return out
            case SpeechStarted(at=at, opens_turn=True):
                self._text.open(at)
                await self._leave_outdated_stream()
                return [event]
            case TurnEnded():
                return await self._close_turn(event)
            case Configure(options=options):
                self._options = options
                return [event]
            case _:
                return [event]

    async def _hear(self, audio: Audio) -> list[StreamEvent]:
        stream = await self._opened()
        try:
            transcript = await stream.push(audio)
        except TranscriptionError as error:
            return [self._failed(error)]
        if transcript is None:
            return []
        hypothesis = self._text.hear(transcript, at=audio.end)
        return [hypothesis] if hypothesis is not None else []

    async def _close_turn(self, ended: TurnEnded) -> list[StreamEvent]:
        stream = await self._opened()
        out: list[StreamEvent] = []
        try:
            transcript = await stream.end_turn()
        except TranscriptionError as error:
            out.append(self._failed(error))
            transcript = Transcript()
        out.append(self._text.close(transcript, at=ended.at))
        return out

    def _failed(self, error: TranscriptionError) -> StreamError:
        logger.warning("asr.turn_failed", extra={"error": str(error)})
        self._text.engine_failed()
        return StreamError(error.code, str(error))

    async def _opened(self) -> RecognitionStream:
        if self._stream is None:
            self._stream_options = StreamOptions.of(self._options)
            self._stream = await self._open_stream(self._stream_options)
        return self._stream

    async def _leave_outdated_stream(self) -> None:
        """Options that came since the last turn began count from this one on."""
        if self._stream is not None and self._stream_options != StreamOptions.of(self._options):
            stream, self._stream = self._stream, None
            await stream.close()

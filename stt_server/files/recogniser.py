"""One piece of a file to words, beside the live sessions and never in their way."""

import asyncio
import logging
from collections.abc import Callable, Hashable

from stt_server.admission import Admission
from stt_server.engine.base import SegmentEngine, StreamingEngine, StreamOptions
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import SAMPLE_RATE, Audio, Hypothesis, Transcript, Word
from stt_server.files.cutter import LONGEST_SAMPLES
from stt_server.files.fair_line import FairLine, Place, Revoked
from stt_server.turns.second_pass import second_final

logger = logging.getLogger(__name__)

PUSH_SAMPLES = SAMPLE_RATE
ATTEMPTS = 3
RETRY_S = 1.0
MOST_AT_ONCE = 32
LIVE_SHARE = 32
"""Beside live sessions pieces take this part of the places; one at least, if it is free."""

OnStable = Callable[[tuple[Word, ...]], None]
"""Gets the words that will not change any more, all of the piece so far."""


class Recogniser:
    """Gives pieces of files places in the engine that no live session needs.

    A live session that comes when all places are taken gets one of these at once; the piece is
    then heard again from its beginning. While there are live sessions pieces take no more than half
    of the time, too: the model rests as long as it has worked.
    """

    def __init__(
        self,
        engine: StreamingEngine | SegmentEngine,
        final_engine: SegmentEngine | None,
        admission: Admission,
        *,
        parallel: int | None,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._final_engine = final_engine
        self._admission = admission
        self._parallel = parallel
        self._clock = clock
        self._line = FairLine(self._places)
        admission.on_change = self._line.update

    @property
    def longest_samples(self) -> int:
        """Of a piece."""
        engines = (self._engine, self._final_engine)
        windows = [item.max_segment_samples for item in engines if isinstance(item, SegmentEngine)]
        return min([LONGEST_SAMPLES, *windows])

    @property
    def most_pieces(self) -> int:
        """Recognised at once at most, of all files together."""
        return self._parallel or max(1, min(self._engine.info.capacity // 2, MOST_AT_ONCE))

    async def hear(
        self, piece: Audio, options: StreamOptions, *, owner: Hashable, on_stable: OnStable
    ) -> Transcript:
        """The words of a piece. Waits for as long as there is no place.

        Args:
            owner: Whose piece it is: owners get the same share.

        Raises:
            TranscriptionError: it failed, more than once.
        """
        failures = 0
        while True:
            try:
                async with self._line.place(owner) as place:
                    return await self._hear(place, piece, options, on_stable)
            except Revoked:
                logger.info("file.piece_put_off")
            except Overloaded as error:
                logger.info("file.piece_put_off", extra={"error": str(error)})
                await asyncio.sleep(RETRY_S)
            except TranscriptionError as error:
                failures += 1
                logger.warning("file.piece_failed", extra={"error": str(error)})
                if failures == ATTEMPTS:
                    raise
                await asyncio.sleep(RETRY_S)

    def _places(self) -> int:
        live, capacity = self._admission.active, self._engine.info.capacity
        wanted = self.most_pieces
        if live:
            wanted = min(wanted, max(1, capacity // LIVE_SHARE))
        return max(0, min(wanted, capacity - live))

    async def _hear(
        self, place: Place, piece: Audio, options: StreamOptions, on_stable: OnStable
    ) -> Transcript:
        engine, final_engine = self._engine, self._final_engine
        if isinstance(engine, SegmentEngine):
            return await place.run(self._hear_whole(engine, piece, options))
        if final_engine is None:
            return await place.run(self._hear_stream(engine, piece, options, on_stable))
        return await place.run(self._hear_twice(engine, final_engine, piece, options))

    async def _hear_stream(
        self, engine: StreamingEngine, piece: Audio, options: StreamOptions, on_stable: OnStable
    ) -> Transcript:
        stream = await engine.open(options)
        try:
            for at in range(0, len(piece.samples), PUSH_SAMPLES):
                began = self._clock()
                samples = piece.samples[at : at + PUSH_SAMPLES]
                heard = await stream.push(Audio(piece.start + at, samples, speech=True))
                if heard is not None:
                    on_stable(heard.words[: heard.stable])
                await self._rest_since(began)
            return await stream.end_turn()
        finally:
            await stream.close()

    async def _hear_whole(
        self, engine: SegmentEngine, piece: Audio, options: StreamOptions
    ) -> Transcript:
        began = self._clock()
        transcript = await engine.transcribe(piece, options)
        await self._rest_since(began)
        return transcript

    async def _hear_twice(
        self,
        engine: StreamingEngine,
        final_engine: SegmentEngine,
        piece: Audio,
        options: StreamOptions,
    ) -> Transcript:
        """The words of the second recogniser at the times of the first, as in a live session."""
        first = await self._hear_stream(engine, piece, options, lambda _: None)
        try:
            second = await self._hear_whole(final_engine, piece, options)
        except (TranscriptionError, Overloaded) as error:
            logger.warning("file.second_pass_failed", extra={"error": str(error)})
            return first
        if first.words and not second.words:
            return first
        heard = Hypothesis(
            0,
            stable=" ".join(word.text for word in first.words),
            unstable="",
            words=first.words,
            start=piece.start,
            end=piece.end,
            is_final=True,
        )
        final = second_final(heard, second)
        return Transcript(
            final.words,
            stable=len(final.words),
            language=final.language or first.language,
            confidence=final.confidence,
            estimated_times=final.estimated_times,
        )

    async def _rest_since(self, began: float) -> None:
        if self._admission.active:
            await asyncio.sleep(self._clock() - began)

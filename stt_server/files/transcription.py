"""Files on their way to words: whose turn it is, what is under way, what comes out in order."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stt_server.admission import Admission
from stt_server.engine.base import SegmentEngine, StreamingEngine, StreamOptions
from stt_server.errors import Overloaded
from stt_server.events import SAMPLE_RATE, Audio, Transcript, Word, seconds
from stt_server.files.decoders import Answer, Decoders
from stt_server.files.fair_line import FairLine
from stt_server.files.recogniser import Recogniser
from stt_server.settings import Settings
from stt_server.stages.recognition import end_tasks

PROBE_SAMPLES = 10 * SAMPLE_RATE
"""Decoded before a file counts as good."""
SHORT_BYTES = 2 * 2**20
"""Files up to this size do not wait for longer ones: they are what agents and phones send."""
MOST_AHEAD = 16
"""Pieces of one file that are under way or wait; each takes 2.6 MB at its longest."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The next words of a file; they do not change any more."""

    words: tuple[Word, ...]
    ends_piece: bool = False
    """The speaker paused here, or the piece was as long as one may be."""
    language: str | None = None


class PieceSource(Protocol):
    """A file that is being decoded and cut."""

    async def read(self) -> Answer:
        """The pieces of its next seconds; raises `FileError`."""
        ...


class Files:
    """All files of the server."""

    def __init__(
        self,
        engine: StreamingEngine | SegmentEngine,
        final_engine: SegmentEngine | None,
        admission: Admission,
        settings: Settings,
    ) -> None:
        uploads = settings.uploads
        self._settings = settings
        self._recogniser = Recogniser(
            engine, final_engine, admission, parallel=uploads.parallel, clock=time.monotonic
        )
        count = uploads.decoders
        self._decoders = Decoders(count)
        self._short_files = FairLine(lambda: count // 2)
        self._long_files = FairLine(lambda: count - count // 2)

    @asynccontextmanager
    async def open(
        self, path: Path, options: StreamOptions, *, size_bytes: int, owner: Hashable
    ) -> AsyncGenerator["FileTranscription"]:
        """A file that is audio for its first seconds at least, once it is its turn.

        Args:
            owner: Who sent it: owners get the same share.

        Raises:
            FileError: what is wrong with it.
            Overloaded: its turn did not come in time, or it cannot be decoded now.
        """
        uploads = self._settings.uploads
        line = self._short_files if size_bytes <= SHORT_BYTES else self._long_files
        async with (
            line.place(owner, wait_s=uploads.wait_s),
            self._decoders.open(
                path,
                endpointing=self._settings.endpointing,
                longest_samples=self._recogniser.longest_samples,
                most_samples=round(uploads.max_audio_s * SAMPLE_RATE),
            ) as file,
        ):
            transcription = FileTranscription(
                file, self._recogniser, options, patience_s=uploads.wait_s
            )
            try:
                await transcription.probe()
                yield transcription
            finally:
                await transcription.close()

    def warm_up(self) -> None:
        """Start a decoder process, for the first file."""
        self._decoders.warm_up()

    async def close(self) -> None:
        """End the decoder processes."""
        await self._decoders.stop()


class FileTranscription:
    """One file: its pieces are recognised side by side while it is still being decoded."""

    def __init__(
        self,
        file: PieceSource,
        recogniser: Recogniser,
        options: StreamOptions,
        *,
        patience_s: float,
    ) -> None:
        """
        Args:
            patience_s: Longest wait for the next words.
        """
        self._file = file
        self._recogniser = recogniser
        self._options = options
        self._patience_s = patience_s
        self._hearings: deque[_Hearing] = deque()
        self._is_read = False
        self.samples = 0
        """Decoded so far; all of the file once its last words have come."""

    @property
    def seconds(self) -> float:
        return seconds(self.samples)

    async def probe(self) -> None:
        """Decode the file's beginning.

        Raises:
            FileError: it is not what it seemed.
        """
        while not self._is_read and self.samples < PROBE_SAMPLES:
            self._take(await self._file.read())

    async def heard(self) -> AsyncGenerator[Heard, None]:
        """The words in the order in which they were said.

        Raises:
            FileError: the file is damaged further on.
            TranscriptionError: a piece could not be recognised.
            Overloaded: nothing was heard for too long.
        """
        reading: asyncio.Task[Answer] | None = None
        try:
            while self._hearings or not self._is_read:
                if not (self._is_read or reading or len(self._hearings) >= MOST_AHEAD):
                    reading = asyncio.create_task(self._file.read())
                front = self._hearings[0] if self._hearings else None
                await self._wait(reading, front and front.news)
                if reading is not None and reading.done():
                    self._take(reading.result())
                    reading = None
                if front is not None and front.news.done():
                    heard = front.take()
                    if heard.ends_piece:
                        self._hearings.popleft()
                    yield heard
        finally:
            await end_tasks(reading)

    async def close(self) -> None:
        """Give up what is still being recognised."""
        await end_tasks(*(hearing.task for hearing in self._hearings))
        self._hearings.clear()

    def _take(self, answer: Answer) -> None:
        self.samples, self._is_read = answer.decoded, answer.is_end
        for piece in answer.pieces:
            hearing = _Hearing()
            hearing.begin(self._recogniser, piece, self._options, owner=self)
            self._hearings.append(hearing)

    async def _wait(self, *futures: "asyncio.Future[Answer] | asyncio.Future[None] | None") -> None:
        waited = [future for future in futures if future is not None]
        done, _ = await asyncio.wait(
            waited, timeout=self._patience_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            raise Overloaded("the server is too busy with live sessions, try again later")


class _Hearing:
    """A piece that is being recognised."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Transcript] | None = None
        self._stable: tuple[Word, ...] = ()
        self._told = 0
        self.news = self._no_news()
        """Done when there is something to `take`."""

    def begin(
        self, recogniser: Recogniser, piece: Audio, options: StreamOptions, *, owner: Hashable
    ) -> None:
        self.task = asyncio.create_task(
            recogniser.hear(piece, options, owner=owner, on_stable=self._grow)
        )
        self.task.add_done_callback(lambda _: self._tell())

    def take(self) -> Heard:
        """What was not taken yet; raises what kept the piece from being recognised."""
        assert self.task is not None
        if self.task.done():
            transcript = self.task.result()
            # What was told stays, even if the piece had to be heard again and came out otherwise.
            return Heard(transcript.words[self._told :], True, transcript.language)
        fresh = self._stable[self._told :]
        self._told += len(fresh)
        self.news = self._no_news()
        return Heard(fresh)

    def _grow(self, stable: tuple[Word, ...]) -> None:
        if len(stable) > self._told:
            self._stable = stable
            self._tell()

    def _tell(self) -> None:
        if not self.news.done():
            self.news.set_result(None)

    def _no_news(self) -> "asyncio.Future[None]":
        return asyncio.get_running_loop().create_future()

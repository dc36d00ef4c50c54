"""Decoder processes as the server sees them.

Request: OPEN with a `FileRequest`, READ for the next seconds, CLOSE. Answer: `HEAD` (bytes of
JSON), JSON (an `AnswerHead`), then the float32 samples of its pieces, one after another.
"""

import json
import struct
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from stt_server.engine.worker_process import WorkerLimits, WorkerLost, WorkerPool, WorkerProcess
from stt_server.errors import Overloaded
from stt_server.events import Audio
from stt_server.files.errors import FileTooLong, InvalidFile
from stt_server.settings import EndpointingSettings

BOOT = (
    "import json, sys; sys.path[:0] = json.loads(sys.argv[1]); "
    "from stt_server.files.decoder_worker import main; main()"
)
OPEN, READ, CLOSE = b"O", b"R", b"C"
HEAD = struct.Struct("!I")
LIMITS = WorkerLimits(start_s=60.0, answer_s=120.0)
"""Decoders get what live sessions leave: they may be slow, but not for ever."""
ATTEMPTS = 3
CLOSE_S = 30.0
"""Longest wait for a decoder that is to leave a file alone; then it is killed."""


class FileRequest(BaseModel):
    """A file, and how it is to be cut."""

    path: str
    endpointing: EndpointingSettings
    longest_samples: int
    """Of a piece."""
    most_samples: int
    """Of the file."""


class Verdict(StrEnum):
    """What is to be said of a file."""

    FINE = "fine"
    INVALID = "invalid"
    TOO_LONG = "too long"


class AnswerHead(BaseModel):
    """What an answer says beside samples."""

    verdict: Verdict
    message: str
    decoded: int
    is_end: bool
    spans: list[tuple[int, int]]
    """Start and length of each piece."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request."""

    decoded: int = 0
    """Samples of the file so far."""
    pieces: tuple[Audio, ...] = ()
    is_end: bool = False
    verdict: Verdict = Verdict.FINE
    message: str = ""


def pack_answer(answer: Answer) -> bytes:
    """The answer for the pipe."""
    spans = [(piece.start, len(piece.samples)) for piece in answer.pieces]
    head = AnswerHead(
        verdict=answer.verdict,
        message=answer.message,
        decoded=answer.decoded,
        is_end=answer.is_end,
        spans=spans,
    )
    text = head.model_dump_json().encode()
    samples = (piece.samples.tobytes() for piece in answer.pieces)
    return b"".join([HEAD.pack(len(text)), text, *samples])


def unpack_answer(data: bytes) -> Answer:
    """What `pack_answer` packed."""
    at = HEAD.size + HEAD.unpack_from(data)[0]
    head = AnswerHead.model_validate_json(data[HEAD.size : at])
    pieces: list[Audio] = []
    for start, count in head.spans:
        samples = np.frombuffer(data, dtype="<f4", count=count, offset=at)
        pieces.append(Audio(start, samples.copy(), speech=True))
        at += samples.nbytes
    return Answer(head.decoded, tuple(pieces), head.is_end, head.verdict, head.message)


class OpenFile:
    """A file in the hands of a decoder."""

    def __init__(self, worker: WorkerProcess, *, answer_s: float) -> None:
        self._worker = worker
        self._answer_s = answer_s

    async def open(self, request: FileRequest) -> None:
        """Find out what it is; raises like `read`."""
        await self._ask(OPEN, request.model_dump_json().encode())

    async def read(self) -> Answer:
        """The pieces of its next seconds.

        Raises:
            InvalidFile: it cannot be decoded, or the decoder died or hung over it.
            FileTooLong: there is more audio than is taken.
        """
        return await self._ask(READ)

    async def _ask(self, kind: bytes, payload: bytes = b"") -> Answer:
        try:
            data = await self._worker.ask(kind, payload, deadline_s=self._answer_s)
        except WorkerLost as error:
            raise InvalidFile("the audio file cannot be decoded") from error
        answer = unpack_answer(data)
        match answer.verdict:
            case Verdict.FINE:
                return answer
            case Verdict.INVALID:
                raise InvalidFile(answer.message)
            case Verdict.TOO_LONG:
                raise FileTooLong(answer.message)


class Decoders:
    """At most `size` decoder processes, one ahead of need from `warm_up` or the first file on."""

    def __init__(self, size: int, *, limits: WorkerLimits = LIMITS) -> None:
        self._limits = limits
        self._pool = WorkerPool(
            [sys.executable, "-P", "-c", BOOT, json.dumps(sys.path)],
            size=size,
            limits=limits,
            prepare=self._prepare,
            clean=self._clean,
        )

    @asynccontextmanager
    async def open(
        self,
        path: Path,
        *,
        endpointing: EndpointingSettings,
        longest_samples: int,
        most_samples: int,
    ) -> AsyncGenerator[OpenFile]:
        """A decoder that has found audio in the file.

        Raises:
            InvalidFile: it has not.
            FileTooLong: the file says so itself.
            Overloaded: no decoder starts.
        """
        request = FileRequest(
            path=str(path),
            endpointing=endpointing,
            longest_samples=longest_samples,
            most_samples=most_samples,
        )
        async with self._worker() as worker:
            file = OpenFile(worker, answer_s=self._limits.answer_s)
            await file.open(request)
            yield file

    def warm_up(self) -> None:
        """Start a process ahead of the first file; does not wait for it."""
        self._pool.warm_up()

    async def stop(self) -> None:
        """Kill the processes."""
        await self._pool.stop()

    @asynccontextmanager
    async def _worker(self) -> AsyncGenerator[WorkerProcess]:
        """One that lives: it may have died while it had nothing to do, and the file must not be
        blamed for that."""
        for _ in range(ATTEMPTS):
            worker = await self._pool.borrow()
            try:
                try:
                    await self._clean(worker)
                except WorkerLost:
                    continue
                yield worker
                return
            finally:
                self._pool.give_back(worker)
        raise Overloaded("files cannot be read now, try again later")

    async def _prepare(self, worker: WorkerProcess) -> None:
        await worker.ask(CLOSE, deadline_s=self._limits.start_s)

    async def _clean(self, worker: WorkerProcess) -> None:
        await worker.ask(CLOSE, deadline_s=CLOSE_S)

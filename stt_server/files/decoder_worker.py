"""The process that reads files nobody has looked at: requests on stdin, answers on stdout. See
`decoders.py` for both.

It decodes, finds speech and cuts, so that the server's loop gets pieces to recognise and nothing
else of a file. One file at a time; memory and processor time are bounded, so that a file made to
exhaust them ends this process alone.
"""

import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from stt_server.engine.silero import load_silero
from stt_server.engine.vad import VadModel, VadState
from stt_server.engine.worker_process import HEADER
from stt_server.events import SAMPLE_RATE, WINDOW_SAMPLES, Audio, Samples
from stt_server.files.audio_file import AudioFile
from stt_server.files.cutter import Cutter
from stt_server.files.decoders import (
    CLOSE,
    OPEN,
    READ,
    Answer,
    FileRequest,
    Verdict,
    pack_answer,
)
from stt_server.files.errors import FileTooLong, InvalidFile

logger = logging.getLogger(__name__)

READ_SAMPLES = 10 * SAMPLE_RATE
"""Decoded for one answer at most, about a tenth of a second of work."""
MEMORY_BYTES = 512 * 2**20
"""What a file may take beyond what the process has at its start."""
CPU_S = 30
"""Processor time for one answer at most."""
NICE = 19
"""Live sessions come first, by far."""


class SpeechFinder:
    """The voice activity detector of one file."""

    def __init__(self, model: VadModel) -> None:
        self._model = model
        self._state = VadState()
        self._rest: Samples = np.empty(0, dtype=np.float32)

    def push(self, samples: Samples) -> list[float]:
        """Probabilities of the windows that `samples` complete, oldest first."""
        rest = np.concatenate((self._rest, samples))
        count = len(rest) // WINDOW_SAMPLES
        self._rest = rest[count * WINDOW_SAMPLES :]
        if not count:
            return []
        windows = rest[: count * WINDOW_SAMPLES].reshape(count, WINDOW_SAMPLES)
        return self._model.run([self._state], [windows])[0]


class FileReader:
    """One file on its way to pieces."""

    def __init__(self, request: FileRequest, model: VadModel) -> None:
        """
        Raises:
            InvalidFile: it is not audio.
            FileTooLong: it says so itself.
        """
        self._most = request.most_samples
        self._file = AudioFile(Path(request.path))
        self._pieces = self._file.pieces()
        self._finder = SpeechFinder(model)
        self._cutter = Cutter(request.endpointing, longest=request.longest_samples)
        self._decoded = 0
        if (self._file.length or 0) > self._most:
            raise FileTooLong(too_long(self._most))

    def read(self) -> Answer:
        """The next seconds of the file, cut.

        Raises:
            InvalidFile: it is damaged.
            FileTooLong: there is more than is taken.
        """
        pieces: list[Audio] = []
        until = self._decoded + READ_SAMPLES
        for samples in self._pieces:
            self._decoded += len(samples)
            if self._decoded > self._most:
                raise FileTooLong(too_long(self._most))
            pieces += self._cutter.push(samples, self._finder.push(samples))
            if self._decoded >= until:
                return Answer(self._decoded, pieces=tuple(pieces))
        return Answer(self._decoded, pieces=(*pieces, *self._cutter.finish()), is_end=True)

    def close(self) -> None:
        self._file.close()


def too_long(most_samples: int) -> str:
    return f"the file has more than {most_samples / SAMPLE_RATE:,.0f} s of audio"


class Server:
    """Answers requests, about one file after another."""

    def __init__(self, model: VadModel) -> None:
        self._model = model
        self._reader: FileReader | None = None

    def answer(self, kind: bytes, payload: bytes) -> Answer:
        """What a request gives; an error of the file is an answer, too."""
        limit_cpu()
        try:
            if kind == OPEN:
                self._close()
                request = FileRequest.model_validate_json(payload)
                self._reader = FileReader(request, self._model)
            elif kind == READ and self._reader is not None:
                return self._reader.read()
            elif kind == CLOSE:
                self._close()
        except InvalidFile as error:
            return Answer(verdict=Verdict.INVALID, message=str(error))
        except FileTooLong as error:
            return Answer(verdict=Verdict.TOO_LONG, message=str(error))
        except Exception:  # the decoder's boundary: nobody knows all that files can do to it
            logger.exception("decoder.failed")
            return Answer(verdict=Verdict.INVALID, message="the audio file cannot be decoded")
        return Answer()

    def _close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()


def limit_cpu() -> None:
    """Processor time for one more answer; when it is used up the process is killed."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = round(used.ru_utime + used.ru_stime) + CPU_S
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def limit_memory() -> None:
    """Little more than there is now; no files are written, and a crash leaves none behind."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # elsewhere the limit is not kept, or cannot be set
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def frames(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Requests until the stream ends."""
    while len(header := stream.read(HEADER.size)) == HEADER.size:
        kind, length = HEADER.unpack(header)
        yield kind, stream.read(length)


def main() -> None:
    """Serve until stdin ends, which it does with the parent."""
    # The parent decides: a signal to the whole group must not end files that are being finished.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Nothing but answers goes to the pipe, whatever a library prints.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    server = Server(load_silero())
    # Only now: somebody is waiting for the first answer.
    os.nice(NICE)
    limit_memory()
    for kind, payload in frames(sys.stdin.buffer):
        answer = pack_answer(server.answer(kind, payload))
        answers.write(HEADER.pack(kind, len(answer)) + answer)
        answers.flush()

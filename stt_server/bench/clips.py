"""The audio that clients speak: sound files one after another, round and round."""

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from stt_server.audio import Ingress
from stt_server.clients.errors import UnreadableAudio
from stt_server.clients.file import AudioFile
from stt_server.clients.samples import encode_samples
from stt_server.events import SAMPLE_RATE, Samples
from stt_server.protocols.base import AudioFormat, Packet

BUNDLED = Path(__file__).parents[2] / "tests" / "audio"
"""Synthetic conversations, in a checkout of the project."""
SUFFIXES = (".wav", ".flac")
MOST_S = 3_600.0
FRAME_SAMPLES = SAMPLE_RATE // 100
LOUD_QUANTILE, BELOW_LOUD_DB, LEAST_DBFS = 0.95, 30.0, -55.0
"""Speech is what is not so much quieter than the loud part of its file, nor next to nothing."""
LONGEST_DIP_S = 0.25
"""Quieter stretches up to this are part of the speech around them."""


@dataclass(frozen=True, slots=True)
class Round:
    """All files joined, each followed by a pause. 16 kHz mono PCM16."""

    pcm: bytes
    starts: tuple[int, ...]
    """Where each file begins, in samples."""
    speech_starts: tuple[int, ...]
    speech_ends: tuple[int, ...]

    @property
    def samples(self) -> int:
        return len(self.pcm) // 2


class Playlist:
    """One client's endless audio: the round, from a place of its own."""

    def __init__(self, audio: Round, number: int) -> None:
        """Files are dealt out to clients by `number`; each begins somewhere in its file."""
        first = number % len(audio.starts)
        bounds = [*audio.starts, audio.samples]
        self._audio = audio
        self._offset = Random(number).randrange(bounds[first], bounds[first + 1])

    def read(self, start: int, count: int) -> bytes:
        """Samples `start` to `start + count` of this client's stream."""
        at = (self._offset + start) % self._audio.samples
        data = self._audio.pcm[2 * at : 2 * (at + count)]
        while len(data) < 2 * count:
            data += self._audio.pcm[: 2 * count - len(data)]
        return data

    def speech_end(self, sample: int) -> int | None:
        """Where speech last ended at or before `sample` of this client's stream.

        None inside speech, and before any.
        """
        turns, at = divmod(self._offset + sample, self._audio.samples)
        begun = bisect_right(self._audio.speech_starts, at) - 1
        if begun < 0:
            turns, begun = turns - 1, len(self._audio.speech_ends) - 1
        end = self._audio.speech_ends[begun] + turns * self._audio.samples - self._offset
        return end if 0 <= end <= sample else None


def load_round(path: Path | None, *, pause_s: float) -> Round:
    """A sound file, or all of a folder in the order of their names.

    Args:
        path: None for the bundled conversations.
        pause_s: Silence after each file.

    Raises:
        UnreadableAudio: there is none, or it cannot be decoded.
    """
    pause = np.zeros(round(pause_s * SAMPLE_RATE), np.float32)
    pieces: list[Samples] = []
    starts: list[int] = []
    spans: list[tuple[int, int]] = []
    at = 0
    for file in _files(path):
        samples = _read(file)
        starts.append(at)
        spans += [(at + start, at + end) for start, end in speech_spans(samples)]
        pieces += [samples, pause]
        at += len(samples) + len(pause)
        if at > MOST_S * SAMPLE_RATE:
            raise UnreadableAudio(f"{path}: more than {MOST_S / 60:.0f} minutes of audio")
    if not spans:
        raise UnreadableAudio(f"{path}: nobody speaks")
    pcm = encode_samples(np.concatenate(pieces), AudioFormat())
    return Round(
        pcm,
        tuple(starts),
        tuple(start for start, _ in spans),
        tuple(end for _, end in spans),
    )


def speech_spans(samples: Samples) -> list[tuple[int, int]]:
    """Where somebody speaks, by loudness: start and end of each stretch, in samples."""
    frames = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    if not len(frames):
        return []
    level_db = 10 * np.log10(np.square(frames, dtype=np.float64).mean(1) + 1e-12)
    limit = max(float(np.quantile(level_db, LOUD_QUANTILE)) - BELOW_LOUD_DB, LEAST_DBFS)
    loud = np.flatnonzero(level_db > limit)
    if not len(loud):
        return []
    breaks = np.flatnonzero(np.diff(loud) > LONGEST_DIP_S * SAMPLE_RATE / FRAME_SAMPLES)
    first = loud[np.concatenate(([0], breaks + 1))]
    last = loud[np.concatenate((breaks, [len(loud) - 1]))]
    return [
        (int(start) * FRAME_SAMPLES, int(end + 1) * FRAME_SAMPLES)
        for start, end in zip(first, last, strict=True)
    ]


def _files(path: Path | None) -> list[Path]:
    if path is None:
        files = sorted(BUNDLED.glob("conversation-*.flac"))
        if not files:
            raise UnreadableAudio("no bundled audio in this installation: use --audio")
        return files
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise UnreadableAudio(f"{path}: no {' or '.join(SUFFIXES)} file there")
    return files


def _read(path: Path) -> Samples:
    ingress = Ingress()
    with AudioFile(path) as file:
        pieces = [
            samples
            for packet in file.packets(1.0)
            for samples in ingress.push(Packet(packet, file.format))
        ]
    return np.concatenate([*pieces, ingress.finish()])

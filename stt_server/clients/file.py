"""Audio files as a stream of packets in a format the server takes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

import numpy as np
import soundfile  # pyright: ignore[reportMissingTypeStubs]
import soxr  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from stt_server.clients.errors import UnreadableAudio
from stt_server.clients.samples import encode_samples
from stt_server.events import SAMPLE_RATE, Samples
from stt_server.protocols.base import MAX_RATE, MIN_RATE, AudioFormat


class _Decoder(Protocol):
    """What is used of `soundfile.SoundFile`, which has no types of its own."""

    samplerate: int
    channels: int
    frames: int

    def read(self, frames: int, *, dtype: str, always_2d: bool) -> NDArray[np.float32]: ...
    def close(self) -> None: ...


class _Sequential(soundfile.SoundFile):
    """Never seeks. soundfile seeks after every read of a file that can; in an MP3 that loses the
    bits which frames borrow from the ones before them, and blocks decode to silence."""

    def seekable(self) -> bool:
        return False


class AudioFile:
    """A sound file: WAV, FLAC, MP3, OGG and whatever else libsndfile decodes.

    Rate and channels are sent as they are where the server takes them; otherwise the file becomes
    16 kHz, and more than two channels become one.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            UnreadableAudio: it is missing, no sound file, or empty.
        """
        self._path = path
        self._decoder = _open(path)
        rate, channels = self._decoder.samplerate, self._decoder.channels
        self._resampled = not MIN_RATE <= rate <= MAX_RATE
        self.format = AudioFormat(
            SAMPLE_RATE if self._resampled else rate, channels if channels <= 2 else 1
        )
        self.seconds = self._decoder.frames / rate
        """Length by the file's own header, which may be wrong."""
        if self._decoder.frames == 0:
            self._decoder.close()
            raise UnreadableAudio(f"{path}: the file holds no audio")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._decoder.close()

    def packets(self, seconds: float) -> Iterator[bytes]:
        """The audio in PCM16 packets of about `seconds`, decoded as they are asked for.

        Reading a packet blocks, for less time than handing it to a thread would cost.

        Raises:
            UnreadableAudio: the file is damaged; what came before the damage was given.
        """
        for block in self._converted(round(seconds * self._decoder.samplerate)):
            if len(block):
                yield encode_samples(block, self.format)

    def _converted(self, frames: int) -> Iterator[Samples]:
        channels = self.format.channels
        resampler = None
        if self._resampled:
            rate = self._decoder.samplerate
            resampler = soxr.ResampleStream(rate, SAMPLE_RATE, channels, dtype="float32")
        while len(block := self._read(frames)):
            if block.shape[1] != channels:
                block = block.mean(axis=1, dtype=np.float32, keepdims=True)
            yield block if resampler is None else resampler.resample_chunk(block)
        if resampler is not None:
            empty = np.empty((0, channels), dtype=np.float32)
            yield resampler.resample_chunk(empty, last=True)

    def _read(self, frames: int) -> Samples:
        try:
            return self._decoder.read(frames, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise UnreadableAudio(f"{self._path}: the file is damaged ({error})") from error


class RealTime:
    """Lets audio pass when a microphone would have recorded it.

    Each packet waits for its own point in time after the first call, so delays do not add up.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._now = now
        self._sleep = sleep
        self._start: float | None = None

    async def until(self, stream_s: float) -> None:
        """Wait until `stream_s` seconds of audio have been recorded."""
        if self._start is None:
            self._start = self._now()
        delay = self._start + stream_s - self._now()
        if delay > 0:
            await self._sleep(delay)


def _open(path: Path) -> _Decoder:
    try:
        with path.open("rb") as file:  # the system's own words for what is missing or forbidden
            is_empty = not file.read(1)
    except OSError as error:
        raise UnreadableAudio(f"cannot read {path}: {error.strerror or error}") from error
    if is_empty:
        raise UnreadableAudio(f"{path}: the file is empty")
    try:
        return cast(_Decoder, _Sequential(str(path)))
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        # TypeError: a name that ends in .raw makes soundfile ask for the format.
        raise UnreadableAudio(f"{path}: not a sound file that can be decoded") from error

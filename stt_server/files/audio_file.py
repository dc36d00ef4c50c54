"""An audio file of whatever kind, read with FFmpeg; used in the decoder process alone.

The content decides what it is, never the name. Playlists and other formats that name further files
are not read, and nothing is fetched from a network.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError

from stt_server.audio import Ingress
from stt_server.events import SAMPLE_RATE, Samples
from stt_server.files.errors import InvalidFile
from stt_server.files.wav_header import missing_seconds
from stt_server.protocols.base import AudioFormat, Encoding, Packet

FORMATS = ("wav", "flac", "mp3", "ogg", "mov", "matroska", "aac")
_PCM = "u8 s8 s16le s16be s24le s24be s32le s32be f32le f32be f64le f64be mulaw alaw"
CODECS = ("flac", "mp3", "mp3float", "aac", "alac", "opus", "libopus", "vorbis", "adpcm_ms")
LENGTH_KNOWN = ("wav", "flac", "mov", "matroska")
"""Formats whose header says how long they are; others are measured by what is there."""
MAX_MISSING_S, MAX_MISSING = 0.5, 0.01
"""What may be missing at the end (seconds, and part of the whole): codecs pad and trim."""
MAX_BAD_PACKETS = 0.02
_NOTHING: Samples = np.empty(0, dtype=np.float32)
CUT_OFF = "the audio file is cut off: it says that it is longer"


class AudioFile:
    """One file's best audio stream as 16 kHz mono float32."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            InvalidFile: it is not audio, or not of a kind that is read.
        """
        with path.open("rb") as file:
            if missing_seconds(file, path.stat().st_size) > MAX_MISSING_S:
                raise InvalidFile(CUT_OFF)
        options = {
            "format_whitelist": ",".join(FORMATS),
            "codec_whitelist": ",".join((*CODECS, *(f"pcm_{kind}" for kind in _PCM.split()))),
            "protocol_whitelist": "file",
        }
        try:
            self._container: InputContainer = av.open(str(path), options=options)
        except (FFmpegError, ValueError) as error:
            raise InvalidFile("the file is not audio of a kind that this server reads") from error
        stream = self._container.streams.best("audio")
        if not isinstance(stream, AudioStream):
            self._container.close()
            raise InvalidFile("the file has no audio that this server reads")
        self._stream = stream
        self._ingress = Ingress()
        self._given = 0

    def close(self) -> None:
        self._container.close()

    @property
    def length(self) -> int | None:
        """Samples at 16 kHz that the file says it has; None where it does not, or guesses."""
        stream, container = self._stream, self._container
        kind = container.format.name
        # MP3: the header that tells the encoder's delay tells the length, too.
        if not (kind.startswith(LENGTH_KNOWN) or (kind == "mp3" and stream.start_time)):
            return None
        if stream.duration is not None and stream.time_base is not None:
            return round(stream.duration * stream.time_base * SAMPLE_RATE)
        # Of all streams together: another one may be longer.
        if container.duration is None or len(container.streams) > 1:
            return None
        return round(container.duration * SAMPLE_RATE / av.time_base)

    def pieces(self) -> Iterator[Samples]:
        """All samples, about a second at a time.

        Raises:
            InvalidFile: the file is damaged or cut off; samples before that were given.
        """
        for packet in self._packets():
            yield from self._give(self._ingress.push(packet))
        yield from self._give([self._ingress.finish()])
        self._check_end()

    def _give(self, pieces: Iterable[Samples]) -> Iterator[Samples]:
        """One piece, if there is anything."""
        samples = np.concatenate([_NOTHING, *pieces])
        self._given += len(samples)
        if len(samples):
            yield samples

    def _packets(self) -> Iterator[Packet]:
        """Frames are short, and each costs the same: about a second of them goes on together."""
        held: list[Samples] = []
        rate = count = 0
        for frame in self._frames():
            if held and (frame.sample_rate != rate or count >= rate):
                yield _packet(held, rate)
                held, count = [], 0
            rate = frame.sample_rate
            held.append(mono(frame))
            count += len(held[-1])
        if held:
            yield _packet(held, rate)

    def _frames(self) -> Iterator[AudioFrame]:
        """Players skip a broken packet, and so does this; many of them are damage."""
        packets = bad = 0
        try:
            for packet in self._container.demux(self._stream):
                packets += 1
                try:
                    yield from packet.decode()
                except FFmpegError:
                    bad += 1
        except FFmpegError as error:
            raise InvalidFile("the audio file is damaged") from error
        if bad > max(1, packets * MAX_BAD_PACKETS):
            raise InvalidFile("the audio file is damaged")

    def _check_end(self) -> None:
        if not self._given:
            raise InvalidFile("the file has no audio")
        length = self.length
        if length is None:
            return
        if length - self._given > max(MAX_MISSING_S * SAMPLE_RATE, MAX_MISSING * length):
            raise InvalidFile(CUT_OFF)


def _packet(parts: list[Samples], rate: int) -> Packet:
    return Packet(np.concatenate(parts).tobytes(), AudioFormat(rate, 1, Encoding.F32))


def mono(frame: AudioFrame) -> Samples:
    """The frame's samples in ±1, all channels averaged."""
    data: np.ndarray[Any, Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(-1, frame.layout.nb_channels).T
    samples: Samples = data.mean(axis=0, dtype=np.float32)
    if data.dtype == np.uint8:
        return (samples - np.float32(128)) / np.float32(128)
    if data.dtype.kind == "i":
        return samples / np.float32(2 ** (8 * data.dtype.itemsize - 1))
    return samples

"""Ingress: whatever a client sends becomes float32 mono 16 kHz, sample by sample the same however
the bytes were cut into messages. Wire formats are named in `protocols/base.py`."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stt_server.errors import InvalidAudio
from stt_server.events import SAMPLE_RATE, Samples
from stt_server.protocols.base import AudioFormat, Encoding, Packet
from stt_server.resample import Resampler, make_resampler

PIECE_SECONDS = 0.5
"""Longest run of samples handed on at once: one packet must not occupy the event loop for long."""


def _mulaw_table() -> Samples:
    """Float value of each of the 256 mu-law codes. Source: ITU-T G.711."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84 << ((code & 0x70) >> 4)) - 0x84
    return (np.where(code & 0x80, -magnitude, magnitude) / 32_768).astype(np.float32)


def _alaw_table() -> Samples:
    """Float value of each of the 256 A-law codes. Source: ITU-T G.711."""
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent = (code & 0x70) >> 4
    mantissa = ((code & 0x0F) << 4) + 8
    magnitude = np.where(exponent == 0, mantissa, (mantissa + 0x100) << np.maximum(exponent - 1, 0))
    return (np.where(code & 0x80, magnitude, -magnitude) / 32_768).astype(np.float32)


_G711 = {Encoding.MULAW: _mulaw_table(), Encoding.ALAW: _alaw_table()}


def decode_samples(data: bytes, audio_format: AudioFormat) -> Samples:
    """Mono float32 at the format's own rate; two channels are averaged.

    Floats are clipped to ±1 and what is not a number becomes silence: one NaN would poison every
    filter and model state behind it.
    """
    samples: NDArray[np.float32]
    match audio_format.encoding:
        case Encoding.PCM16:
            samples = np.frombuffer(data, dtype="<i2").astype(np.float32)
            samples /= 32_768
        case Encoding.F32:
            samples = np.nan_to_num(np.frombuffer(data, dtype="<f4"), nan=0.0)
            np.clip(samples, -1.0, 1.0, out=samples)
        case Encoding.MULAW | Encoding.ALAW:
            samples = _G711[audio_format.encoding][np.frombuffer(data, dtype=np.uint8)]
    if audio_format.channels == 2:
        samples = samples.reshape(-1, 2).mean(axis=1, dtype=np.float32)
    return samples


class Ingress:
    """One stream's way from client bytes to samples; owns the resampler's memory.

    Attributes:
        taken: Samples per channel accepted so far, each at the rate of its packet.
    """

    def __init__(self) -> None:
        self.taken = 0
        self._skip = 0
        self._format: AudioFormat | None = None
        self._resampler: Resampler | None = None
        self._rest = b""

    @property
    def is_mid_sample(self) -> bool:
        """The last packet stopped inside a sample whose other bytes have not come."""
        return bool(self._rest)

    def push(self, packet: Packet) -> Iterator[Samples]:
        """The packet's samples in pieces of at most half a second.

        Raises:
            InvalidAudio: the byte count is no whole number of samples. The packet is then
                refused whole; earlier audio is untouched.
        """
        frame_bytes = packet.format.frame_bytes
        data = self._rest + packet.data if packet.splits_samples else packet.data
        remainder = len(data) % frame_bytes
        if remainder and not packet.splits_samples:
            raise InvalidAudio(
                f"audio must be a multiple of {frame_bytes} bytes, got {len(packet.data)}"
            )
        if packet.splits_samples:
            self._rest = data[len(data) - remainder :]
        samples = (len(data) - remainder) // frame_bytes
        known = min(samples, self._skip)
        self._skip -= known
        self.taken += samples - known
        return self._convert(data[known * frame_bytes : samples * frame_bytes], packet.format)

    def rewind(self, sample: int) -> None:
        """The client begins again at its `sample`, no later than `taken`: what follows is skipped
        up to where the stream was. A sample whose other bytes have not come is forgotten."""
        self._skip = self.taken - sample
        self._rest = b""

    def drop_incomplete(self) -> InvalidAudio:
        """Give up on a sample whose other bytes never came; returns the error to report."""
        dropped, self._rest = len(self._rest), b""
        return InvalidAudio(f"audio ended inside a sample; the last {dropped} byte(s) were dropped")

    def finish(self) -> Samples:
        """The samples still inside the resampler. The next packet starts a new one."""
        resampler, self._resampler, self._format = self._resampler, None, None
        if resampler is None:
            return np.empty(0, dtype=np.float32)
        return resampler.finish()

    def _convert(self, data: bytes, audio_format: AudioFormat) -> Iterator[Samples]:
        if not data:
            return
        if self._format is None or audio_format.sample_rate != self._format.sample_rate:
            tail = self.finish()
            if len(tail):
                yield tail
            if audio_format.sample_rate != SAMPLE_RATE:
                self._resampler = make_resampler(audio_format.sample_rate)
        self._format = audio_format
        step = int(audio_format.sample_rate * PIECE_SECONDS) * audio_format.frame_bytes
        for begin in range(0, len(data), step):
            samples = decode_samples(data[begin : begin + step], audio_format)
            if self._resampler is not None:
                samples = self._resampler.push(samples)
            if len(samples):
                yield samples

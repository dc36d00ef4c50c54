"""Audio files of many kinds, made by FFmpeg."""

import io
from dataclasses import dataclass

import av
import numpy as np
import soxr
from av.audio.stream import AudioStream
from numpy.typing import NDArray

RATE = 16_000
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """A container, what is in it, and at which rate."""

    container: str
    codec: str
    rate: int
    layout: str = "mono"


KINDS = {
    "wav": Kind("wav", "pcm_s16le", 16_000),
    "wav 24 bit stereo": Kind("wav", "pcm_s24le", 48_000, "stereo"),
    "wav float": Kind("wav", "pcm_f32le", 44_100),
    "wav mu-law": Kind("wav", "pcm_mulaw", 8_000),
    "wav A-law": Kind("wav", "pcm_alaw", 8_000),
    "flac": Kind("flac", "flac", 16_000),
    "mp3": Kind("mp3", "libmp3lame", 44_100),
    "ogg opus": Kind("ogg", "libopus", 48_000),
    "m4a": Kind("ipod", "aac", 44_100),
    "aac": Kind("adts", "aac", 44_100),
    "webm": Kind("webm", "libopus", 48_000),
}


def encoded(samples: Samples, kind: Kind, **options: str) -> bytes:
    """A file of that kind.

    Args:
        samples: 16 kHz mono float32; all channels get them.
        options: of the container.
    """
    target = io.BytesIO()
    resampled = soxr.resample(samples, RATE, kind.rate) if kind.rate != RATE else samples
    with av.open(target, "w", format=kind.container, options=options) as container:
        stream = container.add_stream(kind.codec, rate=kind.rate)
        assert isinstance(stream, AudioStream)
        stream.layout = kind.layout
        channels = {"mono": 1, "stereo": 2}[kind.layout]
        interleaved = np.repeat(resampled.astype(np.float32), channels)[None]
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=kind.layout)
        frame.sample_rate = kind.rate
        resampler = av.AudioResampler(
            format=stream.codec_context.format,
            layout=kind.layout,
            rate=kind.rate,
            frame_size=stream.codec_context.frame_size or 1_024,
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return target.getvalue()


def tone(seconds: float, hertz: float = 440.0) -> Samples:
    """A tone at half of full scale."""
    at = np.arange(round(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * hertz * at)).astype(np.float32)

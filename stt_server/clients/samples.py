"""Sample arrays to the bytes of a session's format."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stt_server.protocols.base import AudioFormat, Encoding

SampleArray: TypeAlias = NDArray[np.int16] | NDArray[np.float32] | NDArray[np.float64]
"""int16, or floating point between -1 and 1; (samples,) interleaved or (samples, channels)."""


def encode_samples(samples: NDArray[Any], audio_format: AudioFormat) -> bytes:
    """The samples as little-endian bytes; louder than full scale is clipped, NaN becomes silence.

    Raises:
        ValueError: the array's type, shape or the session's encoding does not fit.
    """
    if samples.ndim > 2 or (samples.ndim == 2 and samples.shape[1] != audio_format.channels):
        raise ValueError(
            f"samples of shape {samples.shape} in a session of {audio_format.channels} channel(s)"
        )
    if samples.dtype != np.int16 and samples.dtype.kind != "f":
        raise ValueError(f"samples must be int16 or floating point, not {samples.dtype}")
    match audio_format.encoding:
        case Encoding.PCM16:
            return _pcm16(samples).astype("<i2", copy=False).tobytes()
        case Encoding.F32:
            return _f32(samples).astype("<f4", copy=False).tobytes()
        case Encoding.MULAW | Encoding.ALAW:
            raise ValueError(f"a session in {audio_format.encoding} takes bytes, not arrays")


def _pcm16(samples: NDArray[Any]) -> NDArray[np.int16]:
    if samples.dtype == np.int16:
        return samples
    scaled = np.rint(np.nan_to_num(samples) * 32_768.0)
    return np.clip(scaled, -32_768, 32_767).astype(np.int16)


def _f32(samples: NDArray[Any]) -> NDArray[np.float32]:
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / np.float32(32_768)
    return np.nan_to_num(samples).astype(np.float32)

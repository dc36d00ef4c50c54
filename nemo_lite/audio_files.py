"""Recordings as arrays: any length, rate and sample type to float32 mono at the model's rate."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from torch import Tensor

from nemo_lite.errors import ShapeError

Audio = NDArray[Any] | Tensor | str | Path


_LOUDEST = 1e6
"""Far beyond any sample, also one that was not scaled to -1..1: what is louder is no audio."""


def as_samples(samples: NDArray[np.float32] | Tensor) -> NDArray[np.float32]:
    """Check one packet of float32 samples.

    Raises:
        ShapeError: not (S,), not float32, or with numbers that are no audio (NaN, infinite, huge):
            these would stay in a stream's state.
    """
    array = _as_array(samples)
    if array.ndim != 1 or array.dtype != np.float32:
        raise ShapeError(f"samples are {array.dtype} {array.shape}, not float32 (S,)")
    _require_audible(array)
    return array


def load_audio(audio: Audio, sample_rate: int, model_rate: int) -> NDArray[np.float32]:
    """Read, mix down and resample one recording.

    Args:
        audio: (S,) float in -1..1 or int16; or the path of a file that libsndfile can read.
        sample_rate: of an array, in Hz.
        model_rate: what the model wants, in Hz.

    Returns:
        (S',) float32.

    Raises:
        ShapeError: not one-dimensional, neither float nor int16, or not finite.
        ValueError: `sample_rate` is no rate.
        OSError: the file cannot be read.
    """
    if not 0 < sample_rate < 1e7:
        raise ValueError(f"sample_rate is {sample_rate}")
    if isinstance(audio, (str, Path)):
        try:
            samples, sample_rate = soundfile.read(audio, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise OSError(f"{audio} is no audio file that can be read: {error}") from error
        waveform = np.asarray(samples, np.float32).mean(axis=1)
    else:
        waveform = _as_float32(audio)
    if sample_rate != model_rate:
        waveform = soxr.resample(waveform, sample_rate, model_rate)
    _require_audible(waveform)
    return np.ascontiguousarray(waveform, np.float32)


def _as_float32(audio: NDArray[Any] | Tensor) -> NDArray[np.float32]:
    array = _as_array(audio)
    if array.ndim != 1:
        raise ShapeError(f"audio has shape {array.shape}, not (S,)")
    if array.dtype == np.int16:
        return array.astype(np.float32) / np.float32(32_768)
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32)
    raise ShapeError(f"audio is {array.dtype}, neither float nor int16")


def _as_array(audio: NDArray[Any] | Tensor) -> NDArray[Any]:
    try:
        return np.asarray(audio.detach().cpu() if isinstance(audio, Tensor) else audio)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ShapeError(f"audio is no array of samples: {error}") from error


def _require_audible(samples: NDArray[np.float32]) -> None:
    # Written so that NaN fails, too.
    if len(samples) and not np.abs(samples).max() <= _LOUDEST:
        raise ShapeError("samples are not finite or far beyond -1..1")

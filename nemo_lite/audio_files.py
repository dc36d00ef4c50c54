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


def load_audio(audio: Audio, sample_rate: int, model_rate: int) -> NDArray[np.float32]:
    """Read, mix down and resample one recording.

    Args:
        audio: (S,) float in -1..1 or int16; or the path of a file that libsndfile can read.
        sample_rate: of an array, in Hz.
        model_rate: what the model wants, in Hz.

    Returns:
        (S',) float32.

    Raises:
        ShapeError: not one-dimensional, or neither float nor int16.
        OSError: the file cannot be read.
    """
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
    return np.ascontiguousarray(waveform, np.float32)


def _as_float32(audio: NDArray[Any] | Tensor) -> NDArray[np.float32]:
    array = np.asarray(audio.cpu() if isinstance(audio, Tensor) else audio)
    if array.ndim != 1:
        raise ShapeError(f"audio has shape {array.shape}, not (S,)")
    if array.dtype == np.int16:
        return array.astype(np.float32) / np.float32(32_768)
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32)
    raise ShapeError(f"audio is {array.dtype}, neither float nor int16")

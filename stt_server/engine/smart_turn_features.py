"""What smart-turn hears: Whisper's log-mel spectrogram of 8 s, in numpy.

Equal to what `transformers.WhisperFeatureExtractor(chunk_length=8)` computes with `do_normalize`.
"""

import functools
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from stt_server.events import SAMPLE_RATE, Samples

MELS, FRAMES = 80, 800
HEARD_SAMPLES = 8 * SAMPLE_RATE
_HOP, _WINDOW = 160, 400
_BINS = _WINDOW // 2 + 1
_ROWS = 20

_Array: TypeAlias = NDArray[np.float64]


def log_mel(samples: Samples) -> NDArray[np.float32]:
    """Features of the last 8 s, with zeros in front of what is shorter.

    Args:
        samples: (S,) float32, 16 kHz mono.

    Returns:
        (80, 800) float32, a column per 10 ms.
    """
    heard = np.zeros(HEARD_SAMPLES)
    if len(samples):
        heard[-len(samples) :] = samples[-HEARD_SAMPLES:]
    heard = (heard - heard.mean()) / np.sqrt(heard.var() + 1e-7)
    padded = np.pad(heard, _WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][:FRAMES]
    spectrum = np.fft.rfft(frames * _hann())
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    # In products so small that BLAS takes one thread: several would wait for busy cores.
    bands = power.reshape(-1, _ROWS, _BINS) @ _filters()
    levels = np.log10(np.maximum(bands, 1e-10)).reshape(FRAMES, MELS)
    return (np.maximum(levels, levels.max() - 8.0) / 4.0 + 1.0).T.astype(np.float32, order="C")


@functools.cache
def _hann() -> _Array:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)


@functools.cache
def _filters() -> _Array:
    """(201, 80) triangles of equal area, their corners evenly spaced in mel from 0 to 8 kHz.

    Source: M. Slaney, Auditory Toolbox (1998).
    """
    corners = _hertz(np.linspace(0.0, _mel_of(SAMPLE_RATE / 2), MELS + 2))
    bins = np.linspace(0.0, SAMPLE_RATE / 2, _BINS)
    return np.stack(
        [
            np.interp(bins, (left, middle, right), (0.0, 2.0 / (right - left), 0.0))
            for left, middle, right in zip(corners, corners[1:], corners[2:], strict=False)
        ],
        axis=1,
    )


# Linear up to 1 kHz, which is mel 15; above it 27 mel for a factor of 6.4.
_LINEAR_MEL, _LINEAR_HERTZ = 15.0, 1_000.0
_PER_MEL = np.log(6.4) / 27.0


def _mel_of(hertz: float) -> float:
    """For frequencies from 1 kHz on."""
    return _LINEAR_MEL + float(np.log(hertz / _LINEAR_HERTZ)) / _PER_MEL


def _hertz(mel: _Array) -> _Array:
    low = mel * (_LINEAR_HERTZ / _LINEAR_MEL)
    return np.where(mel < _LINEAR_MEL, low, _LINEAR_HERTZ * np.exp((mel - _LINEAR_MEL) * _PER_MEL))

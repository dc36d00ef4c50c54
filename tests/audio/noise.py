"""Sound that is not speech, for tests: seeded, float32, 16 kHz mono.

`level_dbfs` is the RMS level, except for `clicks`, where it is the peak of the loudest click.
Nothing is clipped: the noises need a level of -14 dBFS or less to stay within ±1, music -18.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000

Audio = NDArray[np.float32]


def white(seconds: float, *, level_dbfs: float, seed: int) -> Audio:
    """Noise with equal power at all frequencies."""
    return _coloured(seconds, slope=0.0, level_dbfs=level_dbfs, seed=seed)


def pink(seconds: float, *, level_dbfs: float, seed: int) -> Audio:
    """Noise that falls by 3 dB per octave, like many rooms and fans."""
    return _coloured(seconds, slope=-0.5, level_dbfs=level_dbfs, seed=seed)


def brown(seconds: float, *, level_dbfs: float, seed: int) -> Audio:
    """Noise that falls by 6 dB per octave, like traffic behind a window."""
    return _coloured(seconds, slope=-1.0, level_dbfs=level_dbfs, seed=seed)


def hum(seconds: float, *, level_dbfs: float, seed: int, mains_hz: float = 50.0) -> Audio:
    """Mains hum: the fundamental and seven harmonics, phases by `seed`."""
    rng = np.random.default_rng(seed)
    at = _times(seconds)
    harmonics = [
        np.sin(2 * np.pi * mains_hz * n * at + rng.uniform(0, 2 * np.pi)) / n for n in range(1, 9)
    ]
    return _at_rms(np.sum(harmonics, axis=0), level_dbfs)


def music(seconds: float, *, level_dbfs: float, seed: int) -> Audio:
    """Plucked arpeggios over C, A minor, F and G chords, eight notes a chord, four a second."""
    rng = np.random.default_rng(seed)
    chords = ((60, 64, 67, 72), (57, 60, 64, 69), (53, 57, 60, 65), (55, 59, 62, 67))
    total = np.zeros(len(_times(seconds)))
    for step in range(int(np.ceil(seconds * 4))):
        chord = chords[step // 8 % len(chords)]
        start = step * SAMPLE_RATE // 4
        notes = [rng.choice(chord), *((n - 12 for n in chord) if step % 8 == 0 else ())]
        for note in notes:
            tone = _pluck(440.0 * 2 ** ((note - 69) / 12))[: len(total) - start]
            total[start : start + len(tone)] += tone
    return _at_rms(total, level_dbfs)


def clicks(seconds: float, *, level_dbfs: float, seed: int, per_second: float = 3.0) -> Audio:
    """Short clicks at random times, like a keyboard or a switch; 2 ms decay, silence between."""
    rng = np.random.default_rng(seed)
    total = np.zeros(len(_times(seconds)))
    decay = np.exp(-np.arange(SAMPLE_RATE // 50) / (0.002 * SAMPLE_RATE))
    for start in rng.integers(0, len(total), size=max(1, round(seconds * per_second))):
        click = (rng.uniform(0.3, 1.0) * rng.standard_normal(len(decay)) * decay)[
            : len(total) - start
        ]
        total[start : start + len(click)] += click
    return (total / np.abs(total).max() * _gain(level_dbfs)).astype(np.float32)


def _coloured(seconds: float, *, slope: float, level_dbfs: float, seed: int) -> Audio:
    """Gaussian noise whose amplitude spectrum goes as frequency ** slope, above 20 Hz."""
    count = len(_times(seconds))
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    shape = np.maximum(frequency, 20.0) ** slope
    shape[0] = 0.0  # no offset
    return _at_rms(np.fft.irfft(spectrum * shape, count), level_dbfs)


def _pluck(pitch_hz: float) -> NDArray[np.float64]:
    """A 1.5 s note: six harmonics, the higher ones dying sooner, with a 5 ms attack."""
    at = _times(1.5)
    attack = np.minimum(at / 0.005, 1.0)
    return attack * sum(
        np.sin(2 * np.pi * pitch_hz * n * at) * np.exp(-3.0 * n * at) / n for n in range(1, 7)
    )


def _times(seconds: float) -> NDArray[np.float64]:
    return np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _at_rms(signal: NDArray[np.float64], level_dbfs: float) -> Audio:
    return (signal * (_gain(level_dbfs) / np.sqrt(np.mean(signal**2)))).astype(np.float32)


def _gain(level_dbfs: float) -> float:
    return float(10 ** (level_dbfs / 20))

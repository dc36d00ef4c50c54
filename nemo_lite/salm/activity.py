"""Where sound is in a recording, from the energy of its frames alone: no model, no memory.

Decides that there is nothing to transcribe, where long audio is cut, and where words can be.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HOPS_PER_SECOND = 100
_WINDOW_HOPS = 3
_LOWEST_HZ, _HIGHEST_HZ = 200, 4_000
"""Holds most of speech; mains hum, handling noise and most of white noise lie outside."""

_INAUDIBLE_DB = -90.0
"""Below the last bit of 16-bit audio: digital silence."""
_QUIETEST_SPEECH_DB = -62.0
"""Speech of -50 dB as a whole has vowels far above; a noise floor of -70 dB stays below."""
_STEADY_DB = 5.0
"""Noise and hum stay within this of their quieter moments; speech, even in noise, does not."""
_STEADY_BELOW_DB = -45.0
_STEADY_FROM_SECONDS = 1.5
_VOWEL_HOPS = 6
"""The shortest words hold a vowel of about 60 ms; a click fills three windows at most."""


class Region(NamedTuple):
    """Half-open, in hops of 10 ms."""

    start: int
    end: int

    @property
    def hops(self) -> int:
        """Length."""
        return self.end - self.start


def levels(samples: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Level of the band of speech, every 10 ms.

    Args:
        samples: (S,) float32 of full scale -1..1.
        sample_rate: in Hz.

    Returns:
        (T,) mean square in dB of full scale, at least -120; T = S per 10 ms, rounded up.
    """
    hop = sample_rate // HOPS_PER_SECOND
    size = hop * _WINDOW_HOPS
    count = -(-len(samples) // hop)
    padded = np.pad(samples, (hop, hop * (count + 2) - len(samples)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][:count]
    window = np.hanning(size + 2)[1:-1].astype(np.float32)
    spectrum = np.fft.rfft(frames * window, axis=1)
    low, high = (hertz * size // sample_rate for hertz in (_LOWEST_HZ, _HIGHEST_HZ))
    band = spectrum[:, low : high + 1]
    power = (band.real**2 + band.imag**2).sum(1) * (2 / (size * (window**2).sum()))
    return (10 * np.log10(power + 1e-12)).astype(np.float32)


def has_speech(samples: NDArray[np.float32], sample_rate: int) -> bool:
    """Whether there may be speech: False where a recogniser could only invent some.

    True needs 60 ms in one piece above -62 dB of full scale and, where the audio is quiet (its
    floor below -45 dB) or lasts 1.5 s, 5 dB above its floor. So digital silence, steady noise, hum
    and clicks are silence, and speech of -50 dB is not. Errs towards True: loud noise that is not
    steady is left to the model.
    """
    level = levels(samples, sample_rate)
    audible = level[level > _INAUDIBLE_DB]
    if not len(audible):
        return False
    floor = float(np.percentile(audible, 10))
    threshold = _QUIETEST_SPEECH_DB
    if floor < _STEADY_BELOW_DB or len(level) >= _STEADY_FROM_SECONDS * HOPS_PER_SECOND:
        threshold = max(threshold, floor + _STEADY_DB)
    return any(region.hops >= _VOWEL_HOPS for region in runs(level > threshold))


def speech_regions(level: NDArray[np.float32]) -> list[Region]:
    """Runs of frames that stand out from this recording's noise; empty if none does.

    Closures of consonants, which are silent for up to 50 ms, do not split a run; runs of less
    than 40 ms are clicks.
    """
    audible = level[level > _INAUDIBLE_DB]
    if not len(audible):
        return []
    floor, loud = (float(value) for value in np.percentile(audible, (10, 95)))
    # Sound is what is nearer to the loud frames than to the noise, but with little noise not
    # only what is loud: soft consonants are 30 dB below vowels.
    threshold = max(loud - 30, floor + 0.3 * (loud - floor))
    joined: list[Region] = []
    for region in runs(level > threshold):
        if joined and region.start - joined[-1].end <= 5:
            joined[-1] = Region(joined[-1].start, region.end)
        else:
            joined.append(region)
    return [region for region in joined if region.hops >= 4]


def runs(flags: NDArray[np.bool_]) -> list[Region]:
    """Where the flags are True, in order."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return [Region(int(start), int(end)) for start, end in edges.reshape(-1, 2)]

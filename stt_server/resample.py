"""Streaming resamplers to 16 kHz.

Ours, a windowed sinc evaluated where output samples fall, delays by 2 to 9 ms. soxr works in
blocks: it holds 36 ms of a 48 kHz stream and 115 ms of a telephone's 8 kHz, which every onset,
every interim and every final would wait for. It remains for uncommon rates.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, gcd
from typing import Protocol

import numpy as np
import soxr
from numpy.typing import NDArray

from stt_server.events import SAMPLE_RATE, Samples

STOPBAND_DB = 80.0
TRANSITION = 0.2
"""Width of the filter's transition, as a part of the narrower Nyquist band, centred below it."""
CENTRE = 0.96
MAX_PRODUCTS = 9_000
"""Of one group's matrix: BLAS starts threads for larger ones, which costs more than it gives."""
RATES = frozenset({8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000})
"""What sound cards, telephones and codecs speak. Tables for any other ratio may be large, and
anybody may ask for any."""


class Resampler(Protocol):
    """One stream's way to 16 kHz; the output does not depend on how the input is cut."""

    def push(self, samples: Samples) -> Samples:
        """What can be told for sure from the input so far."""
        ...

    def finish(self) -> Samples:
        """The rest; in all as many samples as the input lasts, to the nearest one."""
        ...


def make_resampler(rate: int) -> Resampler:
    """A resampler from `rate` Hz to 16 kHz."""
    return _SincResampler(rate) if rate in RATES else _SoxrResampler(rate)


class _SincResampler:
    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._plan = _plan(rate)
        self._group = 0
        # Begins `half` samples before the cycle of the next output.
        self._buffer: Samples = np.zeros(self._plan.half, dtype=np.float32)
        self._received = 0
        self._given = 0

    def push(self, samples: Samples) -> Samples:
        self._received += len(samples)
        return self._advance(samples)

    def finish(self) -> Samples:
        expected = round(self._received * SAMPLE_RATE / self._rate) - self._given
        silence = np.zeros(self._plan.half + 2 * self._plan.cycle, dtype=np.float32)
        return self._advance(silence)[:expected]

    def _advance(self, samples: Samples) -> Samples:
        plan, out = self._plan, list[Samples]()
        buffer = np.concatenate((self._buffer, samples))
        base = 0
        while base + plan.groups[self._group].end <= len(buffer):
            group = plan.groups[self._group]
            out.append(buffer[base + group.begin : base + group.end] @ group.weights)
            self._group += 1
            if self._group == len(plan.groups):
                self._group = 0
                base += plan.cycle
        self._buffer = buffer[base:]
        resampled = np.concatenate(out) if out else np.empty(0, dtype=np.float32)
        self._given += len(resampled)
        return resampled


class _SoxrResampler:
    def __init__(self, rate: int) -> None:
        self._stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def push(self, samples: Samples) -> Samples:
        return self._stream.resample_chunk(samples)

    def finish(self) -> Samples:
        return self._stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)


@dataclass(frozen=True, slots=True)
class _Group:
    """Consecutive outputs, computed by one product: `inputs[begin:end] @ weights`."""

    begin: int
    end: int
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Plan:
    """The filter for one sample rate: after `cycle` inputs the same weights come again."""

    half: int
    """Input samples that an output needs on either side."""
    cycle: int
    groups: tuple[_Group, ...]


@lru_cache(maxsize=len(RATES))
def _plan(rate: int) -> _Plan:
    """A Kaiser-windowed sinc; length and shape after Kaiser (Oppenheim and Schafer, 7.5.3)."""
    common = gcd(rate, SAMPLE_RATE)
    inputs, outputs = rate // common, SAMPLE_RATE // common
    band = min(rate, SAMPLE_RATE) / 2
    width = 2 * np.pi * TRANSITION * band / rate
    half = ceil((STOPBAND_DB - 8) / (2.285 * width) / 2)
    beta = 0.1102 * (STOPBAND_DB - 8.7)
    repeat = max(1, 160 // outputs)
    inputs, outputs = inputs * repeat, outputs * repeat
    ratio = inputs / outputs
    sizes = range(1, outputs + 1)
    size = max(size for size in sizes if _products(size, ratio, half) <= MAX_PRODUCTS)
    groups: list[_Group] = []
    for first in range(0, outputs, size):
        positions = np.arange(first, min(first + size, outputs)) * ratio
        begin = int(positions[0])
        end = int(positions[-1]) + 2 * half + 1
        # Input i of the buffer lies at i - half of the cycle.
        distance = (np.arange(begin, end) - half)[:, None] - positions[None, :]
        cutoff = 2 * CENTRE * band / rate
        window = np.i0(beta * np.sqrt(np.clip(1 - (distance / (half + 1)) ** 2, 0, 1))) / np.i0(
            beta
        )
        weights = cutoff * np.sinc(cutoff * distance) * window
        groups.append(_Group(begin, end, np.ascontiguousarray(weights, dtype=np.float32)))
    return _Plan(half, inputs, tuple(groups))


def _products(size: int, ratio: float, half: int) -> float:
    return size * (size * ratio + 2 * half + 1)

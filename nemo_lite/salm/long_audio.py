"""Long recordings in pieces that the model was trained for, cut where it is quiet."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_HOPS_PER_SECOND = 100
_GAP_HOPS = 20
"""A gap between phrases; shorter silences are within words."""


def pieces(
    samples: NDArray[np.float32], sample_rate: int, *, longest: int
) -> Iterator[NDArray[np.float32]]:
    """Cut a recording; every sample is in exactly one piece, and none is copied.

    A piece ends in the middle of the quietest 200 ms of the last quarter of what it may hold, the
    latest of several; found when it is asked for, so that the cost does not come all at once.

    Args:
        samples: (S,) float32.
        sample_rate: in Hz.
        longest: samples per piece, at least 1 s of them.

    Yields:
        Views of `samples`, in order; the whole where it is not longer than that, one empty piece
        where there are no samples.
    """
    at = 0
    while len(samples) - at > longest:
        end = at + longest - _quietest(samples[at + longest * 3 // 4 : at + longest], sample_rate)
        yield samples[at:end]
        at = end
    yield samples[at:]


def _quietest(samples: NDArray[np.float32], sample_rate: int) -> int:
    """Samples from the middle of the quietest gap to the end."""
    hop = sample_rate // _HOPS_PER_SECOND
    hops = samples[len(samples) % hop :].reshape(-1, hop)
    # What is softer than the last bit of 16-bit audio is equally silent.
    power = np.maximum((hops.astype(np.float64) ** 2).mean(1), 1e-9)
    gaps = np.convolve(power, np.ones(_GAP_HOPS), "valid")
    # The latest of equals: rounding of the sums makes no order among silences.
    latest = int(np.flatnonzero(gaps <= gaps.min() * (1 + 1e-6))[-1])
    return (len(hops) - latest - _GAP_HOPS // 2) * hop

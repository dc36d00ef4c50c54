"""Estimated times of words whose model gives none: text laid over the regions of sound.

A dynamic programme decides which words each region holds: about as many as its length suggests,
with pauses rather after punctuation than within a phrase.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nemo_lite.salm.activity import HOPS_PER_SECOND, Region, levels, speech_regions

_ONSET = 1.0
"""What each word lasts longer than its letters say, in letters."""
_DIGIT = 4.0
"""Letters of a digit's name."""
_SPREAD = 0.35
"""Standard deviation of a word's length, as a part of it."""
_EDGE_HOPS = 6.0
"""Standard deviation of where a region seems to begin and end."""
_NOISE_PER_HOP, _NOISE = 0.1, 6.0
"""Cost of a region without words."""
_PAUSE_HOPS = 15
_SENTENCE, _PHRASE = re.compile(r"[.?!…][\"')\]]*$"), re.compile(r"[,;:—–-][\"')\]]*$")
_AFTER_SENTENCE, _AFTER_PHRASE, _WITHIN_PHRASE = -1.5, -0.5, 1.5
"""Cost of a pause, by where it falls in the text."""
_SPLIT, _SPLIT_PER_HOP = 3.0, 0.1
"""Cost of a silence within a word."""
_SPLIT_REGIONS = 3
_MOST = 12_000
"""Words times regions; fast speech of 40 s in fifty phrases has half. The cost also grows with the
words: this many take about 0.1 s, and all requests of a batch wait."""


class Times(NamedTuple):
    """Of one word, in seconds since the audio began."""

    start: float
    end: float


def word_times(words: Sequence[str], samples: NDArray[np.float32], sample_rate: int) -> list[Times]:
    """Estimate when words were said.

    With more words and regions of sound than speech of 40 s has, words are spread evenly over the
    sound.

    Args:
        words: in order, as they are written, punctuation included.
        samples: (S,) float32 that holds these words and no others.
        sample_rate: in Hz.

    Returns:
        One per word: starts never fall, no word overlaps the next, all lie within the audio.
    """
    if not words:
        return []
    level = levels(samples, sample_rate)
    regions = speech_regions(level) or [Region(0, len(level))]
    weights = np.array([weight(word) for word in words])
    if len(words) * len(regions) > _MOST:
        places = _evenly(weights, regions)
    else:
        # A pause before or after all words costs nothing.
        pauses = np.array([0.0, *(_pause_cost(word) for word in words[:-1]), 0.0])
        places = _spread(weights, regions, _assign(weights, pauses, regions))
    seconds = len(samples) / sample_rate
    return [
        Times(min(start / HOPS_PER_SECOND, seconds), min(end / HOPS_PER_SECOND, seconds))
        for start, end in places
    ]


def weight(word: str) -> float:
    """How long a word takes, in letters."""
    return _ONSET + sum(_DIGIT if letter.isdigit() else 1.0 for letter in word if letter.isalnum())


def _pause_cost(word: str) -> float:
    if _SENTENCE.search(word):
        return _AFTER_SENTENCE
    return _AFTER_PHRASE if _PHRASE.search(word) else _WITHIN_PHRASE


class _Piece(NamedTuple):
    """Words `first`..`last` (half-open) share regions `start`..`end` (half-open)."""

    first: int
    last: int
    start: int
    end: int


def _assign(
    weights: NDArray[np.float64], pauses: NDArray[np.float64], regions: Sequence[Region]
) -> list[_Piece]:
    """Which words each region holds."""
    held = float(sum(region.hops for region in regions))
    pieces: list[_Piece] = []
    for _ in range(2):  # once more at the pace of the regions that turned out to hold words
        pieces = _cheapest(weights * (held / weights.sum()), pauses, regions)
        held = float(sum(r.hops for p in pieces for r in regions[p.start : p.end]))
    return pieces


def _cheapest(
    hops: NDArray[np.float64], pauses: NDArray[np.float64], regions: Sequence[Region]
) -> list[_Piece]:
    """The division of least cost of words that are expected to last `hops` each."""
    count = len(hops)
    expected, variance = _lengths(hops)
    precision, rareness = 0.5 / variance, np.log(variance) / 2
    rareness[np.tril_indices(count + 1)] = np.inf  # words do not go backwards
    best = np.full((len(regions) + 1, count + 1), np.inf)
    best[0, 0] = 0.0
    origin = np.zeros((len(regions) + 1, count + 1, 2), np.int64)
    for end in range(1, len(regions) + 1):
        region = regions[end - 1]
        total = (expected - region.hops) ** 2 * precision + rareness + best[end - 1][:, None]
        np.fill_diagonal(total, best[end - 1] + _NOISE + _NOISE_PER_HOP * region.hops)
        origin[end, :, 0], origin[end, :, 1] = total.argmin(0), end - 1
        best[end] = total[origin[end, :, 0], np.arange(count + 1)]
        for start in range(max(0, end - _SPLIT_REGIONS), end - 1):
            _try_split(hops, variance, regions, best, origin, start, end)
        if end < len(regions) and regions[end].start - region.end >= _PAUSE_HOPS:
            best[end] += pauses
    return _trace(origin, count)


def _lengths(hops: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N + 1, N + 1) expected length, and its variance, of the words from one to another."""
    ends, squares = (np.concatenate(([0.0], np.cumsum(x))) for x in (hops, (_SPREAD * hops) ** 2))
    variance = np.maximum(squares[None] - squares[:, None], 0) + 2 * _EDGE_HOPS**2
    return (ends[None] - ends[:, None]).astype(np.float32), variance.astype(np.float32)


def _try_split(
    hops: NDArray[np.float64],
    variance: NDArray[np.float32],
    regions: Sequence[Region],
    best: NDArray[np.float64],
    origin: NDArray[np.int64],
    start: int,
    end: int,
) -> None:
    """Improve `best[end]` where one word lasts over several regions and the silences between."""
    length = regions[end - 1].end - regions[start].start
    silent = length - sum(region.hops for region in regions[start:end])
    spread = np.diagonal(variance, 1)
    cost = (hops - length) ** 2 / (2 * spread) + np.log(spread) / 2
    total = best[start, :-1] + cost + _SPLIT * (end - start - 1) + _SPLIT_PER_HOP * silent
    words = np.flatnonzero(total < best[end, 1:])
    best[end, words + 1] = total[words]
    origin[end, words + 1, 0], origin[end, words + 1, 1] = words, start


def _trace(origin: NDArray[np.int64], count: int) -> list[_Piece]:
    pieces: list[_Piece] = []
    end, last = len(origin) - 1, count
    while end > 0:
        first, start = (int(value) for value in origin[end, last])
        if first < last:
            pieces.append(_Piece(first, last, start, end))
        end, last = start, first
    return pieces[::-1]


def _spread(
    weights: NDArray[np.float64], regions: Sequence[Region], pieces: Sequence[_Piece]
) -> list[tuple[float, float]]:
    """Words within their regions, in proportion to their weights; (start, end) in hops."""
    found: list[tuple[float, float]] = []
    for piece in pieces:
        start, end = regions[piece.start].start, regions[piece.end - 1].end
        parts = np.cumsum(weights[piece.first : piece.last])
        edges = start + (end - start) * np.concatenate(([0.0], parts / parts[-1]))
        found += zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    return found


def _evenly(weights: NDArray[np.float64], regions: Sequence[Region]) -> list[tuple[float, float]]:
    """Words over all regions, in proportion to their weights; (start, end) in hops."""
    firsts = np.array([region.start for region in regions])
    held = np.cumsum([0, *(region.hops for region in regions)])
    edges = np.concatenate(([0.0], np.cumsum(weights))) * (held[-1] / weights.sum())
    # An edge between two regions is the start of the later and the end of the earlier one.
    later = np.clip(np.searchsorted(held, edges[:-1], "right") - 1, 0, len(regions) - 1)
    earlier = np.clip(np.searchsorted(held, edges[1:], "left") - 1, 0, len(regions) - 1)
    starts = firsts[later] + edges[:-1] - held[later]
    ends = firsts[earlier] + edges[1:] - held[earlier]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))

"""What clients saw, in numbers that add up over clients and processes."""

from collections import Counter
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Self

import numpy as np


class LagKind(StrEnum):
    """What the lag of an interim is counted from."""

    WORD = "word"
    """The end of its new word, as the server writes it."""
    HEARD = "heard"
    """The end of the audio it was made from: a lower bound."""
    TAIL = "tail"
    """The end of the speech before a pause, for the last new text before speech goes on."""


@dataclass(slots=True)
class Measured:
    """Durations are seconds; `docs/bench.md` defines them."""

    lags: list[float] = field(default_factory=list[float])
    """Of interims."""
    lag_kinds: Counter[str] = field(default_factory=Counter[str])
    to_onset: list[float] = field(default_factory=list[float])
    """From the beginning of a turn's speech to word of it."""
    to_final: list[float] = field(default_factory=list[float])
    """From the end of a turn's speech to its final."""
    own_share: list[float] = field(default_factory=list[float])
    """The same less the silence that ends a turn."""
    words_first_in_final: int = 0
    to_end: list[float] = field(default_factory=list[float])
    """From a client's last audio to the server's last message."""
    late: list[float] = field(default_factory=list[float])
    """How late packets were sent."""
    sent_s: float = 0.0
    """Audio sent."""
    held: int = 0
    """Clients that were served to their end."""
    refusals: Counter[str] = field(default_factory=Counter[str])
    """By HTTP status or close code."""
    errors: Counter[str] = field(default_factory=Counter[str])
    cpu_s: float = 0.0
    """Of the process with the clients."""

    def add(self, other: Self) -> None:
        """Count what others saw, too."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            setattr(self, each.name, mine + theirs)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of durations, in milliseconds."""

    count: int
    p50: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, durations: list[float]) -> Self | None:
        """Of durations in seconds; None if there are none."""
        if not durations:
            return None
        found = np.percentile(np.array(durations) * 1_000, (50, 90, 95, 99))
        return cls(len(durations), *(round(float(value), 2) for value in found))

"""How many streams are tried next. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

MOST_STREAMS = 10_000
CLOSE_ENOUGH = 0.05
"""A search ends when what is held and what is not are so near each other."""


@dataclass(frozen=True, slots=True)
class Ramp:
    """From `start` to `most` streams.

    With a `step` in equal steps, to the first number that is not held. Without one the number is
    doubled until it is not held, then halved between the largest held and the smallest not held.
    """

    start: int
    most: int
    step: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """`START:MAX` or `START:MAX:STEP`.

        Raises:
            ValueError: it is neither, or the numbers make no ramp.
        """
        numbers = [int(part) for part in text.split(":")]
        if len(numbers) not in (2, 3):
            raise ValueError("use START:MAX or START:MAX:STEP")
        start, most = numbers[:2]
        if not 1 <= start <= most <= MOST_STREAMS:
            raise ValueError(f"use 1 <= START <= MAX <= {MOST_STREAMS}")
        if numbers[2:] and numbers[2] < 1:
            raise ValueError("STEP must be at least 1")
        return cls(*numbers)

    def next(self, tried: Mapping[int, bool]) -> int | None:
        """The next number of streams; None when there is nothing left to try.

        Args:
            tried: Numbers of streams so far, and whether each was held.
        """
        if not tried:
            return self.start
        held = max((size for size, was_held in tried.items() if was_held), default=0)
        broken = min((size for size, was_held in tried.items() if not was_held), default=None)
        if broken is None:
            larger = held + self.step if self.step else 2 * held
            return min(larger, self.most) if held < self.most else None
        near = broken - held <= max(1, round(CLOSE_ENOUGH * broken))
        if self.step or near or broken == self.start:
            return None
        return (held + broken) // 2

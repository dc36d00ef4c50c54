"""How much a step may do for requests that are not yet writing. Decides; computes no tensors.

Those that write wait for every step. What a step does besides, encoding and reading, is paid from a
credit that each step earns: a share of the time that the step takes for the writers alone. Costs
are learned from the passes themselves.
"""

import bisect
import math

SHARE = 0.3
"""What a step may take longer for others, as long as some request has a promise to be kept: one
that came to an idle batch is not to take much longer than alone."""

MOST = 8.0
"""What any step may take longer, however many are waiting."""

_SMOOTHING = 0.25
"""Weight of the newest measurement."""

_OWED = 4.0
"""Steps after which a debt is forgotten."""

_CHEAP = 0.1
"""What rows may cost, as a share of the step, though there is no credit: while reading the weights
takes longer than computing, rows cost next to nothing."""

_CHUNKS = (512, 384, 256, 192, 128, 96, 64, 48, 32, 24, 16, 8)
"""Rows that a pass may read beside those that are written."""

_PROBE = 16
"""Every so many steps that could have read more, the next larger chunk is tried: what is believed
to cost too much would otherwise never be measured again."""


class PassTimes:
    """Seconds that a pass of so many rows takes, learned; never less for more rows.

    Sizes count as the same that share their four leading bits, so that few are told apart.
    """

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._seconds: dict[int, float] = {}
        self._rate = math.inf
        """Seconds per row, at best."""

    def observe(self, rows: int, seconds: float) -> None:
        """A pass of `rows` rows took so long."""
        size, expected = _size(rows), self.estimate(rows)
        known = self._seconds.get(size)
        if expected is not None:
            # What took longer than usual was disturbed, at least in part.
            seconds = min(seconds, 2.0 * expected)
        if known is None:
            at = bisect.bisect(self._sizes, size)
            if at < len(self._sizes):
                # A size that was never seen says nothing against a larger one that was.
                seconds = min(seconds, self._seconds[self._sizes[at]])
            self._sizes.insert(at, size)
        else:
            seconds = known + _SMOOTHING * (seconds - known)
        self._seconds[size] = seconds
        for other, time in self._seconds.items():
            if other < size:
                self._seconds[other] = min(time, seconds)
            elif other > size:
                # As many passes of this size would do.
                self._seconds[other] = min(max(time, seconds), seconds * other / size)
        self._rate = min(time / known for known, time in self._seconds.items())

    def estimate(self, rows: int) -> float | None:
        """Seconds for `rows` rows, rather too little than too much; None if nothing is known.

        A pass reads all weights or computes all rows, whichever takes longer: between known sizes
        a size costs no more than the one below as long as the best rate per row allows that.
        """
        size = _size(rows)
        at = bisect.bisect_left(self._sizes, size)
        above = self._seconds[self._sizes[at]] if at < len(self._sizes) else None
        if at == 0 or size in self._seconds:
            return above
        least = max(self._seconds[self._sizes[at - 1]], self._rate * size)
        return least if above is None else min(least, above)


def _size(rows: int) -> int:
    """`rows` rounded down to four significant bits: eight sizes per octave."""
    spare = max(0, rows.bit_length() - 4)
    return rows >> spare << spare


class Pace:
    """The credit of a batch."""

    def __init__(self) -> None:
        self.times = PassTimes()
        self._credit = 0.0
        self._held_back = 0

    @property
    def credit(self) -> float:
        """Seconds that may be spent on others now; less than zero = a debt."""
        return self._credit

    def earn(self, *, writers: int, others: int, promised: bool) -> None:
        """A step for `writers` begins, while `others` still encode, read or wait."""
        alone = self.times.estimate(writers)
        if not others or alone is None:
            self._credit = 0.0
            return
        share = SHARE if promised else min(max(SHARE, 8.0 * others / writers), MOST)
        # More than a step's worth is not saved, as bursts are stalls, and not much more is owed,
        # as it may be that the machine was disturbed.
        earned = share * alone
        self._credit = min(max(self._credit, -_OWED * earned) + earned, earned)

    def passed(self, writers: int, read: int, seconds: float) -> None:
        """A pass with `writers` that also read `read` rows took so long."""
        alone = self.times.estimate(writers) if writers else None
        self.times.observe(writers + read, seconds)
        if alone is not None and read:
            self.spend(seconds - alone)

    def spend(self, seconds: float) -> None:
        """So long was spent on others."""
        self._credit -= max(0.0, seconds)

    def chunk(self, writers: int, wanted: int) -> int:
        """How many of `wanted` rows are read in a pass with `writers`; 0 = not now."""
        if not writers:
            return min(wanted, _CHUNKS[0])
        alone = self.times.estimate(writers)
        if alone is None or not wanted:
            return 0
        affordable = alone + max(self._credit, _CHEAP * alone)
        most = min(wanted, _CHUNKS[0])
        sizes = [most, *(rows for rows in _CHUNKS if rows < most)]
        costs = (self.times.estimate(writers + rows) or 0.0 for rows in sizes)
        choice = next((index for index, cost in enumerate(costs) if cost <= affordable), None)
        if self._credit > 0.0 and choice != 0:
            choice = len(sizes) - 1 if choice is None else choice
            self._held_back += 1
            if self._held_back >= _PROBE:
                self._held_back, choice = 0, max(0, choice - 1)
        return 0 if choice is None else sizes[choice]

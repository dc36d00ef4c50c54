"""How much a step may do for requests that are not yet writing. Decides; computes no tensors.

Those that write wait for every step. What a step does besides, encoding and reading, is paid from a
credit that each step earns: a share of the time that the step takes for the writers alone. Costs
are learned from the passes themselves.
"""

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


class PassTimes:
    """Seconds that a pass of so many rows takes, learned; never less for more rows."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def observe(self, rows: int, seconds: float) -> None:
        """A pass of `rows` rows took so long."""
        known = self._seconds.get(rows, seconds)
        # What took longer than usual was disturbed, at least in part.
        change = min(seconds, 2.0 * known) - known
        self._seconds[rows] = known + _SMOOTHING * change
        for other, time in self._seconds.items():
            newest = self._seconds[rows]
            if (other < rows and time > newest) or (other > rows and time < newest):
                self._seconds[other] = newest

    def estimate(self, rows: int) -> float | None:
        """Seconds for `rows` rows, rather too little than too much; None if nothing is known.

        A pass reads all weights or computes all rows, whichever takes longer: between known sizes
        a size costs no more than the one below as long as the best rate per row allows that.
        """
        if not self._seconds:
            return None
        below = max((time for known, time in self._seconds.items() if known <= rows), default=0.0)
        above = min((t for known, t in self._seconds.items() if known >= rows), default=math.inf)
        rate = min(time / known for known, time in self._seconds.items())
        return min(max(below, rate * rows), above) if below else above


class Pace:
    """The credit of a batch."""

    def __init__(self) -> None:
        self.times = PassTimes()
        self._credit = 0.0

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
        share = SHARE if promised else min(max(SHARE, 2.0 * others / writers), MOST)
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
        for rows in (wanted, *_CHUNKS):
            estimate = self.times.estimate(writers + rows)
            if rows <= min(wanted, _CHUNKS[0]) and estimate is not None and estimate <= affordable:
                return rows
        return min(wanted, _CHUNKS[-1]) if self._credit > 0.0 else 0

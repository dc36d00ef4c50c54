"""The samples of live streams that are not encoded yet. Plain numpy, no decisions."""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BufferSnapshot:
    """A copy of one row; opaque."""

    row: Samples
    stored: int
    needed: int
    backlog: tuple[Samples, ...]


class SampleBuffer:
    """One ring per stream, so that the spans of a whole batch are one gather.

    Every sample is stored twice, a ring's length apart, so that each span lies in one piece. A ring
    holds `capacity` samples; what a client sends beyond waits, unbounded, in packets.
    Positions are sample indices since the stream began.
    """

    def __init__(self, slots: int, capacity: int) -> None:
        self._capacity = capacity
        self._ring = np.zeros((slots, 2 * capacity), np.float32)
        self._backlog: dict[int, deque[Samples]] = {}
        self.stored: Positions = np.zeros(slots, np.int64)
        """Per slot the position behind the newest sample that `spans` can give."""
        self._needed: Positions = np.zeros(slots, np.int64)

    def clear(self, slot: int) -> None:
        """Start a new stream."""
        self._backlog.pop(slot, None)
        self.stored[slot] = self._needed[slot] = 0

    def append(self, slot: int, samples: Samples) -> None:
        """Add samples (S,) to a stream."""
        if slot in self._backlog:
            self._backlog[slot].append(samples.copy())
            return
        rest = self._store(slot, samples)
        if len(rest):
            self._backlog[slot] = deque([rest.copy()])

    def release(self, slots: Positions, until: Positions) -> None:
        """Forget what lies before `until` (B,) and let waiting samples take its place."""
        self._needed[slots] = np.maximum(until, 0)
        for slot in self._backlog.keys() & set(slots.tolist()):
            self._refill(slot)

    def spans(self, slots: Positions, first: Positions, size: int) -> Samples:
        """(B, size) samples from `first` (B,) on; undefined outside what is stored."""
        every_span = np.lib.stride_tricks.sliding_window_view(self._ring, size, axis=1)
        return every_span[slots, first % self._capacity]

    def save(self, slot: int) -> BufferSnapshot:
        """Copy one stream."""
        waiting = tuple(self._backlog.get(slot, ()))
        row = self._ring[slot].copy()
        return BufferSnapshot(row, int(self.stored[slot]), int(self._needed[slot]), waiting)

    def load(self, slot: int, snapshot: BufferSnapshot) -> None:
        """Put a copy into a slot."""
        self._ring[slot] = snapshot.row
        self.stored[slot] = snapshot.stored
        self._needed[slot] = snapshot.needed
        self._backlog.pop(slot, None)
        if snapshot.backlog:
            self._backlog[slot] = deque(snapshot.backlog)

    def _store(self, slot: int, samples: Samples) -> Samples:
        """Put into the ring what fits and return the rest."""
        stored = int(self.stored[slot])
        count = min(len(samples), int(self._needed[slot]) + self._capacity - stored)
        start = stored % self._capacity
        head = min(count, self._capacity - start)
        for ring in self._ring[slot].reshape(2, self._capacity):
            ring[start : start + head] = samples[:head]
            ring[: count - head] = samples[head:count]
        self.stored[slot] = stored + count
        return samples[count:]

    def _refill(self, slot: int) -> None:
        waiting = self._backlog[slot]
        while waiting:
            rest = self._store(slot, waiting[0])
            if len(rest):
                waiting[0] = rest
                return
            waiting.popleft()
        del self._backlog[slot]

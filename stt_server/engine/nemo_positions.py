"""Which of a session's samples the worker's stream has, and which wait during a pause. Pure."""

import bisect
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from stt_server.events import SAMPLE_RATE, Audio, Samples

HANGOVER_SAMPLES = SAMPLE_RATE * 3 // 10
"""Silence kept during a pause: what is said next begins with it."""
UNHEARD_SAMPLES = 2 * SAMPLE_RATE
"""Silence kept for whoever asks again whether the turn is over; they ask more often than that."""


@dataclass(slots=True)
class Clock:
    """Where samples of the worker's stream are in the session: silence is left out, and what
    completes a chunk is added."""

    mine: list[int] = field(default_factory=lambda: [0])
    theirs: list[int] = field(default_factory=lambda: [0])

    def at(self, received: int, start: int) -> None:
        """The worker's sample `received` is the session's sample `start`."""
        if received - self.mine[-1] == start - self.theirs[-1]:
            return
        self.mine.append(received)
        self.theirs.append(start)

    def session(self, sample: int) -> int:
        """The session's position of one of the worker's."""
        index = max(0, bisect.bisect_right(self.mine, sample) - 1)
        at = self.theirs[index] + sample - self.mine[index]
        after = self.theirs[index + 1] if index + 1 < len(self.theirs) else at
        return max(0, min(at, after))

    def forget(self, before: int) -> None:
        """Drop what only samples before this one need."""
        keep = max(0, bisect.bisect_right(self.mine, before) - 1)
        del self.mine[:keep], self.theirs[:keep]


class HeldSilence:
    """The newest silence of a pause; older silence is dropped."""

    def __init__(self) -> None:
        self._packets: deque[Audio] = deque()
        self._held = 0
        self._unheard = 0

    def keep(self, audio: Audio) -> None:
        """The next samples of the pause."""
        self._packets.append(audio)
        self._held += len(audio.samples)
        self._unheard = min(self._unheard + len(audio.samples), UNHEARD_SAMPLES)
        while self._held - len(self._packets[0].samples) >= UNHEARD_SAMPLES:
            self._held -= len(self._packets.popleft().samples)

    def take_unheard(self) -> Samples:
        """What has come since this was last asked."""
        count, self._unheard = self._unheard, 0
        return self._newest(count)

    def hangover(self) -> Audio | None:
        """What precedes the sound that comes next; None where nothing came."""
        if not self._packets:
            return None
        samples = self._newest(HANGOVER_SAMPLES)
        return Audio(self._packets[-1].end - len(samples), samples, speech=True)

    def _newest(self, count: int) -> Samples:
        if not count or not self._packets:
            return np.empty(0, np.float32)
        return np.concatenate([audio.samples for audio in self._packets])[-count:]

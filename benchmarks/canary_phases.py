"""Where the time of a batch goes: encoding, reading prompts, writing."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from canary_network import Request
from canary_runs import Continuous
from torch import Tensor

from nemo_lite.salm.encoding import Encoding
from nemo_lite.salm.passes import Passes, Reading, Token, Writer


@dataclass(slots=True)
class Phases:
    """Seconds by what was done."""

    total: float = 0.0
    encode: float = 0.0
    read: float = 0.0
    """Passes without writers."""
    write: float = 0.0
    """Passes with writers, which may also read."""
    steps: int = 0
    read_beside: int = 0
    """Rows that were read in passes with writers."""


@dataclass(slots=True)
class _Watched:
    """Passes that are timed."""

    passes: Passes
    phases: Phases = field(default_factory=Phases)

    def prepare(self) -> None:
        """See `Passes`."""
        self.passes.prepare()

    def run(self, writers: Mapping[int, Writer], readings: Sequence[Reading]) -> dict[int, Token]:
        """See `Passes`."""
        begun = time.perf_counter()
        found = self.passes.run(writers, readings)
        spent = time.perf_counter() - begun
        if writers:
            self.phases.write += spent
            self.phases.steps += 1
            self.phases.read_beside += sum(len(reading.rows) for reading in readings)
        else:
            self.phases.read += spent
        return found


def phases(contender: Continuous, requests: Sequence[Request]) -> Phases:
    """Answer all at once; on CUDA encoding counts where it is waited for."""
    batch, advance = contender.batch, Encoding.advance
    watched = _Watched(batch.passes)

    def timed(self: Encoding) -> list[Tensor] | None:
        begun = time.perf_counter()
        frames = advance(self)
        watched.phases.encode += time.perf_counter() - begun
        return frames

    batch.passes, Encoding.advance = watched, timed
    try:
        watched.phases.total = contender.run(requests, [0.0] * len(requests)).total
    finally:
        batch.passes, Encoding.advance = watched.passes, advance
    return watched.phases

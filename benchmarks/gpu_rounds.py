"""Rounds of live streams on one device: every stream gets a chunk, then all of them step.

A round is timed from samples in numpy to tokens on the host, Python per stream included.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from precision import plain_tokenizer

from nemo_lite.chunk_encoder import TorchChunkEncoder
from nemo_lite.decoding import RnntDecoder
from nemo_lite.graphed_step import GraphedStep
from nemo_lite.network import Network
from nemo_lite.step import EagerStep, Group, StepRunner, StepSnapshot
from nemo_lite.streaming import StreamBatch
from nemo_lite.transcripts import TokenRun

FRAME_MS = 80
WARM_UP = 3
"""Rounds before the measured ones; in the first, graphs are captured."""

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Case:
    """Which streams to measure."""

    dtype: str
    chunk_ms: int
    batch: int

    @property
    def lookahead(self) -> int:
        """In encoder frames."""
        return self.chunk_ms // FRAME_MS - 1


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to measure: so many seconds, within bounds on the number of rounds."""

    seconds: float
    fewest: int
    most: int

    def goes_on(self, rounds: int, seconds: float) -> bool:
        """Whether there is to be another round."""
        return rounds < self.fewest or (rounds < self.most and seconds < self.seconds)


@dataclass(frozen=True, slots=True)
class Rounds:
    """Milliseconds of every measured round, and the memory they took."""

    whole_ms: NDArray[np.float64]
    inside_ms: NDArray[np.float64]
    """Within the `StepRunner`, where no Python runs per stream that has no tokens."""
    peak_gib: float | None

    def percentile(self, percent: float) -> float:
        """Of whole rounds."""
        return float(np.percentile(self.whole_ms, percent))

    @property
    def outside_ms(self) -> float:
        """Median of what happens outside of the `StepRunner`."""
        return float(np.median(self.whole_ms - self.inside_ms))


@dataclass(slots=True)
class Timed:
    """A `StepRunner` that notes how long another one takes."""

    runner: StepRunner
    seconds: list[float] = field(default_factory=list[float])

    def run(self, groups: Sequence[Group]) -> list[TokenRun]:
        """Run, and note."""
        began = time.perf_counter()
        runs = self.runner.run(groups)
        self.seconds.append(time.perf_counter() - began)
        return runs

    def clear(self, slot: int) -> None:
        """As the runner."""
        self.runner.clear(slot)

    def save(self, slot: int) -> StepSnapshot:
        """As the runner."""
        return self.runner.save(slot)

    def load(self, slot: int, snapshot: StepSnapshot) -> None:
        """As the runner."""
        self.runner.load(slot, snapshot)


def graphed(network: Network, slots: int) -> StepRunner:
    """Steps as CUDA graphs."""
    return GraphedStep(network, _decoder(network), slots)


def eager(network: Network, slots: int) -> StepRunner:
    """Steps as one operation after another."""
    encoder = TorchChunkEncoder(network.encoder, slots, frames_per_step=1)
    return EagerStep(network, encoder, _decoder(network), slots)


def run_rounds(
    network: Network, runner: StepRunner, audio: Samples, case: Case, budget: Budget
) -> Rounds:
    """Open the streams, warm up, measure. Each stream hears another part of `audio`."""
    timed = Timed(runner)
    tokenizer = plain_tokenizer(network)
    streams = StreamBatch(network, tokenizer, timed, slots=case.batch, frames_per_step=1)
    slots = [streams.open(lookahead=case.lookahead) for _ in range(case.batch)]
    chunk = case.chunk_ms * network.config.preprocessor.sample_rate // 1_000
    half = len(audio) // 2
    whole_s: list[float] = []
    began = time.perf_counter()
    while budget.goes_on(len(whole_s) - WARM_UP, time.perf_counter() - began):
        at = len(whole_s) * chunk % (half - chunk)
        starts = [at + slot * 37_003 % half for slot in slots]
        packets = [audio[start : start + chunk] for start in starts]
        round_began = time.perf_counter()
        for slot, packet in zip(slots, packets, strict=True):
            streams.push(slot, packet)
        streams.step()
        whole_s.append(time.perf_counter() - round_began)
        if len(whole_s) == WARM_UP:
            began = time.perf_counter()
    peak = torch.cuda.max_memory_allocated() / 2**30 if network.device.type == "cuda" else None
    whole_ms, inside_ms = (1_000 * np.array(s[WARM_UP:]) for s in (whole_s, timed.seconds))
    return Rounds(whole_ms, inside_ms, peak)


def attempt(action: Callable[[], Rounds]) -> Rounds | str:
    """Measure with as much free memory as there can be; what goes wrong is the result."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        return action()
    except torch.OutOfMemoryError:
        return "out of memory"
    except RuntimeError as error:  # what CUDA raises; other cases go on
        return "failed: " + str(error).partition("\n")[0]


def _decoder(network: Network) -> RnntDecoder:
    return RnntDecoder(network.decoder, network.joint, max_symbols=network.config.max_symbols)

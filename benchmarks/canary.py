"""Canary-Qwen: requests at once and one after another, against plain `transformers.generate`.

    python benchmarks/canary.py [--size scaled|full] [--device cuda] [--write docs/benchmarks.md]

Random weights, the same for all contenders in the same run. Every request has as many seconds of
audio and gets as many new tokens (three per second), as random weights never end by themselves.
Whatever is there from samples to tokens is timed: features, encoder, reading, writing.
"""

import argparse
import gc
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from canary_network import SIZES, Request, random_salm, request
from canary_phases import phases
from canary_runs import Contender, Continuous, Generate, Run, first_scores
from canary_tables import Agreement, Results, report
from report import machine, write_section
from torch import Tensor

from nemo_lite.errors import UnsupportedError
from nemo_lite.salm.int8 import quantise
from nemo_lite.salm.network import SalmNetwork

SECONDS = 10.0
"""Of audio per request."""
BATCHES = (1, 4, 16, 32)
STAGGERED = 16
ATTEMPTS = 3
"""Of each run the fastest counts: other programs can only make it slower."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure."""

    size: str
    device: str
    threads: int
    batches: Sequence[int] = BATCHES
    seconds: float = SECONDS
    staggered: int = STAGGERED
    attempts: int = ATTEMPTS
    contenders: Sequence[str] = field(default_factory=lambda: list(CONTENDERS))
    """Keys of `CONTENDERS`; the first comes first in every table."""

    @property
    def slots(self) -> int:
        """Most requests at once."""
        return max(*self.batches, self.staggered)

    @property
    def dtype(self) -> torch.dtype:
        """Of the float weights: what the device is fast at, on the CPU float32."""
        return torch.float32 if self.device == "cpu" else torch.bfloat16


def _network(settings: Settings, dtype: torch.dtype | None = None) -> SalmNetwork:
    return random_salm(settings.size, dtype=dtype or settings.dtype, device=settings.device)


def _generate(settings: Settings) -> Contender:
    return Generate(_network(settings), most=settings.slots)


def _continuous(settings: Settings) -> Continuous:
    batch = Continuous(_network(settings), slots=settings.slots, seconds=settings.seconds)
    batch.batch.prepare()
    return batch


def _int8(settings: Settings) -> Continuous:
    if settings.device != "cpu":
        raise UnsupportedError("int8 runs on the CPU")
    network = _network(settings, torch.bfloat16 if settings.size == "full" else None)
    quantise(network, threads=settings.threads)
    gc.collect()
    return Continuous(network, slots=settings.slots, seconds=settings.seconds)


CONTENDERS: Mapping[str, Callable[[Settings], Contender]] = {
    "transformers.generate": _generate,
    "nemo_lite": _continuous,
    "nemo_lite int8": _int8,
}
"""The first is what the others are compared with."""


def measure(settings: Settings) -> Results:
    """Run every contender by itself; only one has weights in memory at a time."""
    torch.set_num_threads(settings.threads)
    results = Results(settings.seconds)
    interval = None
    for name in settings.contenders:
        try:
            contender = CONTENDERS[name](settings)
        except UnsupportedError as error:
            results.missing[name] = str(error)
            continue
        contender.run([request(settings.seconds, 99)], [0.0])
        for batch in settings.batches:
            results.runs[name, batch] = _best(settings, contender, batch)
        if interval is None:
            # Twice as many as the first contender answers one by one.
            interval = results.runs[name, settings.batches[0]].total / settings.batches[0] / 2
        requests = _requests(settings, settings.staggered)
        arrivals = [interval * index for index in range(settings.staggered)]
        results.staggered[name] = contender.run(requests, arrivals)
        results.interval = interval
        if isinstance(contender, Continuous):
            results.phases[name] = phases(contender, _requests(settings, max(settings.batches)))
        results.scores[name] = first_scores(contender.network, request(settings.seconds, 0))
        results.peak_mib[name] = _peak_mib(settings.device)
        del contender
        gc.collect()
    results.agreement.update(_agreement(results))
    return results


def _requests(settings: Settings, count: int) -> list[Request]:
    return [request(settings.seconds, seed) for seed in range(count)]


def _best(settings: Settings, contender: Contender, batch: int) -> Run:
    requests = _requests(settings, batch)
    runs = [contender.run(requests, [0.0] * batch) for _ in range(settings.attempts)]
    best = min(runs, key=lambda run: run.total)
    # The best first request need not be of the best run.
    best.first_seconds = min(run.first for run in runs)
    return best


def _agreement(results: Results) -> dict[str, Agreement]:
    """How far the answers and the scores of the first token are the reference's."""
    (reference, batch), expected = next(iter(results.runs.items()))
    found: dict[str, Agreement] = {}
    for name, scores in results.scores.items():
        pairs = list(zip(expected.tokens, results.runs[name, batch].tokens, strict=True))
        same = sum(_prefix(a, b) for a, b in pairs) / sum(len(a) for a, _ in pairs)
        found[name] = Agreement(
            same,
            _error(scores, results.scores[reference]),
        )
    return found


def _error(found: Tensor, wanted: Tensor) -> float:
    return float(((found - wanted).square().sum() / wanted.square().sum()).sqrt())


def _prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for index, (x, y) in enumerate(zip(a, b, strict=True)):
        if x != y:
            return index
    return len(a)


def _peak_mib(device: str) -> float:
    if device != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure, print, and write the tables if asked."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="full" if cuda else "scaled")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--attempts", type=int, default=ATTEMPTS)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    settings = Settings(
        arguments.size,
        arguments.device,
        arguments.threads,
        arguments.batches,
        arguments.seconds,
        attempts=arguments.attempts,
        contenders=arguments.contenders,
    )
    where = machine() if settings.device == "cpu" else torch.cuda.get_device_name()
    text = report(settings.size, where, str(settings.dtype).split(".")[1], measure(settings))
    print(text)
    if arguments.write:
        write_section(arguments.write, f"canary {settings.size} {settings.device}", text)


if __name__ == "__main__":
    main()

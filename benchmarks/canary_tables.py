"""The tables of `canary.py`."""

import statistics
from dataclasses import dataclass, field

from canary_phases import Phases
from canary_runs import Run
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Agreement:
    """With the reference."""

    same: float
    """Share of the tokens that are the reference's, and all before them too."""
    error: float
    """Of the first token's scores, relative."""


@dataclass(slots=True)
class Results:
    """All that was measured; by contender."""

    seconds: float
    """Of audio per request."""
    runs: dict[tuple[str, int], Run] = field(default_factory=dict[tuple[str, int], Run])
    """By contender and batch."""
    staggered: dict[str, Run] = field(default_factory=dict[str, Run])
    interval: float = 0.0
    """Seconds between staggered requests."""
    phases: dict[str, Phases] = field(default_factory=dict[str, Phases])
    peak_mib: dict[str, float] = field(default_factory=dict[str, float])
    agreement: dict[str, Agreement] = field(default_factory=dict[str, Agreement])
    scores: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Of the first token of the first request."""
    missing: dict[str, str] = field(default_factory=dict[str, str])


def report(size: str, where: str, dtype: str, results: Results) -> str:
    """All tables in Markdown."""
    notes = [f"Not measured: {name}: {why}." for name, why in results.missing.items()]
    return "\n\n".join(
        [
            f"## Canary-Qwen, {size} size (`canary`)",
            f"{where}; float weights are {dtype}. {results.seconds:g} s of audio per request.",
            _throughput(results),
            _staggered(results),
            _shares(results),
            *notes,
        ]
    )


def _throughput(results: Results) -> str:
    lines = [
        "| contender | batch | requests/s | × reference | real-time factor | first done s "
        "| × batch 1 |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    reference = next(iter(results.runs))[0]
    alone: dict[str, float] = {}
    for (name, batch), run in results.runs.items():
        alone.setdefault(name, run.first_seconds)
        ratio = results.runs[reference, batch].total / run.total
        lines.append(
            f"| {name} | {batch} | {batch / run.total:.3f} | {ratio:.2f} "
            f"| {run.total / (batch * results.seconds):.3f} | {run.first_seconds:.2f} "
            f"| {run.first_seconds / alone[name]:.2f} |"
        )
    return "\n".join(lines)


def _staggered(results: Results) -> str:
    lines = [
        f"One request every {results.interval * 1000:.0f} ms:",
        "",
        "| contender | mean s | 95 % s | requests/s |",
        "| :--- | ---: | ---: | ---: |",
    ]
    for name, run in results.staggered.items():
        waits = sorted(run.waits)
        late = waits[min(len(waits) - 1, int(0.95 * len(waits)))]
        lines.append(
            f"| {name} | {statistics.fmean(waits):.2f} | {late:.2f} "
            f"| {len(waits) / run.total:.3f} |"
        )
    return "\n".join(lines)


def _shares(results: Results) -> str:
    lines = [
        "Shares of the time of the largest batch, tokens as the reference's up to the first other "
        "one, peak memory of the process so far:",
        "",
        "| contender | encode | read | write (and read) | other | same tokens "
        "| error of first scores | peak MiB |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, peak in results.peak_mib.items():
        shares = ["", "", "", ""]
        if phases := results.phases.get(name):
            parts = [phases.encode, phases.read, phases.write]
            parts.append(phases.total - sum(parts))
            shares = [f"{part / phases.total:.0%}" for part in parts]
        agreement = results.agreement.get(name)
        same = f"{agreement.same:.0%} | {agreement.error:.2%}" if agreement else " | "
        lines.append(f"| {name} | {' | '.join(shares)} | {same} | {peak:,.0f} |")
    return "\n".join(lines)

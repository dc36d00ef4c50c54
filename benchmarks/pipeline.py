"""How many live sessions one process holds, with VAD on and an engine that costs nothing.

    python benchmarks/pipeline.py [--write docs/benchmarks.md]

Load and delays are those of `stt-bench`: to the onset that interrupts an agent, and the server's
own share of the time to the final. Both wait for the packet of 100 ms that completes their VAD
window: an idle server has a p99 of 110 ms. Words say nothing here, for nobody speaks the scripted
ones.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from report import machine, write_section
from server_process import RunningServer, running_server

from stt_server.bench.server_costs import ServerCosts
from stt_server.bench.stage import Limits, LoadProcesses, Plan, StageResult, run_stage
from stt_server.bench.target import Target

LIMIT_MS = 200.0


@dataclass(frozen=True, slots=True)
class Row:
    """One step of the ramp."""

    stage: StageResult
    kib_per_session: float
    vad_batch: float

    @property
    def is_held(self) -> bool:
        """Both delays are short, and nobody was turned away."""
        delays = (self.stage.to_onset, self.stage.own_share)
        is_fast = all(delay is not None and delay.p99 < LIMIT_MS for delay in delays)
        return is_fast and not self.stage.errors and not self.stage.refusals


def measure(
    server: RunningServer, processes: LoadProcesses, idle_mib: float, count: int, seconds: float
) -> Row:
    """Hold `count` sessions for `seconds`."""
    target = Target(server.url)
    costs = ServerCosts(target.http, api_key=None, pid=server.process.pid)
    plan = Plan(target, Limits(float("inf")), stage_s=seconds)
    windows, batches = _vad_totals(server)
    stage, _ = run_stage(plan, count, processes, costs)
    windows_after, batches_after = _vad_totals(server)
    kib = ((stage.server_mib or 0.0) - idle_mib) * 1_024 / count
    return Row(stage, kib, (windows_after - windows) / max(1.0, batches_after - batches))


def _vad_totals(server: RunningServer) -> tuple[float, float]:
    return server.metric("stt_vad_batch_sessions_sum"), server.metric(
        "stt_vad_batch_sessions_count"
    )


def table(rows: list[Row]) -> str:
    """The rows in Markdown, with the verdict above."""
    count = max((row.stage.streams for row in rows if row.is_held), default=0)
    lines = [
        f"Held with both p99 under {LIMIT_MS:.0f} ms: **{count} live sessions** in one process. "
        "Packets of 100 ms.",
        "",
        "| sessions | onset p50 ms | p95 | p99 | final p50 ms | p95 | p99 | load late p99 ms "
        "| errors | server cores | load cores | KiB/session | VAD batch |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: "
        "| ---: |",
    ]
    lines += [_line(row) for row in rows]
    return "\n".join(lines)


def _line(row: Row) -> str:
    stage = row.stage
    cells = [str(stage.streams)]
    for delay in (stage.to_onset, stage.own_share):
        values = (delay.p50, delay.p95, delay.p99) if delay else ()
        cells += [f"{value:.0f}" for value in values] or ["-"] * 3
    cells += [
        f"{stage.late_p99:.1f}",
        str(sum(stage.errors.values()) + sum(stage.refusals.values())),
        f"{stage.server_cores or 0.0:.2f}",
        f"{stage.bench_cores:.2f}",
        f"{row.kib_per_session:.0f}",
        f"{row.vad_batch:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Ramp up, print, and write the table if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, nargs="+", default=[50, 100, 150, 200, 250, 300])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    rows: list[Row] = []
    with running_server("--model", "scripted") as server, LoadProcesses(1) as processes:
        warm = measure(server, processes, 0.0, 5, 3.0)
        for count in arguments.sessions:
            idle_mib = warm.stage.server_mib or 0.0
            rows.append(measure(server, processes, idle_mib, count, arguments.seconds))
            print(rows[-1], flush=True)
    text = f"## Live sessions (`pipeline`)\n\n{machine()}\n\n{table(rows)}"
    print(text)
    if arguments.write:
        write_section(arguments.write, "pipeline", text)


if __name__ == "__main__":
    main()

"""How many live sessions one process holds, with VAD on and an engine that costs nothing.

    python benchmarks/pipeline.py [--write docs/benchmarks.md]

Clients speak in real time, packets of 100 ms, over real sockets, from another process on the same
machine. The delay is from sending the packet that completes an interim's audio to its arrival.
"""

import argparse
import asyncio
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from load import Measurements, live_client, load_clip
from report import machine, write_section
from server_process import RunningServer, running_server

CLIPS = sorted((Path(__file__).parent.parent / "tests" / "audio").glob("conversation-*.flac"))
LIMIT_S = 0.1


@dataclass(frozen=True, slots=True)
class Row:
    """One step of the ramp."""

    sessions: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    late_p99_ms: float
    finals: int
    errors: int
    server_cores: float
    load_cores: float
    kib_per_session: float
    vad_batch: float


async def _clients(url: str, count: int, seconds: float) -> Measurements:
    clip, measured = load_clip(CLIPS), Measurements()
    async with asyncio.TaskGroup() as group:
        for seed in range(count):
            group.create_task(live_client(url, clip, seconds=seconds, seed=seed, measured=measured))
            # Spread over the packet interval, as callers are.
            await asyncio.sleep(0.1 * (seed % 10 + 1) / max(count, 10))
    return measured


def _load(url: str, count: int, seconds: float) -> tuple[Measurements, float]:
    began = time.process_time()
    return asyncio.run(_clients(url, count, seconds)), time.process_time() - began


def measure(server: RunningServer, idle_mib: float, count: int, seconds: float) -> Row:
    """Hold `count` sessions for `seconds`."""
    with get_context("spawn").Pool(1) as pool:
        cpu, began = server.cpu_seconds(), time.monotonic()
        windows, batches = _vad_totals(server)
        result = pool.apply_async(_load, (server.url, count, seconds))
        time.sleep(seconds * 0.8)
        held_mib = server.rss_mib() - idle_mib
        measured, load_cpu = result.get(timeout=seconds + 180)
        elapsed = time.monotonic() - began
        windows_after, batches_after = _vad_totals(server)
    delays, late = np.array(measured.delays_s or [np.nan]), np.array(measured.late_s)
    p50, p95, p99 = (float(np.percentile(delays, q)) * 1_000 for q in (50, 95, 99))
    return Row(
        count,
        p50,
        p95,
        p99,
        float(np.percentile(late, 99)) * 1_000,
        measured.finals,
        len(measured.errors),
        (server.cpu_seconds() - cpu) / elapsed,
        load_cpu / elapsed,
        held_mib * 1_024 / count,
        (windows_after - windows) / max(1.0, batches_after - batches),
    )


def _vad_totals(server: RunningServer) -> tuple[float, float]:
    return server.metric("stt_vad_batch_sessions_sum"), server.metric(
        "stt_vad_batch_sessions_count"
    )


def table(rows: list[Row]) -> str:
    """The rows in Markdown, with the verdict above."""
    held = max((row.sessions for row in rows if row.p99_ms < LIMIT_S * 1_000), default=0)
    lines = [
        f"Held with p99 under {LIMIT_S * 1_000:.0f} ms: **{held} live sessions** in one process.",
        "",
        "| sessions | delay p50 ms | p95 | p99 | load late p99 ms | finals | errors "
        "| server cores | load cores | KiB/session | VAD batch |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.sessions} | {row.p50_ms:.1f} | {row.p95_ms:.1f} | {row.p99_ms:.1f} "
        f"| {row.late_p99_ms:.1f} | {row.finals} | {row.errors} | {row.server_cores:.2f} "
        f"| {row.load_cores:.2f} | {row.kib_per_session:.0f} | {row.vad_batch:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Ramp up, print, and write the table if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, nargs="+", default=[50, 100, 150, 200, 250, 300])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    rows: list[Row] = []
    with running_server("--model", "scripted") as server:
        measure(server, server.rss_mib(), 5, 3.0)  # warm up
        idle_mib = server.rss_mib()
        for count in arguments.sessions:
            rows.append(measure(server, idle_mib, count, arguments.seconds))
            print(rows[-1], flush=True)
    text = f"## Live sessions (`pipeline`)\n\n{machine()}\n\n{table(rows)}"
    print(text)
    if arguments.write:
        write_section(arguments.write, "pipeline", text)


if __name__ == "__main__":
    main()

"""One stage: so many streams for so long, and what came of it."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Self

from stt_server.bench.live import ANSWER_TIMEOUT_S, Manner
from stt_server.bench.load import Job, prepare, run_job
from stt_server.bench.measured import Measured, Percentiles
from stt_server.bench.observer import NEVER, Window
from stt_server.bench.server_costs import Reading, ServerCosts
from stt_server.bench.target import Target
from stt_server.events import SAMPLE_RATE

STARTS_PER_S = 25.0
"""Sessions that begin in a second, unless said otherwise."""
HEAD_START_S = 0.5
LATE_LIMIT_MS = 20.0
"""A generator whose packets are later than this at p99 measures itself."""
MOST_TO_END_S = 2.0
"""A server that takes longer to come to an end has been left behind."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What breaks a ramp."""

    lag_ms: float
    """Of the p95 of interims."""
    chunk_ms: float | None = None
    """Of the model: a word may wait so long for the rest of its chunk."""
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What all stages have in common."""

    target: Target
    limits: Limits
    audio: Path | None = None
    pause_s: float = 2.0
    packet_ms: int = 100
    stage_s: float = 30.0
    fast: bool = False
    processes: int = 1


@dataclass(frozen=True, slots=True)
class StageResult:
    """A row of the report. Milliseconds."""

    streams: int
    held: int
    lag: Percentiles | None
    lag_kinds: dict[str, int]
    to_onset: Percentiles | None
    to_final: Percentiles | None
    own_share: Percentiles | None
    words_first_in_final: int
    to_end: Percentiles | None
    refusals: dict[str, int]
    errors: dict[str, int]
    bench_cores: float
    late_p99: float
    pace: float
    """Audio seconds per second, of all streams."""
    step_lag_p50: float | None = None
    step_lag_p95: float | None = None
    step_p50: float | None = None
    step_p95: float | None = None
    server_cores: float | None = None
    server_mib: float | None = None
    server_capacity: int | None = None
    """Sessions that the server takes at once."""
    broken_by: str | None = None
    """The limit that did not hold."""

    @property
    def bench_was_late(self) -> bool:
        """The load generator could not keep up itself."""
        return self.late_p99 > LATE_LIMIT_MS


class LoadProcesses:
    """The processes of the load generator."""

    def __init__(self, count: int) -> None:
        context = get_context("spawn")
        self._stop = context.Event()
        # One each: a pool of several might give two jobs to the same process.
        self._pools = [
            ProcessPoolExecutor(1, context, initializer=prepare, initargs=(self._stop,))
            for _ in range(count)
        ]

    def __enter__(self) -> Self:
        for future in [pool.submit(time.monotonic) for pool in self._pools]:
            future.result()  # started, before a clock runs
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)

    @property
    def count(self) -> int:
        return len(self._pools)

    def start(self, jobs: Sequence[Job]) -> list["Future[Measured]"]:
        """Run a job in each process."""
        return [pool.submit(run_job, job) for pool, job in zip(self._pools, jobs, strict=True)]

    def stop(self) -> None:
        """Let all clients say no more and come to their end."""
        self._stop.set()


def run_stage(
    plan: Plan, streams: int, processes: LoadProcesses, costs: ServerCosts
) -> tuple[StageResult, bool]:
    """Hold `streams` clients for the stage's time.

    Returns:
        What came of it, and whether Ctrl-C cut it short.

    Raises:
        BrokenProcessPool: a process of the load generator died.
        TimeoutError: one of them hangs.
    """
    begins_at = time.monotonic() + HEAD_START_S
    full_at = begins_at + (0.0 if plan.fast else streams / STARTS_PER_S)
    window = Window(full_at, full_at + plan.stage_s) if not plan.fast else NEVER
    futures = processes.start(_jobs(plan, streams, processes.count, begins_at, full_at, window))
    interrupted = False
    before, before_at = costs.read(), time.monotonic()
    try:
        _sleep_until(full_at, futures)
        before, before_at = costs.read(), time.monotonic()
        _sleep_until(float("inf") if plan.fast else window.closes, futures)
    except KeyboardInterrupt:
        interrupted = True
        processes.stop()
    after, after_at = costs.read(), time.monotonic()
    measured = Measured()
    for future in futures:
        measured.add(future.result(timeout=plan.stage_s + 3 * ANSWER_TIMEOUT_S))
    took_s = time.monotonic() - begins_at
    result = _result(plan, streams, measured, took_s)
    return _with_costs(result, before, after, after_at - before_at, plan), interrupted


def _jobs(
    plan: Plan, streams: int, processes: int, begins_at: float, full_at: float, window: Window
) -> list[Job]:
    # Each speaks until the last one has spoken for the stage's time, so all do in the window.
    stagger_s = full_at - begins_at
    samples = round((plan.stage_s + stagger_s) * SAMPLE_RATE)
    manner = Manner(round(plan.packet_ms * SAMPLE_RATE / 1_000), samples, plan.fast)
    return [
        Job(
            target=plan.target,
            manner=manner,
            audio=plan.audio,
            pause_s=plan.pause_s,
            first=first,
            every=processes,
            streams=streams,
            begins_at=begins_at,
            stagger_s=stagger_s,
            window=window,
        )
        for first in range(processes)
    ]


def _sleep_until(at: float, futures: Sequence["Future[Measured]"]) -> None:
    """Or until all clients have come to their end."""
    while time.monotonic() < at and not all(future.done() for future in futures):
        time.sleep(min(0.1, max(0.0, at - time.monotonic())))


def _result(plan: Plan, streams: int, measured: Measured, took_s: float) -> StageResult:
    late = Percentiles.of(measured.late)
    return StageResult(
        streams=streams,
        held=measured.held,
        lag=Percentiles.of(measured.lags),
        lag_kinds=dict(measured.lag_kinds),
        to_onset=Percentiles.of(measured.to_onset),
        to_final=Percentiles.of(measured.to_final),
        own_share=Percentiles.of(measured.own_share),
        words_first_in_final=measured.words_first_in_final,
        to_end=Percentiles.of(measured.to_end),
        refusals=dict(measured.refusals),
        errors=dict(measured.errors),
        bench_cores=round(measured.cpu_s / took_s, 2),
        late_p99=late.p99 if late else 0.0,
        pace=round(measured.sent_s / took_s, 1),
    )


def _with_costs(
    result: StageResult, before: Reading, after: Reading, span_s: float, plan: Plan
) -> StageResult:
    step_lag, step = after.step_lag - before.step_lag, after.step - before.step
    cores = None
    if before.cpu_s is not None and after.cpu_s is not None:
        cores = round((after.cpu_s - before.cpu_s) / span_s, 2)
    result = replace(
        result,
        step_lag_p50=_ms(step_lag.quantile(0.5)),
        step_lag_p95=_ms(step_lag.quantile(0.95)),
        step_p50=_ms(step.quantile(0.5)),
        step_p95=_ms(step.quantile(0.95)),
        server_cores=cores,
        server_mib=None if after.rss_mib is None else round(after.rss_mib),
        server_capacity=after.capacity,
    )
    return replace(result, broken_by=broken_limit(result, plan.limits, is_live=not plan.fast))


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1_000, 1)


def broken_limit(result: StageResult, limits: Limits, *, is_live: bool) -> str | None:
    """Which limit the stage broke, in words; None if all held."""
    if sum(result.refusals.values()) > limits.refusals:
        return "refusals"
    if result.errors:
        return "errors"
    if not is_live:
        return None
    if result.lag is not None and result.lag.p95 > limits.lag_ms:
        return "lag"
    # A word at the beginning of a chunk waits for all of it.
    spare_ms = None if limits.chunk_ms is None else limits.lag_ms - limits.chunk_ms
    if spare_ms is not None and (result.step_lag_p95 or 0.0) > spare_ms:
        return "step lag"
    if result.to_end is not None and result.to_end.p95 > MOST_TO_END_S * 1_000:
        return "time to the end"
    return None

"""Latency against streams, as a PNG."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stt_server.bench.measured import Percentiles
from stt_server.bench.stage import Limits, StageResult

STYLES = (("p50", "-", "o"), ("p95", "-", "s"), ("p99", ":", "^"))


def draw(rows: Sequence[StageResult], limits: Limits, path: Path, *, title: str) -> None:
    """Draw the lag of interims, and below it the time to final.

    Raises:
        OSError: `path` cannot be written.
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = sorted(rows, key=lambda row: row.streams)
    figure: Any = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.set_title(title)
    _curves(upper, rows, lambda row: row.lag)
    _plain(upper, rows, "of the model's steps, p95", lambda row: row.step_lag_p95)
    upper.axhline(limits.lag_ms, color="tab:red", linestyle="--", label="limit of p95")
    upper.set_ylabel("interim lag, ms")
    _curves(lower, rows, lambda row: row.own_share or row.to_final)
    own = any(row.own_share for row in rows)
    lower.set_ylabel("final, ms beyond the silence" if own else "time to final, ms")
    lower.set_xlabel("streams")
    for axes in (upper, lower):
        _mark_broken(axes, rows)
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left", fontsize="small")
    figure.savefig(path, dpi=120)


def _curves(
    axes: Any, rows: Sequence[StageResult], pick: Callable[[StageResult], Percentiles | None]
) -> None:
    for name, line, marker in STYLES:
        points = [
            (row.streams, getattr(found, name)) for row in rows if (found := pick(row)) is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), line, marker=marker, label=name)


def _plain(
    axes: Any, rows: Sequence[StageResult], label: str, pick: Callable[[StageResult], float | None]
) -> None:
    points = [(row.streams, value) for row in rows if (value := pick(row)) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), "-", marker=".", color="tab:gray", label=label)


def _mark_broken(axes: Any, rows: Sequence[StageResult]) -> None:
    """A band where sessions were refused, a thin line where another limit was broken."""
    for row in rows:
        if row.refusals:
            axes.axvline(row.streams, color="tab:red", linewidth=6, alpha=0.25)
            axes.annotate(
                f"{sum(row.refusals.values())} refused",
                (row.streams, 0.97),
                xycoords=("data", "axes fraction"),
                ha="right",
                va="top",
                rotation=90,
                color="tab:red",
                fontsize="small",
            )
        elif row.broken_by:
            axes.axvline(row.streams, color="tab:red", linewidth=1, alpha=0.5)

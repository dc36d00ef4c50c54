"""Stages as a table for people and as JSON for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stt_server.bench.measured import LagKind, Percentiles
from stt_server.bench.stage import Limits, StageResult

_COLUMNS = (
    ("streams", 9),
    ("lag ms: p50/90/95/99", 24),
    ("to final ms", 24),
    ("own share ms", 20),
    ("onset ms", 10),
    ("end ms", 8),
    ("step ms", 9),
    ("step lag ms", 13),
    ("cores", 7),
    ("MiB", 6),
    ("bench cores", 13),
    ("late ms", 9),
    ("refused", 9),
    ("errors", 8),
)
"""Names, and widths on a terminal."""


def heading(*, counts_children: bool = True) -> str:
    """The line above the rows.

    Args:
        counts_children: what the server spends is that of all its processes.
    """
    names = "".join(f"{name:>{width}}" for name, width in _COLUMNS)
    return names if counts_children else f"{names}  (cores, MiB: its main process alone)"


def line(row: StageResult) -> str:
    """A row on a terminal."""
    pairs = zip(cells_of(row), _COLUMNS, strict=True)
    cells = "".join(f"{cell:>{width}}" for cell, (_, width) in pairs)
    return f"{cells}  {row.broken_by or ''}".rstrip()


def cells_of(row: StageResult) -> list[str]:
    """What a row shows, without its verdict."""
    return [
        str(row.streams) if row.held == row.streams else f"{row.held}/{row.streams}",
        _percentiles(row.lag),
        _percentiles(row.to_final),
        _percentiles(row.own_share),
        _number(row.to_onset.p95 if row.to_onset else None),
        _number(row.to_end.p95 if row.to_end else None),
        _number(row.step_p95),
        _number(row.step_lag_p95),
        _number(row.server_cores, 2),
        _number(row.server_mib),
        _number(row.bench_cores, 2),
        _number(row.late_p99, 1),
        _counts(row.refusals),
        _counts(row.errors),
    ]


def markdown(rows: Sequence[StageResult]) -> str:
    """The same table for a document."""
    lines = [
        f"| {' | '.join(name for name, _ in _COLUMNS)} | broken by |",
        "|" + " ---: |" * (len(_COLUMNS) + 1),
    ]
    lines += [f"| {' | '.join(cells_of(row))} | {row.broken_by or ''} |" for row in rows]
    return "\n".join(lines)


def held(rows: Sequence[StageResult]) -> int:
    """The largest number of streams with which no limit was broken."""
    return max((row.streams for row in rows if row.broken_by is None), default=0)


def remarks(rows: Sequence[StageResult], limits: Limits, *, is_live: bool) -> list[str]:
    """What else must be said about the rows."""
    found: list[str] = []
    if is_live and any(row.broken_by != "refusals" for row in rows):
        found.append(f"held within {limits.lag_ms:g} ms of lag (p95): {held(rows)} streams")
    if not is_live:
        best = max(rows, key=lambda row: row.pace)
        found.append(f"at most {best.pace:g} s of audio per second, with {best.streams} streams")
    found += [_refused(row) for row in rows if row.refusals]
    late = [str(row.streams) for row in rows if row.bench_was_late]
    if late:
        found.append(
            f"the load generator itself was late with {', '.join(late)} streams: "
            "use more --processes, or another machine"
        )
    kinds = {kind for row in rows for kind in row.lag_kinds}
    if kinds & {LagKind.HEARD}:
        found.append("lag: without word times, a lower bound (docs/bench.md)")
    elif kinds & {LagKind.TAIL}:
        found.append("lag: of the last text before each pause alone (docs/bench.md)")
    blind = [str(row.streams) for row in rows if row.lag is None and row.step_lag_p95 is None]
    if is_live and blind:
        found.append(f"no lag was measured with {', '.join(blind)} streams: try a longer --stage-s")
    elif is_live and not any(row.lag for row in rows):
        found.append("no interims came: no lag but that of the model's steps")
    return found


def to_json(
    rows: Sequence[StageResult], limits: Limits, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that was measured."""
    stages = [{**asdict(row), "bench_was_late": row.bench_was_late} for row in rows]
    return {**about, "limits": asdict(limits), "held": held(rows), "stages": stages}


def _refused(row: StageResult) -> str:
    said = f"of {row.streams} streams {row.held} served, {sum(row.refusals.values())} refused"
    if row.server_capacity is None or row.server_capacity >= row.streams:
        return f"{said}: {_counts(row.refusals)}"
    return f"{said}: the server's limit is {row.server_capacity}"


def _percentiles(found: Percentiles | None) -> str:
    if found is None:
        return "-"
    return "/".join(f"{value:.0f}" for value in (found.p50, found.p90, found.p95, found.p99))


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _counts(counts: Mapping[str, int]) -> str:
    return " ".join(f"{count}×{name}" for name, count in counts.items()) or "0"

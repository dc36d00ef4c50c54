"""What `turns.py` writes: tables of delay against turns cut off."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from report import machine
from turn_runs import Heard, Point, separation

from stt_server.settings import DetectorName

LIMITS = (5, 10, 20)


@dataclass(frozen=True, slots=True)
class Curve:
    """Everything that one way to end turns can do."""

    label: str
    points: list[Point]
    shown: tuple[Point, ...]
    """Of these, what each kind of turn comes to."""
    compute_s: float = 0.0

    def best(self, limit_percent: float) -> Point | None:
        """The soonest one that cuts off no more than `limit_percent` of the turns."""
        allowed = [point for point in self.points if point.cut_percent <= limit_percent]
        return min(allowed, key=self.delays, default=None)

    def delays(self, point: Point) -> tuple[float, float]:
        """p50 and p95 in ms."""
        return point.delay_ms(0.5, self.compute_s), point.delay_ms(0.95, self.compute_s)


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured on one material."""

    title: str
    heard: list[Heard]
    curves: list[Curve]
    shows_kinds: bool = True


REPORT = """\
## Turn ends (`turns`)

{machine}; Python {python}, onnxruntime {onnxruntime}; `python benchmarks/turns.py`.

Delay: from the true end of speech to the decision, in the audio's own time, plus what a detector's
answer takes to compute (medians here: {compute}). Cut off: share of the turns that were ended
before their true end; delays are those of the others. `hesitant` turns have pauses of 0.4-1.2 s
where no sentence ends, turns `in a row` of 0.3-0.8 s between sentences that the voice speaks each
by itself. Each cell is the soonest that any settings tried reach: delay p50 / p95 in ms, chosen on
the same clips. Tried are silence of 200-2000 ms, and for detectors a small gap of 200, 360, 520 or
680 ms (the silence after which they are asked), thresholds {thresholds}, and silence of 1000 or
1250 ms that ends the turn anyway. They are asked again each 160 ms.

{tables}

What settings do to each kind of turn: cut off % (delay p50 ms).

{kinds}

How sure smart-turn is at an end of a turn and at a pause, when it is asked first: the share of such
pairs in which it is surer at the end (0.5 is chance). {separations}.

![delay against turns cut off](images/turns.png)
"""


def report(
    results: Sequence[Result], took_s: Mapping[DetectorName, float], thresholds: Sequence[float]
) -> str:
    """The section in Markdown.

    Args:
        took_s: what an answer of each detector takes to compute.
    """
    shown = [result for result in results if result.curves]
    return REPORT.format(
        machine=machine(),
        python=platform.python_version(),
        onnxruntime=version("onnxruntime"),
        compute=", ".join(f"{name} {1_000 * s:.0f} ms" for name, s in took_s.items()) or "none",
        thresholds=f"{min(thresholds)}-{max(thresholds)}",
        tables="\n\n".join(_table(result) for result in shown),
        kinds="\n\n".join(_kinds(result) for result in shown if result.shows_kinds),
        separations="; ".join(_separation(result) for result in results),
    )


def _table(result: Result) -> str:
    heads = [f"at most {limit} % cut off" for limit in LIMITS]
    title = f"{result.title}: {len(result.heard)} turns"
    rows = [[title, *heads, f"settings for {LIMITS[0]} %"]]
    for curve in result.curves:
        best = [curve.best(limit) for limit in LIMITS]
        cells = [
            "-" if point is None else "{:.0f} / {:.0f}".format(*curve.delays(point))
            for point in best
        ]
        rows.append([curve.label, *cells, "-" if best[0] is None else _settings(curve, best[0])])
    return _markdown(rows)


def _settings(curve: Curve, point: Point) -> str:
    chosen = point.endpointing
    if curve.label == "silence":
        return f"silence {chosen.silence_ms} ms"
    asked = f"small gap {chosen.small_gap_ms} ms, threshold {chosen.turn_threshold}"
    return f"{asked}, silence {chosen.silence_ms} ms"


def _kinds(result: Result) -> str:
    kinds = list(dict.fromkeys(heard.clip.kind for heard in result.heard))
    rows = [[result.title, *kinds]]
    for curve in result.curves:
        for point in curve.shown:
            cells = [_kind(curve, point, kind) for kind in kinds]
            rows.append([f"{curve.label}: {_settings(curve, point)}", *cells])
    return _markdown(rows)


def _kind(curve: Curve, point: Point, kind: str) -> str:
    those = [outcome for outcome in point.outcomes if outcome.kind == kind]
    part = Point(point.endpointing, those, 0)
    delay = part.delay_ms(0.5, curve.compute_s)
    return f"{part.cut_percent:.0f}" + (f" ({delay:.0f})" if part.cut_percent < 100 else "")


def _separation(result: Result) -> str:
    share = separation(result.heard, DetectorName.SMART_TURN)
    return f"{result.title}: " + ("not asked" if share is None else f"{share:.2f}")


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, [":---", *("---:" for _ in head[1:])], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

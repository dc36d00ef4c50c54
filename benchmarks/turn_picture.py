"""The picture of `turns.py`: delay against turns cut off."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from turn_report import Curve, Result

AIM_MS, AIM_PERCENT = 500, 5
MOST_PERCENT = 45
COLOURS = {
    "silence": "black",
    "smart-turn": "tab:blue",
    "eou": "tab:orange",
    "eou and smart-turn": "tab:green",
    "eou or smart-turn": "tab:red",
}


def draw(results: Sequence[Result], path: Path) -> None:
    """A column for each material: medians above, p95 below. Lines join what no other settings of
    the same kind beat."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(
        2, len(results), figsize=(4.6 * len(results), 7.2), sharex=True, sharey="row", squeeze=False
    )
    for column, result in enumerate(results):
        for row, name in enumerate(("p50", "p95")):
            axes: Any = rows[row][column]
            for curve in result.curves:
                _draw_curve(axes, curve, row)
            axes.axhspan(0, AIM_MS, xmax=AIM_PERCENT / MOST_PERCENT, color="tab:green", alpha=0.15)
            axes.set(xlim=(0, MOST_PERCENT), ylim=(0, 2_100))
            axes.grid(alpha=0.3)
            if row == 0:
                axes.set_title(result.title, fontsize=10)
            else:
                axes.set_xlabel("turns cut off, %")
            if column == 0:
                axes.set_ylabel(f"end-of-turn delay, {name}, ms")
    handles: dict[str, Any] = {}
    for axes in rows[0]:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        [*handles.values()], [*handles], loc="lower center", ncols=len(handles), fontsize=8
    )
    figure.suptitle("Sooner is lower, safer is further left; green: the aim", fontsize=10)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw_curve(axes: Any, curve: Curve, quantile: int) -> None:
    every = sorted((point.cut_percent, curve.delays(point)[quantile]) for point in curve.points)
    colour = COLOURS[curve.label]
    axes.scatter(*zip(*every, strict=True), s=5, alpha=0.15, color=colour)
    front: list[tuple[float, float]] = []
    for cut, delay in every:
        if not front or delay < front[-1][1]:
            front.append((cut, delay))
    axes.plot(*zip(*front, strict=True), marker="o", markersize=3, color=colour, label=curve.label)

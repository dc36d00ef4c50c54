"""How soon turns end, against how many are cut off, with each way to end them.

    python benchmarks/turns.py [--write docs/benchmarks.md] [--picture docs/images/turns.png]

Needs the package `hibari-tts` (a synthetic voice), smart-turn, `../shared` (recorded digits and a
model of them) and flite; what is absent is left out. Takes minutes on two cores.
"""

import argparse
import asyncio
import platform
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median

import turn_clips
import turn_voices
from report import machine, write_section
from turn_picture import draw
from turn_runs import Heard, Point, Recorder, decide, hear, measure

from stt_server.engine.base import TurnDetector
from stt_server.engine.detectors import SideModelDetector
from stt_server.engine.select import make_eou_engine
from stt_server.engine.silero import load_silero
from stt_server.engine.smart_turn import SmartTurn, find_smart_turn
from stt_server.settings import (
    DetectorName,
    EndpointingSettings,
    ModelSettings,
    Settings,
    SmartTurnSettings,
)

SHARED = Path(__file__).parents[2] / "shared"
FIRST_MS, BACKSTOP_MS = 200, 1_250
AGAIN_MS, ONCE_MS = 160, 2_000
"""Silence after which a detector is asked again; `ONCE_MS` is longer than any pause here."""
GAPS_MS = (FIRST_MS, FIRST_MS + AGAIN_MS, FIRST_MS + 2 * AGAIN_MS)
BACKSTOPS_MS = (700, 1_000, BACKSTOP_MS)
THRESHOLDS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98)
SILENCES_MS = range(200, 2_001, 100)
LIMITS = (5, 10, 20)
EOU, SMART_TURN = DetectorName.EOU, DetectorName.SMART_TURN


@dataclass(frozen=True, slots=True)
class Material:
    """Clips of one kind of speech, and how often detectors are asked about them in a pause."""

    title: str
    heard: list[Heard]
    asks_eou: bool = False
    asks_smart_turn_again: bool = False


@dataclass(frozen=True, slots=True)
class Curve:
    """Everything that one way to end turns can do."""

    label: str
    points: list[Point]
    compute_s: float = 0.0

    def best(self, limit_percent: float) -> Point | None:
        """The soonest one that cuts off no more than `limit_percent` of the turns."""
        allowed = [point for point in self.points if point.cut_percent <= limit_percent]
        return min(allowed, key=lambda point: self.delays(point), default=None)

    def delays(self, point: Point) -> tuple[float, float]:
        """p50 and p95 in ms."""
        return point.delay_ms(0.5, self.compute_s), point.delay_ms(0.95, self.compute_s)


def materials() -> list[Material]:
    """What there is on this machine."""
    model = load_silero()
    found: list[Material] = []
    if voices := turn_voices.neural_voices():
        clips = turn_clips.english(voices)
        found.append(Material("English, natural voice", hear(clips, model), False, True))
    if (folder := SHARED / "audio/digits").is_dir():
        found.append(
            Material("Digits, recorded word by word", hear(turn_clips.digits(folder), model), True)
        )
    if voices := turn_voices.flite_voices():
        clips = turn_clips.english(voices)
        found.append(Material("English, voices of flite", hear(clips, model)))
    return found


@asynccontextmanager
async def smart_turn() -> AsyncGenerator[SmartTurn | None, None]:
    """smart-turn on two threads, if it is here; nothing is too late."""
    if find_smart_turn(SmartTurnSettings(), ModelSettings()) is None:
        yield None
        return
    model = SmartTurn(SmartTurnSettings(threads=2), ModelSettings(), answer_s=60.0)
    await model.start()
    yield model
    await model.stop()


async def record(
    clips: Sequence[Heard], name: DetectorName, detectors: Sequence[TurnDetector], check_ms: int
) -> float:
    """Have each detector answer in all pauses of clips; gives the median seconds of an answer."""
    endpointing = EndpointingSettings(
        detector=name, small_gap_ms=FIRST_MS, check_ms=check_ms, silence_ms=BACKSTOP_MS
    )
    waiting, took_s = list(reversed(clips)), list[float]()

    async def work(detector: TurnDetector) -> None:
        while waiting:
            heard = waiting.pop()
            recorder = Recorder(detector, heard.answers.setdefault(name, {}))
            await decide(heard, endpointing, recorder)
            took_s.extend(recorder.took_s)

    await asyncio.gather(*(work(detector) for detector in detectors))
    return median(took_s)


async def record_all(found: Sequence[Material]) -> dict[DetectorName, float]:
    """Fill in what detectors answer; gives the seconds that an answer takes, of those there are."""
    took_s: dict[DetectorName, float] = {}
    async with smart_turn() as model:
        if model is not None:
            took_s[SMART_TURN] = await record(
                found[0].heard[:12], SMART_TURN, [model.open()], ONCE_MS
            )
            for material in found:
                check_ms = AGAIN_MS if material.asks_smart_turn_again else ONCE_MS
                both = [model.open(), model.open()]
                await record(material.heard, SMART_TURN, both, check_ms)
    checkpoint = SHARED / "models/digits-streaming.nemo"
    settings = Settings.model_validate(
        {"model": "pocketsphinx", "eou_model": "parakeet-eou", "eou_checkpoint": str(checkpoint)}
        | {"device": "cpu", "max_streams": 2}
    )
    engine = make_eou_engine(settings)
    assert engine is not None
    for material in found:
        if material.asks_eou and checkpoint.is_file():
            await engine.start()
            detector = SideModelDetector(engine)
            took_s[EOU] = await record(material.heard, EOU, [detector], AGAIN_MS)
            await engine.stop()
    return took_s


async def curves(material: Material, took_s: dict[DetectorName, float]) -> list[Curve]:
    """Every way to end turns that this material knows, over all settings tried."""
    clips = material.heard
    silence = [
        await measure(clips, EndpointingSettings(silence_ms=ms, small_gap_ms=min(ms, FIRST_MS)))
        for ms in SILENCES_MS
    ]
    found = [Curve("silence", silence)]
    grid = [*product(GAPS_MS, THRESHOLDS, BACKSTOPS_MS)]
    has_smart_turn, has_eou = SMART_TURN in took_s, material.asks_eou and EOU in took_s
    if has_smart_turn:
        once = [await measure(clips, _asked(*point, ONCE_MS), [SMART_TURN]) for point in grid]
        found.append(Curve("smart-turn", once, took_s[SMART_TURN]))
    if has_smart_turn and material.asks_smart_turn_again:
        again = [await measure(clips, _asked(*point, AGAIN_MS), [SMART_TURN]) for point in grid]
        found.append(Curve("smart-turn, asked again", again, took_s[SMART_TURN]))
    if has_eou:
        eou = [await measure(clips, _asked(*point, AGAIN_MS), [EOU]) for point in grid]
        found.append(Curve("eou", eou, took_s[EOU]))
    if has_eou and has_smart_turn:
        for label, combine in (("eou and smart-turn", min), ("eou or smart-turn", max)):
            points = [
                await measure(clips, _asked(*point, AGAIN_MS), [EOU, SMART_TURN], combine)
                for point in grid
            ]
            found.append(Curve(label, points, took_s[EOU] + took_s[SMART_TURN]))
    return found


def _asked(gap_ms: int, threshold: float, backstop_ms: int, check_ms: int) -> EndpointingSettings:
    return EndpointingSettings(
        detector=SMART_TURN,
        small_gap_ms=gap_ms,
        turn_threshold=threshold,
        silence_ms=backstop_ms,
        check_ms=check_ms,
    )


REPORT = """\
## Turn ends (`turns`)

{machine}; Python {python}, onnxruntime {onnxruntime}; `python benchmarks/turns.py`.

Delay: from the true end of speech to the decision, in the audio's own time, plus what a detector's
answer takes to compute (medians here: {compute}). Cut off: share of the turns that were ended
before their true end; delays are those of the others. Pauses inside turns: hesitations of
0.4-1.2 s, between sentences of long turns 0.3-0.8 s. Each cell is the soonest that any settings
tried reach (silence of 200-2000 ms; detectors: first asked after 200, 360 or 520 ms of silence,
threshold 0.3-0.98, ended by silence after 700, 1000 or 1250 ms): delay p50 / p95 in ms, chosen on
the same clips. A detector is asked once in a pause unless it says `asked again` (each 160 ms);
`eou` always is, for its token may come later.

{tables}

What settings do to each kind of turn: cut off % (delay p50 ms).

{kinds}

![delay against turns cut off](images/turns.png)
"""


def report(found: list[tuple[Material, list[Curve]]], took_s: dict[DetectorName, float]) -> str:
    return REPORT.format(
        machine=machine(),
        python=platform.python_version(),
        onnxruntime=version("onnxruntime"),
        compute=", ".join(f"{name} {1_000 * s:.0f} ms" for name, s in took_s.items()) or "none",
        tables="\n\n".join(_table(material, curves) for material, curves in found),
        kinds="\n\n".join(_kinds(material, curves) for material, curves in found),
    )


def _table(material: Material, curves: Sequence[Curve]) -> str:
    heads = [f"at most {limit} % cut off" for limit in LIMITS]
    rows = [
        [f"{material.title}: {len(material.heard)} turns", *heads, f"settings for {LIMITS[0]} %"]
    ]
    for curve in curves:
        best = [curve.best(limit) for limit in LIMITS]
        cells = [
            "-" if point is None else "{:.0f} / {:.0f}".format(*curve.delays(point))
            for point in best
        ]
        rows.append([curve.label, *cells, "" if best[0] is None else _settings(curve, best[0])])
    return _markdown(rows)


def _settings(curve: Curve, point: Point) -> str:
    chosen = point.endpointing
    if curve.label == "silence":
        return f"silence {chosen.silence_ms} ms"
    return (
        f"after {chosen.small_gap_ms} ms, threshold {chosen.turn_threshold}, "
        f"silence {chosen.silence_ms} ms"
    )


def _kinds(material: Material, curves: Sequence[Curve]) -> str:
    kinds = list(dict.fromkeys(heard.clip.kind for heard in material.heard))
    rows = [[material.title, *kinds]]
    for curve in curves:
        for point in curve.points:
            chosen = point.endpointing
            is_plain = curve.label == "silence" and chosen.silence_ms in (500, 1_000, 1_500)
            is_asked = chosen.small_gap_ms == FIRST_MS and chosen.silence_ms == BACKSTOP_MS
            if is_plain or (is_asked and chosen.turn_threshold in (0.5, 0.97)):
                cells = [_kind(curve, point, kind) for kind in kinds]
                rows.append([f"{curve.label}, {_settings(curve, point)}", *cells])
    return _markdown(rows)


def _kind(curve: Curve, point: Point, kind: str) -> str:
    those = [outcome for outcome in point.outcomes if outcome.kind == kind]
    part = Point(point.endpointing, those, 0)
    return f"{part.cut_percent:.0f} ({part.delay_ms(0.5, curve.compute_s):.0f})"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, [":---", *("---:" for _ in head[1:])], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="document with the section `turns`")
    parser.add_argument("--picture", type=Path, help="PNG file")
    arguments = parser.parse_args()
    found = materials()
    took_s = await record_all(found)
    results = [(material, await curves(material, took_s)) for material in found]
    text = report(results, took_s)
    print(text)
    if arguments.write:
        write_section(arguments.write, "turns", text)
    if arguments.picture:
        draw([(material.title, found) for material, found in results], arguments.picture)


if __name__ == "__main__":
    asyncio.run(main())

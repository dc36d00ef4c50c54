"""How soon turns end, against how many are cut off, with each way to end them.

    python benchmarks/turns.py [--write docs/benchmarks.md] [--picture docs/images/turns.png]

Needs the package `hibari-tts` (a synthetic voice), smart-turn, `../shared` (recorded digits and a
model of them) and flite; what is absent is left out. Takes minutes on two cores.
"""

import argparse
import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

import turn_clips
import turn_voices
from report import write_section
from turn_picture import draw
from turn_report import Curve, Result, report
from turn_runs import AGAIN_MS, Heard, Recorder, decide, hear, measure

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
GAPS_MS = tuple(FIRST_MS + AGAIN_MS * more for more in range(4))
BACKSTOPS_MS = (1_000, BACKSTOP_MS)
THRESHOLDS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97)
REPEATED_S = 0.001
"""An answer that takes less was given before."""
SHOWN = ((200, 0.5), (360, 0.5), (520, 0.5), (520, 0.9))
SHOWN_SILENCES_MS = (500, 1_000, 1_500)
SILENCES_MS = range(200, 2_001, 100)
EOU, SMART_TURN = DetectorName.EOU, DetectorName.SMART_TURN


@dataclass(frozen=True, slots=True)
class Material:
    """Clips of one kind of speech, and how often detectors are asked about them in a pause."""

    title: str
    heard: list[Heard]
    asks_eou: bool = False
    has_curves: bool = True
    shows_kinds: bool = True


def materials() -> list[Material]:
    """What there is on this machine."""
    model = load_silero()
    found: list[Material] = []
    if voices := turn_voices.neural_voices():
        every = hear(turn_clips.english(voices), model)
        told_apart = [heard for heard in every if heard.clip.kind != turn_clips.IN_A_ROW]
        found.append(Material("English, natural voice", told_apart, shows_kinds=False))
        found.append(Material("the same, and sentences in a row", every))
    if (folder := SHARED / "audio/digits").is_dir():
        clips = turn_clips.digits(folder)
        found.append(Material("Digits, recorded one by one", hear(clips, model), asks_eou=True))
    if voices := turn_voices.flite_voices():
        clips = turn_clips.english(voices)
        found.append(Material("English, voices of flite", hear(clips, model), has_curves=False))
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
    clips: Sequence[Heard], name: DetectorName, detectors: Sequence[TurnDetector]
) -> float:
    """Have each detector answer in all pauses of the clips in which none has yet; gives the median
    seconds of an answer."""
    endpointing = EndpointingSettings(
        detector=name, small_gap_ms=FIRST_MS, check_ms=AGAIN_MS, silence_ms=BACKSTOP_MS
    )
    waiting, took_s = [heard for heard in clips if name not in heard.answers], list[float]()

    async def work(detector: TurnDetector) -> None:
        while waiting:
            heard = waiting.pop()
            recorder = Recorder(detector, heard.answers.setdefault(name, {}))
            await decide(heard, endpointing, recorder)
            took_s.extend(recorder.took_s)

    await asyncio.gather(*(work(detector) for detector in detectors))
    return median(fresh) if (fresh := [each for each in took_s if each > REPEATED_S]) else 0.0


async def record_all(found: Sequence[Material]) -> dict[DetectorName, float]:
    """Fill in what detectors answer; gives the seconds that an answer takes, of those there are."""
    took_s: dict[DetectorName, float] = {}
    async with smart_turn() as model:
        if model is not None:
            for material in found:
                alone = await record(material.heard[:8], SMART_TURN, [model.open()])
                took_s.setdefault(SMART_TURN, alone)
                await record(material.heard, SMART_TURN, [model.open(), model.open()])
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
            took_s[EOU] = await record(material.heard, EOU, [detector])
            await engine.stop()
    return took_s


async def curves(material: Material, took_s: Mapping[DetectorName, float]) -> list[Curve]:
    """Every way to end turns that this material knows, over all settings tried."""
    if not material.has_curves:
        return []
    clips = material.heard
    silence = [
        await measure(clips, EndpointingSettings(silence_ms=ms, small_gap_ms=min(ms, FIRST_MS)))
        for ms in SILENCES_MS
    ]
    plain = tuple(point for point in silence if point.endpointing.silence_ms in SHOWN_SILENCES_MS)
    found = [Curve("silence", silence, plain)]
    has_eou = material.asks_eou and EOU in took_s
    if SMART_TURN in took_s:
        found.append(await _swept("smart-turn", clips, [SMART_TURN], took_s))
    if has_eou:
        found.append(await _swept("eou", clips, [EOU], took_s))
    if has_eou and SMART_TURN in took_s:
        for label, combine in (("eou and smart-turn", min), ("eou or smart-turn", max)):
            found.append(await _swept(label, clips, [EOU, SMART_TURN], took_s, combine))
    return found


async def _swept(
    label: str,
    clips: Sequence[Heard],
    names: Sequence[DetectorName],
    took_s: Mapping[DetectorName, float],
    combine: Callable[[list[float]], float] = min,
) -> Curve:
    points = [
        await measure(clips, _asked(gap_ms, threshold, backstop_ms), names, combine)
        for gap_ms, threshold, backstop_ms in product(GAPS_MS, THRESHOLDS, BACKSTOPS_MS)
    ]
    shown = (_asked(*each, BACKSTOP_MS) for each in SHOWN)
    chosen = [point for settings in shown for point in points if point.endpointing == settings]
    return Curve(
        label, points, tuple(chosen if len(names) == 1 else ()), sum(took_s[name] for name in names)
    )


def _asked(gap_ms: int, threshold: float, backstop_ms: int) -> EndpointingSettings:
    return EndpointingSettings(
        detector=SMART_TURN,
        small_gap_ms=gap_ms,
        turn_threshold=threshold,
        silence_ms=backstop_ms,
        check_ms=AGAIN_MS,
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="document with the section `turns`")
    parser.add_argument("--picture", type=Path, help="PNG file")
    arguments = parser.parse_args()
    found = materials()
    took_s = await record_all(found)
    results = [
        Result(material.title, material.heard, await curves(material, took_s), material.shows_kinds)
        for material in found
    ]
    text = report(results, took_s, THRESHOLDS)
    print(text)
    if arguments.write:
        write_section(arguments.write, "turns", text)
    if arguments.picture:
        draw([result for result in results if result.curves], arguments.picture)


if __name__ == "__main__":
    asyncio.run(main())

"""Word error rate, cost and steadiness of the segment ASR stage around a simulated engine.

    python benchmarks/segment_stage.py [--write docs/benchmarks.md]

Turns are spoken in virtual time through the VAD stage (probabilities from the script) and the
stage as it is; only the engine is simulated. Everything is generated from a seed.
"""

import argparse
import asyncio
import platform
import random
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import merge
import numpy as np
from report import machine, write_section
from simulated_speech import (
    CALL_S,
    CALL_S_PER_S,
    TIME_ERROR_S,
    WINDOW_S,
    ScriptedDetector,
    SimulatedEngine,
    Speech,
    microphone,
    say,
)

from stt_server.events import (
    SAMPLE_RATE,
    Hypothesis,
    SegmentEnded,
    TurnEnded,
)
from stt_server.pipeline import Progress
from stt_server.settings import SessionOptions
from stt_server.stages.segment_asr import SegmentAsrStage
from stt_server.stages.tests.virtual_time import run
from stt_server.stages.vad import VadStage

SEED = 20_260_105
ERROR_RATES = (0.0, 0.05, 0.1, 0.2)
OVERLAPS_S = (0, 2, 5)
SHORT_S, LONG_S = (8.0, 34.0), (50.0, 100.0)
"""Turns that fit the window, and turns that do not."""


@dataclass(slots=True)
class Tally:
    """Sums over turns."""

    words: int = 0
    interim: int = 0
    final: int = 0
    plain: int = 0
    speech_s: float = 0.0
    asked_s: float = 0.0
    interims: int = 0
    rewritten: int = 0
    unstable: int = 0
    waits_s: list[float] = field(default_factory=list[float])
    """From a turn's end to its final."""

    def percent(self, errors: int) -> float:
        return 100 * errors / self.words

    @property
    def cost(self) -> float:
        return self.asked_s / self.speech_s


def errors_in(speech: Speech, text: Sequence[str]) -> int:
    """Word errors; neither case nor punctuation counts."""
    return merge.word_errors(merge.keys([word.text for word in speech.words]), merge.keys(text))


async def take_turn(speech: Speech, error_rate: float, overlap_s: int, seed: int, t: Tally) -> None:
    """Speak one turn and add what came of it to `t`."""
    engine = SimulatedEngine(speech, error_rate, seed)
    options, progress = SessionOptions(), Progress()
    clock = asyncio.get_running_loop().time
    vad = VadStage(ScriptedDetector(speech), options.endpointing, progress)
    stage = SegmentAsrStage(
        engine, options, progress, clock=clock, overlap_samples=overlap_s * SAMPLE_RATE
    )
    interims: list[Hypothesis] = []
    cuts: list[int] = []
    ended_s = 0.0
    async with aclosing(stage.run(vad.run(microphone(speech)))) as events:
        async for event in events:
            match event:
                case SegmentEnded(at=at):
                    cuts.append(at)
                case TurnEnded():
                    ended_s = clock()
                case Hypothesis(is_final=True):
                    t.waits_s.append(clock() - ended_s)
                    t.final += errors_in(speech, event.text.split())
                case Hypothesis():
                    interims.append(event)
                case _:
                    pass
    t.words += len(speech.words)
    t.interim += errors_in(speech, interims[-1].text.split() if interims else [])
    t.plain += errors_in(speech, [word for at in cuts for word in engine.answers.get(at, [])])
    t.speech_s += speech.seconds
    t.asked_s += sum(len(audio.samples) for audio in engine.asked) / SAMPLE_RATE
    t.interims += len(interims)
    for before, after in pairwise(interims):
        kept = merge.keys(after.text.split())[: len(before.words)]
        t.rewritten += kept != merge.keys(before.text.split())
        t.unstable += not after.stable.startswith(before.stable)


def measure(
    error_rate: float, overlap_s: int, turns: int, lengths_s: tuple[float, float] = SHORT_S
) -> Tally:
    """Speak the same turns for every rate and overlap."""
    rng = random.Random(SEED)
    tally = Tally()
    for seed in range(turns):
        speech = say(rng, rng.uniform(*lengths_s))
        run(take_turn(speech, error_rate, overlap_s, seed, tally))
    return tally


HEADER = [
    "overlap s",
    "engine's errors %",
    "joined plainly",
    "last interim",
    "**final**",
    "joined plainly, long",
    "**final, long**",
    "cost",
    "cost, long",
    "interims rewritten %",
    "final waits ms, p50",
    "p95",
]

REPORT = """\
## Segment ASR stage (`segment_stage`)

{machine}; Python {python}, strops {strops}; `python benchmarks/segment_stage.py`.

{turns} turns of {short[0]:.0f}-{short[1]:.0f} s and {long_turns} of {long[0]:.0f}-{long[1]:.0f} s
(`long`: longer than the window of {window:.0f} s) are spoken to the stage, with pauses; the engine
is simulated. It errs at the given rate, three times as often in the first and last two words of a
piece, always on a word that is cut in two, and half of the errors differ from piece to piece; word
times are off by up to {time_ms:.0f} ms. Word errors in %, without case and punctuation. `joined
plainly`: all pieces one after the other. `cost`: seconds of audio given to the engine per second of
speech, also what was cancelled. `interims rewritten`: share that changes a word of the one before;
stable words changed in {unstable} of {interims} interims. A call takes {call_ms:.0f} ms and
{per_s_ms:.0f} ms per second of audio.

{table}

{summary}
"""

SUMMARY = """\
At 5 % errors the last interim, stitched with an overlap of 5 s, is {stitch:.1f} points worse than
one recognition of the whole turn, without overlap {bare:.1f}; {tail:.1f} of them are words after
the last cut, which no interim has. Plain joining repeats the overlap; without one it is what the
stage does."""


def report(turns: int) -> str:
    long_turns = max(1, turns // 3)
    rows: list[list[str]] = []
    fitting: dict[tuple[int, float], Tally] = {}
    unstable = interims = 0
    for overlap_s in OVERLAPS_S:
        for rate in ERROR_RATES:
            short = fitting[overlap_s, rate] = measure(rate, overlap_s, turns)
            long = measure(rate, overlap_s, long_turns, LONG_S)
            rows.append(_row(overlap_s, rate, short, long))
            unstable += short.unstable + long.unstable
            interims += short.interims + long.interims

    def stitching(overlap_s: int, rate: float) -> float:
        tally = fitting[overlap_s, rate]
        return tally.percent(tally.interim) - tally.percent(tally.final)

    return REPORT.format(
        machine=machine(),
        python=platform.python_version(),
        strops=version("strops"),
        turns=turns,
        long_turns=long_turns,
        short=SHORT_S,
        long=LONG_S,
        window=WINDOW_S,
        time_ms=1_000 * TIME_ERROR_S,
        unstable=unstable,
        interims=interims,
        call_ms=1_000 * CALL_S,
        per_s_ms=1_000 * CALL_S_PER_S,
        table=merge.table(HEADER, rows),
        summary=SUMMARY.format(
            stitch=stitching(5, 0.05), bare=stitching(0, 0.05), tail=stitching(5, 0.0)
        ),
    )


def _row(overlap_s: int, rate: float, short: Tally, long: Tally) -> list[str]:
    p50, p95 = (1_000 * np.percentile(short.waits_s, share) for share in (50, 95))
    return [
        str(overlap_s),
        f"{100 * rate:.0f}",
        f"{short.percent(short.plain):.1f}",
        f"{short.percent(short.interim):.1f}",
        f"{short.percent(short.final):.1f}",
        f"{long.percent(long.plain):.1f}",
        f"{long.percent(long.final):.1f}",
        f"{short.cost:.2f}",
        f"{long.cost:.2f}",
        f"{100 * short.rewritten / max(1, short.interims):.0f}",
        f"{p50:.0f}",
        f"{p95:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=60, help="turns per row")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the section there")
    args = parser.parse_args()
    markdown = report(args.turns)
    print(markdown)
    if args.write:
        write_section(args.write, "segment_stage", markdown)


if __name__ == "__main__":
    main()

"""What leaving silence out, and what the decoder knows when a turn begins, do to the words.

    python benchmarks/gating.py [--write docs/benchmarks.md]

Real recordings of digits (`../shared`) through the VAD stage, the ASR stage and the engine room,
each as a session of its own, and five in a row with pauses of 1 to 3 s of faint noise, in three
random orders. Takes a few minutes on one core.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from merge import word_errors
from report import machine, write_section

import nemo_lite
from stt_server.engine.base import OpenStream
from stt_server.engine.nemo import NemoEngine
from stt_server.engine.nemo_model import LoadedModel
from stt_server.engine.nemo_source import NemoSource
from stt_server.engine.silero import load_silero
from stt_server.engine.vad import VadModel, VadState
from stt_server.events import (
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    Audio,
    Hypothesis,
    Samples,
    StreamEvent,
)
from stt_server.pipeline import Channel, Progress
from stt_server.settings import (
    DecoderState,
    Dtype,
    EndpointingSettings,
    EngineName,
    NemoSettings,
    SessionOptions,
    Settings,
)
from stt_server.stages.asr import StreamingAsrStage
from stt_server.stages.vad import VadStage

SHARED = Path(__file__).parents[2] / "shared"
MODEL, RECORDINGS = SHARED / "models/digits-streaming.nemo", SHARED / "audio/digits"
IN_A_ROW, ORDERS, AT_ONCE = 5, 3, 8
LOOKAHEAD_MS = 80
PACKET = SAMPLE_RATE // 10
BOUND_S = 60.0


@dataclass(frozen=True, slots=True)
class Talk:
    """What one session hears, and what is said in it."""

    samples: Samples
    words: list[str]
    probabilities: list[float] = field(default_factory=list[float])


@dataclass(frozen=True, slots=True)
class Row:
    """One way to hear a set of sessions."""

    name: str
    errors: int
    words: int
    heard_share: float
    """Of the audio that the model was shown."""
    differing: int
    """Words that are not those of the whole recording in one piece."""


def recordings() -> list[Talk]:
    """Each recording of the set."""
    found: list[Talk] = []
    for line in (RECORDINGS / "manifest.jsonl").read_text().splitlines():
        entry = json.loads(line)
        samples, _ = soundfile.read(RECORDINGS / entry["file"], dtype="float32")
        found.append(Talk(np.asarray(samples, np.float32), entry["text"].split()))
    return found


def in_a_row(talks: list[Talk]) -> list[Talk]:
    """The same, some after the other in one session; each as often as there are orders."""
    random = np.random.default_rng(0)
    numbers = np.concatenate([random.permutation(len(talks)) for _ in range(ORDERS)])
    order = [talks[int(number)] for number in numbers]
    found: list[Talk] = []
    for first in range(0, len(order), IN_A_ROW):
        pieces: list[Samples] = []
        for talk in order[first : first + IN_A_ROW]:
            pause = round(random.uniform(1, 3) * SAMPLE_RATE)
            pieces += [talk.samples, random.normal(0, 3e-4, pause).astype(np.float32)]
        words = [word for talk in order[first : first + IN_A_ROW] for word in talk.words]
        found.append(Talk(np.concatenate(pieces), words))
    return found


def judged(talks: list[Talk], model: VadModel) -> list[Talk]:
    """With the speech probabilities of whole windows."""
    whole = [talk.samples[: len(talk.samples) // WINDOW_SAMPLES * WINDOW_SAMPLES] for talk in talks]
    windows = [samples.reshape(-1, WINDOW_SAMPLES) for samples in whole]
    found = model.run([VadState() for _ in talks], windows)
    return [replace(talk, probabilities=each) for talk, each in zip(talks, found, strict=True)]


class Probabilities:
    """What was found before. A `SpeechProbabilities`."""

    def __init__(self, talk: Talk) -> None:
        self._left = iter(talk.probabilities)
        self._rest = 0

    async def push(self, samples: Samples) -> list[float]:
        windows, self._rest = divmod(self._rest + len(samples), WINDOW_SAMPLES)
        return [next(self._left) for _ in range(windows)]

    def reset(self) -> None:
        """Nothing is to be forgotten."""


class Meter:
    """A `ModelSource` that counts what its model is shown of the sessions' audio."""

    def __init__(self, source: NemoSource) -> None:
        self._source = source
        self.samples = 0

    def open(self, is_stopping: Callable[[], bool]) -> LoadedModel:
        model = self._source.open(is_stopping)
        return replace(model, batch=MeteredBatch(model.batch, self))

    def discard(self) -> None:
        self._source.discard()


class MeteredBatch:
    """Another batch; `push` counts."""

    def __init__(self, batch: Any, meter: Meter) -> None:
        self._batch, self._meter = batch, meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def push(self, slot: int, samples: Samples) -> None:
        self._meter.samples += len(samples)
        self._batch.push(slot, samples)


async def converse(talk: Talk, open_stream: OpenStream, *, hears_silence: bool) -> list[str]:
    """The words of all finals of one session."""
    progress = Progress()
    pipeline = VadStage(Probabilities(talk), EndpointingSettings(), progress) + StreamingAsrStage(
        open_stream, SessionOptions(), progress, clock=lambda: 0.0, hears_silence=hears_silence
    )
    source, sink = Channel[StreamEvent](BOUND_S), Channel[StreamEvent](BOUND_S)
    words: list[str] = []

    async def send() -> None:
        for at in range(0, len(talk.samples), PACKET):
            await source.put(Audio(at, talk.samples[at : at + PACKET]))
        source.close()

    async def run() -> None:
        await pipeline.run(source, sink, bound_s=BOUND_S)
        sink.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        group.create_task(run())
        async for event in sink:
            if isinstance(event, Hypothesis) and event.is_final:
                words += [word.text for word in event.words]
    return words


async def hear(talks: list[Talk], nemo: NemoSettings, name: str, whole: list[list[str]]) -> Row:
    """All sessions, some at once, through one engine."""
    settings = Settings(
        model=EngineName.PARAKEET_EOU,
        nemo=nemo,
        device="cpu",
        dtype=Dtype.FLOAT32,
        lookahead_ms=LOOKAHEAD_MS,
        max_streams=AT_ONCE,
    )
    meter = Meter(NemoSource(settings))
    engine = NemoEngine(
        meter, name="digits", summary="", most_streams=AT_ONCE, tick_s=0.001, gating=nemo.gating
    )
    await engine.start()
    places = asyncio.Semaphore(AT_ONCE)

    async def one(talk: Talk) -> list[str]:
        async with places:
            return await converse(talk, engine.open, hears_silence=engine.hears_silence)

    try:
        found = await asyncio.gather(*(one(talk) for talk in talks))
    finally:
        await engine.stop()
    audio = sum(len(talk.samples) for talk in talks)
    return row_of(name, talks, found, whole, meter.samples / audio)


def row_of(
    name: str, talks: list[Talk], found: list[list[str]], whole: list[list[str]], share: float
) -> Row:
    return Row(
        name,
        sum(word_errors(talk.words, words) for talk, words in zip(talks, found, strict=True)),
        sum(len(talk.words) for talk in talks),
        share,
        sum(word_errors(one, other) for one, other in zip(whole, found, strict=True)),
    )


def rows(talks: list[Talk]) -> list[Row]:
    """In one piece, then each way through the server."""
    heard = nemo_lite.load(MODEL).transcribe([talk.samples for talk in talks], lookahead=1)
    whole = [transcript.text.split() for transcript in heard]
    found = [row_of("whole recordings, `transcribe`", talks, whole, whole, 1.0)]
    for gating, state in product((False, True), DecoderState):
        nemo = NemoSettings(checkpoint=str(MODEL), gating=gating, decoder_state=state)
        name = f"{'gating' if gating else 'no gating'}, `{state}`"
        print(name, file=sys.stderr)
        found.append(asyncio.run(hear(talks, nemo, name, whole)))
    return found


def report(tables: dict[str, list[Row]]) -> str:
    """In Markdown."""
    lines = [
        "## Live engine: gating and decoder state",
        "",
        f"{machine()}; torch {torch.__version__}, float32, RNN-T, look-ahead {LOOKAHEAD_MS} ms; "
        "`python benchmarks/gating.py`.",
        "",
        "Word errors against what was said, and against the same recording in one piece. *Shown* "
        "is how much of the audio reaches the model.",
    ]
    for title, found in tables.items():
        lines += [
            "",
            f"{title}, {found[0].words} words:",
            "",
            "| heard | WER % | errors | other words than in one piece | shown % |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        lines += [
            f"| {row.name} | {100 * row.errors / row.words:.2f} | {row.errors} "
            f"| {row.differing} | {100 * row.heard_share:.0f} |"
            for row in found
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Words with and without gating.")
    parser.add_argument("--write", type=Path, metavar="DOCUMENT")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, singles = load_silero(), recordings()
    sets = {
        "Each recording a session": judged(singles, model),
        f"{IN_A_ROW} recordings in a row": judged(in_a_row(singles), model),
    }
    text = report({title: rows(talks) for title, talks in sets.items()})
    print(text)
    if arguments.write:
        write_section(arguments.write, "gating", text)


if __name__ == "__main__":
    main()

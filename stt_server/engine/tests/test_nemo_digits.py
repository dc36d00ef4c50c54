"""The engine room with a real model: what it hears is what NeMo heard of the same files."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import soundfile
import torch

import nemo_lite
from stt_server.engine import nemo_batch
from stt_server.engine.base import StreamOptions
from stt_server.engine.nemo import NemoEngine
from stt_server.engine.nemo_batch import FRAME_MS, NemoBatch, nearest_lookahead
from stt_server.engine.nemo_messages import HeardTurn
from stt_server.engine.nemo_source import capacity
from stt_server.engine.select import make_engine
from stt_server.events import SAMPLE_RATE, Audio, Transcript, Word
from stt_server.settings import DecoderName, Dtype, EngineName, NemoSettings, Settings

# The model is tiny: a second thread costs more than it brings.
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[4] / "shared"
MODEL = SHARED / "models/digits-streaming.nemo"
FILES = sorted((SHARED / "audio/digits").glob("p*.flac"))

needs_digits = pytest.mark.skipif(not MODEL.is_file(), reason="../shared/models is absent")


async def heard(
    engine: NemoEngine, path: Path, *, lookahead: int, packet: int, at: int = 0
) -> tuple[Word, ...]:
    """The words of one file that is one turn, pushed as fast as the engine takes it."""
    samples, _ = soundfile.read(path, dtype="float32")
    stream = await engine.open(StreamOptions(lookahead_ms=lookahead * FRAME_MS))
    for start in range(0, len(samples), packet):
        await stream.push(Audio(at + start, samples[start : start + packet], speech=True))
    final = await stream.end_turn()
    await stream.close()
    return final.words


@needs_digits
@pytest.mark.parametrize("dtype", ["float32", "int8"])
async def test_streams_of_all_lookaheads_in_one_batch_give_nemos_words(dtype: str) -> None:
    if dtype == "int8":
        pytest.importorskip("nemo_lite_cpu", reason="int8 needs nemo-lite-cpu")
    expected = json.loads((MODEL.parent / "digits-expected.json").read_text())["files"]
    settings = Settings(
        model=EngineName.PARAKEET_EOU,
        nemo=NemoSettings(checkpoint=str(MODEL)),
        device="cpu",
        dtype=Dtype(dtype),
        max_streams=8,
        lookahead_ms=0,
    )
    engine = make_engine(settings)
    assert isinstance(engine, NemoEngine)
    await engine.start()
    try:
        cases = [
            (path, lookahead, packet)
            for path, lookahead, packet in zip(
                FILES,
                (13, 6, 1, 0) * 2,
                (160, 320, 800, 1_111, 1_600, 4_000, 160, 77),
                strict=False,
            )
        ]
        found = await asyncio.gather(
            *(
                heard(engine, path, lookahead=lookahead, packet=packet, at=1_000 * index)
                for index, (path, lookahead, packet) in enumerate(cases)
            )
        )
    finally:
        await engine.stop()
    for index, ((path, lookahead, _), words) in enumerate(zip(cases, found, strict=True)):
        reference = expected[path.name]["offline"][str(lookahead)]["rnnt"]
        assert " ".join(word.text for word in words) == reference["text"].replace("<EOU>", "")
        begins = [(word.start - 1_000 * index) / SAMPLE_RATE for word in words]
        frames = [
            frame
            for frame, piece in zip(reference["frames"], reference["ids"], strict=True)
            if piece in WORD_BEGINS
        ]
        assert begins == pytest.approx([frame * 0.08 for frame in frames], abs=1e-3)


def ungated(decoder: DecoderName) -> Settings:
    return Settings(
        model=EngineName.PARAKEET_EOU,
        nemo=NemoSettings(checkpoint=str(MODEL), gating=False),
        device="cpu",
        dtype=Dtype.FLOAT32,
        max_streams=8,
        lookahead_ms=0,
        decoder=decoder,
    )


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[NemoEngine]:
    engine = make_engine(settings)
    assert isinstance(engine, NemoEngine)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def say_turns(
    engine: NemoEngine, path: Path, lookahead: int, turns: list[tuple[int, int]]
) -> list[Transcript]:
    """The finals of a file with turns in these spans; each has a pause before its end."""
    samples, _ = soundfile.read(path, dtype="float32")
    stream = await engine.open(StreamOptions(lookahead_ms=lookahead * FRAME_MS))
    finals: list[Transcript] = []
    at = 0
    for start, end in turns:
        pause = end - SAMPLE_RATE // 5
        for until, speech in ((start, False), (pause, True), (end, True)):
            while at < until:
                packet = samples[at : min(at + 2_000, until)]
                await stream.push(Audio(at, packet, speech=speech))
                at += len(packet)
            if at == pause:
                await stream.pause()
        finals.append(await stream.end_turn())
    await stream.close()
    return finals


@needs_digits
@pytest.mark.parametrize("decoder", DecoderName)
async def test_without_gating_words_and_ids_are_those_of_the_whole_file(
    decoder: DecoderName,
) -> None:
    expected = json.loads((MODEL.parent / "digits-expected.json").read_text())["files"]
    cases = [(path, lookahead) for path in FILES for lookahead in (1, 6)]
    places = asyncio.Semaphore(8)

    async def final(engine: NemoEngine, path: Path, lookahead: int) -> Transcript:
        async with places:
            length = soundfile.info(path).frames
            (heard,) = await say_turns(engine, path, lookahead, [(0, length)])
            return heard

    async with serving(ungated(decoder)) as engine:
        found = await asyncio.gather(*(final(engine, *case) for case in cases))
    assert len(found) == 80
    for (path, lookahead), heard in zip(cases, found, strict=True):
        reference = expected[path.name]["offline"][str(lookahead)][decoder]
        assert [token.id for token in heard.tokens] == reference["ids"]
        spelled = " ".join(word.text for word in heard.words).split()
        assert spelled == reference["text"].replace("<EOU>", " ").split()


@needs_digits
async def test_without_gating_turns_add_up_to_the_whole_file() -> None:
    expected = json.loads((MODEL.parent / "digits-expected.json").read_text())["files"]
    manifest = (MODEL.parents[1] / "audio/digits/manifest.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in manifest]
    entries = [entry for entry in entries if entry["kind"] in ("dialogue", "long")][::2]
    assert len(entries) > 3
    async with serving(ungated(DecoderName.RNNT)) as engine:
        for entry in entries:
            path = MODEL.parents[1] / "audio/digits" / entry["file"]
            begins = [turn["start"] - 0.3 for turn in entry["turns"]]
            # A turn that is followed by silence ends there; the others go on.
            ends = [
                turn["end"] + 0.6
                for turn, begin in zip(entry["turns"], [*begins[1:], 1e9], strict=True)
                if begin - turn["end"] > 0.6
            ]
            ends[-1] = soundfile.info(path).duration
            begins = [max(0, begins[0]), *ends[:-1]]
            spans = [
                (round(begin * SAMPLE_RATE), round(end * SAMPLE_RATE))
                for begin, end in zip(begins, ends, strict=True)
            ]
            finals = await say_turns(engine, path, 1, spans)
            reference = expected[path.name]["offline"]["1"]["rnnt"]
            assert [t.id for final in finals for t in final.tokens] == reference["ids"]
            words = [word.text for final in finals for word in final.words]
            assert words == reference["text"].replace("<EOU>", " ").split()
            assert len(finals) > 1


WORD_BEGINS = {1, 3, 4, 5, 6, 8, 12, 16, 17, 21, 23, 25, 26}
"""The model's pieces that begin a word."""


MEMORY = 600


class PacedBatch:
    """Steps that take a fixed time and some more per stream."""

    def __init__(self, slots: int, *, fixed: float, each: float) -> None:
        self.slots = slots
        self._pace = 1 / (fixed + each * slots)

    def fill(self) -> float:
        if self.slots > MEMORY:
            raise RuntimeError("out of memory")
        return self._pace


@pytest.mark.parametrize(
    ("fixed", "each", "most", "expected"),
    [
        (0.1, 0.01, 512, 70),
        (0.1, 0.01, 50, 50),
        (0.1, 0.0, 100, 100),
        (0.1, 0.1, 512, 7),
        (5.0, 1.0, 512, 1),
        (0.0, 0.8, 512, 1),
        (0.1, 0.0, 2_000, 512),
    ],
)
def test_capacity_is_what_fits_into_a_chunk(
    fixed: float, each: float, most: int, expected: int
) -> None:
    size = capacity(partial(PacedBatch, fixed=fixed, each=each), most=most)
    assert size == pytest.approx(expected, abs=1)
    assert size <= most


@needs_digits
def test_long_turns_are_settled_without_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nemo_batch, "LONG_TURN", 6)
    monkeypatch.setattr(nemo_batch, "KEPT_WORDS", 2)
    model = nemo_lite.load(MODEL)
    batch, plain = NemoBatch(model, slots=1), model.streams(1)
    slot, reference = batch.open(None, None), plain.open(lookahead=1)
    for path in FILES[:4]:
        samples, _ = soundfile.read(path, dtype="float32")
        batch.push(slot, samples)
        plain.push(reference, samples)
        while batch.ready:
            batch.step()
            batch.turn(slot)
        while plain.ready:
            plain.step()
    words = batch.turn(slot).words
    expected = plain.transcript(reference).words
    assert len(expected) > 12
    assert [word.text for word in words] == [word.text for word in expected]
    assert [word.start for word in words] == [round(w.start * SAMPLE_RATE) for w in expected]
    assert [word.end for word in words] == [round(w.end * SAMPLE_RATE) for w in expected]
    assert [token.id for token in batch.turn(slot).tokens] == list(
        plain.transcript(reference).token_ids
    )
    batch.end_turn(slot, undecoded=False)
    assert batch.turn(slot) == HeardTurn()


@needs_digits
def test_lookaheads_shorter_than_the_servers_are_not_offered() -> None:
    batch = NemoBatch(nemo_lite.load(MODEL), slots=1, lookahead_ms=480)
    assert batch.lookaheads_ms == (1_040, 480)


@pytest.mark.parametrize(
    ("wanted", "expected"), [(0, 0), (80, 1), (100, 1), (320, 6), (270, 1), (9_000, 13)]
)
def test_lookaheads_are_the_nearest_that_the_model_has(wanted: int, expected: int) -> None:
    assert nearest_lookahead((13, 6, 1, 0), wanted) == expected

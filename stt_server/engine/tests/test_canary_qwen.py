"""Canary-Qwen as an engine, with the tiny checkpoint of the goldens."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from nemo_lite import results
from nemo_lite.errors import DownloadError
from nemo_lite.tests.fake_hub import FakeHub, running
from stt_server.engine.base import EngineUnavailable, SegmentEngine, StreamOptions, SupervisedEngine
from stt_server.engine.canary_qwen import CanaryQwenEngine, CanaryQwenSource, to_transcript
from stt_server.engine.downloads import Downloads
from stt_server.errors import Overloaded
from stt_server.events import SAMPLE_RATE, Audio
from stt_server.settings import ModelSettings, Settings

SALM = Path(__file__).resolve().parents[3] / "../shared/goldens/salm"
TINY = SALM / "canary_qwen_model"

pytest.importorskip("torch")
from nemo_lite.salm.requests import RequestBatch  # noqa: E402

needs_checkpoint = pytest.mark.skipif(not TINY.exists(), reason="shared goldens are not here")


def settings(**fields: object) -> Settings:
    values: dict[str, object] = {
        "model": "canary-qwen",
        "device": "cpu",
        "dtype": "float32",
        "canary_qwen": {"checkpoint": str(TINY), "slots": 2},
    }
    return Settings.model_validate(values | fields)


@asynccontextmanager
async def engine(**fields: object) -> AsyncGenerator[CanaryQwenEngine]:
    made = CanaryQwenEngine(settings(**fields))
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


def clip() -> Audio:
    samples, _ = soundfile.read(SALM / "canary_qwen_0.wav", dtype="float32")
    return Audio(3 * SAMPLE_RATE, samples, speech=True)


@needs_checkpoint
async def test_speech_becomes_words_at_their_places_in_the_stream() -> None:
    async with engine() as made:
        assert isinstance(made, SegmentEngine)
        assert isinstance(made, SupervisedEngine)
        assert made.fault is None
        assert made.max_segment_samples == 40 * SAMPLE_RATE
        audio = clip()
        heard = await made.transcribe(audio, StreamOptions())
        await made.check()

    assert " ".join(word.text for word in heard.words) == "The captain opened a wooden door."
    borders = [at for word in heard.words for at in (word.start, word.end)]
    assert borders == sorted(borders)
    assert audio.start <= borders[0]
    assert borders[-1] <= audio.end
    assert heard.estimated_times
    assert heard.stable == len(heard.words)


@needs_checkpoint
async def test_silence_has_no_words() -> None:
    async with engine() as made:
        silence = Audio(0, np.zeros(SAMPLE_RATE, dtype=np.float32), speech=True)
        assert (await made.transcribe(silence, StreamOptions())).words == ()


@needs_checkpoint
async def test_capacity_follows_from_the_slots() -> None:
    async with engine() as made:
        assert made.info.capacity == 8


@needs_checkpoint
async def test_stopped_engine_takes_nothing() -> None:
    async with engine() as made:
        pass
    with pytest.raises(Overloaded):
        await made.transcribe(clip(), StreamOptions())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"canary_qwen": {"checkpoint": "/nowhere/at/all"}}, "/nowhere/at/all"),
        ({"models": {"offline": True, "cache_dir": "/nowhere"}, "canary_qwen": {}}, "switched off"),
        ({"device": "mps"}, "mps"),
    ],
)
async def test_what_is_missing_is_said_in_one_sentence(
    fields: dict[str, object], said: str
) -> None:
    with pytest.raises(EngineUnavailable, match=said):
        async with engine(**fields):
            pass


@needs_checkpoint
async def test_model_that_does_not_fit_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemo_lite.salm.memory.available_bytes", lambda _: 1_000)

    with pytest.raises(EngineUnavailable, match="GB are free"):
        async with engine():
            pass


@needs_checkpoint
async def test_batch_is_prepared_before_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    add = RequestBatch.add

    def recorded(batch: RequestBatch, samples: NDArray[np.float32]) -> int:
        calls.append("add")
        return add(batch, samples)

    monkeypatch.setattr(RequestBatch, "prepare", lambda _: calls.append("prepare"))
    monkeypatch.setattr(RequestBatch, "add", recorded)
    async with engine():
        assert calls == ["prepare", "add"]


@needs_checkpoint
def test_later_batches_are_as_large_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    source = CanaryQwenSource(settings(canary_qwen={"checkpoint": str(TINY)}))
    first = source.open(lambda: False)
    assert first.slots > 1

    monkeypatch.setattr("nemo_lite.salm.memory.available_bytes", lambda _: 0)

    assert source.open(lambda: False).slots == first.slots


@needs_checkpoint
def test_memory_of_the_model_that_failed_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    source = CanaryQwenSource(settings())
    source.open(lambda: False)
    source.discard()
    kept = [True]
    monkeypatch.setattr("nemo_lite.salm.memory.release_unused", kept.clear)
    monkeypatch.setattr("nemo_lite.salm.memory.available_bytes", lambda _: 0 if kept else 10**12)

    assert source.open(lambda: False).slots == 2


def test_times_become_positions_in_the_stream() -> None:
    word = results.Word("yes", 0.5, 0.75, 0.9)
    found = results.Transcript("yes", (word,), (1,), (0.5,), (0.9,), language="en-US")

    transcript = to_transcript(found, at=1_000)

    assert (transcript.words[0].start, transcript.words[0].end) == (9_000, 13_000)
    assert transcript.words[0].confidence == 0.9
    assert (transcript.stable, transcript.language) == (1, "en-US")
    assert not transcript.estimated_times


# Downloads


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    monkeypatch.setenv("no_proxy", "*")
    return FakeHub(files={"tiny.nemo": bytes(100_000)})


def test_download_is_told_in_the_log(
    hub: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with running(hub):
        models = ModelSettings(endpoint=hub.url, cache_dir=tmp_path)
        path = Downloads(models, lambda: False).checkpoint("acme/tiny")

    assert path.read_bytes() == hub.files["tiny.nemo"]
    told = [record for record in caplog.records if record.message == "model.downloading"]
    assert told
    assert told[0].__dict__["source"] == "acme/tiny"


def test_download_ends_when_the_server_does(hub: FakeHub, tmp_path: Path) -> None:
    with running(hub):
        downloads = Downloads(ModelSettings(endpoint=hub.url, cache_dir=tmp_path), lambda: True)
        with pytest.raises(DownloadError, match="shutting down"):
            downloads.checkpoint("acme/tiny")

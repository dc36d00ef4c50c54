"""Canary-Qwen as its users see it: recordings in, transcripts out."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from numpy.typing import NDArray

import nemo_lite
from nemo_lite import (
    CanaryQwen,
    CheckpointError,
    RecognitionError,
    ShapeError,
    UnsupportedError,
)
from nemo_lite.number_formats import DtypeName
from nemo_lite.salm.tests.tiny import CONFIG, noise, tiny_network, tiny_tokenizer
from nemo_lite.tests.goldens import GOLDENS, Case, load_case, needs_goldens

RATE = 16_000
TINY = GOLDENS / "salm" / "canary_qwen_model"


def tiny() -> CanaryQwen:
    return CanaryQwen(CONFIG, tiny_network(), tiny_tokenizer())


def recordings() -> list[NDArray[np.float32]]:
    """Of mixed lengths, one of them silent, one longer than the window."""
    lengths = (2.0, 0.4, 7.0, 3.0, 45.0, 1.0)
    found = [noise(seconds, seed=seed) for seed, seconds in enumerate(lengths)]
    found[3] *= 0
    return found


@pytest.fixture(scope="module")
def golden() -> CanaryQwen:
    return CanaryQwen.load(TINY)


def case() -> Case:
    return load_case("salm", "canary_qwen")


def wavs() -> list[Path]:
    return [GOLDENS / "salm" / name for name in case().inputs["wavs"]]


@needs_goldens
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_recording_has_the_tokens_that_nemo_generates(golden: CanaryQwen, index: int) -> None:
    prompt = case().inputs["prompts"][index]
    (transcript,) = golden.transcribe(wavs()[index], prompt=prompt)
    assert list(transcript.token_ids) == case().expected["generated_single"][index][:-1]
    assert transcript.text == case().expected["texts_single"][index]
    assert [word.text for word in transcript.words] == transcript.text.split()


@needs_goldens
def test_a_batch_of_requests_has_the_tokens_that_nemo_generates(golden: CanaryQwen) -> None:
    batch = golden.requests(slots=3)
    numbers = {
        batch.add(soundfile.read(wav, dtype="float32")[0], prompt=prompt): index
        for index, (wav, prompt) in enumerate(zip(wavs(), case().inputs["prompts"], strict=True))
    }
    found: dict[int, list[int]] = {}
    while batch.active or batch.waiting:
        for number, transcript in batch.step():
            assert isinstance(transcript, nemo_lite.Transcript)
            found[numbers[number]] = list(transcript.token_ids)
    expected = [
        ids[: ids.index(golden.tokenizer.eos_id)] for ids in case().expected["generated_batch"]
    ]
    assert [found[index] for index in range(3)] == expected


@needs_goldens
def test_words_lie_within_the_recording_and_say_how_sure_they_are(golden: CanaryQwen) -> None:
    seconds = soundfile.info(wavs()[1]).duration
    (transcript,) = golden.transcribe(wavs()[1])
    starts = [word.start for word in transcript.words]
    assert starts == sorted(starts)
    assert all(0 <= word.start < word.end <= seconds for word in transcript.words)
    assert all(0 < word.confidence <= 1 for word in transcript.words)
    assert transcript.estimated_times


@needs_goldens
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_narrow_formats_write_the_same_text(dtype: DtypeName) -> None:
    if dtype == "int8":
        pytest.importorskip("nemo_lite_cpu")
    model = CanaryQwen.load(TINY, dtype=dtype)
    (transcript,) = model.transcribe(wavs()[2])
    assert transcript.text == case().expected["texts_single"][2]


def test_a_batch_gives_what_each_recording_gives_alone_in_the_order_given() -> None:
    model = tiny()
    together = model.transcribe(recordings())
    alone = [tiny().transcribe(samples)[0] for samples in recordings()]
    assert [t.token_ids for t in together] == [t.token_ids for t in alone]
    assert [t.words for t in together] == [
        tuple(
            nemo_lite.Word(w.text, w.start, w.end, pytest.approx(w.confidence, abs=1e-4))
            for w in t.words
        )
        for t in alone
    ]
    assert all(t.token_ids for index, t in enumerate(together) if index != 3)


def test_silence_has_no_text() -> None:
    (transcript,) = tiny().transcribe(np.zeros(5 * RATE, np.float32))
    assert transcript == nemo_lite.Transcript("", (), (), (), (), estimated_times=True)


def test_no_recordings_have_no_transcripts() -> None:
    assert tiny().transcribe([]) == []


def test_an_empty_recording_has_an_empty_transcript() -> None:
    (transcript,) = tiny().transcribe(np.zeros(0, np.float32))
    assert (transcript.text, transcript.words) == ("", ())


def test_rates_and_sample_types_are_converted() -> None:
    samples = (noise(2) * 32_767).astype(np.int16)
    (expected,) = tiny().transcribe(samples.astype(np.float32) / 32_768)
    assert tiny().transcribe(torch.from_numpy(samples))[0].token_ids == expected.token_ids
    fast = soxr.resample(samples.astype(np.float32) / 32_768, RATE, 48_000)
    assert (
        tiny().transcribe(fast, sample_rate=48_000)[0].token_ids
        == tiny().transcribe(soxr.resample(fast, 48_000, RATE))[0].token_ids
    )


def test_a_prompt_of_ones_own_changes_what_is_written() -> None:
    model = tiny()
    assert model.transcribe(noise(3))[0] != model.transcribe(noise(3), prompt="we hear")[0]


def test_the_window_is_40_s_at_the_models_rate() -> None:
    assert tiny().max_samples == 40 * RATE


def test_a_batch_that_failed_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    (expected,) = model.transcribe(noise(2))

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(model._network.llm, "forward", fail)
        with pytest.raises(MemoryError):
            model.transcribe([noise(2), noise(1)])
    assert model.transcribe(noise(2))[0] == expected


def test_a_result_that_is_not_finite_is_an_error_not_a_text() -> None:
    model = tiny()
    (expected,) = model.transcribe(noise(2))
    embedding = model._network.embed_tokens.weight
    token = model.tokenizer.prompt("we hear").before[-1]
    before = embedding[token].clone()
    embedding[token] = torch.inf
    with pytest.raises(RecognitionError, match="not finite"):
        model.transcribe([noise(2), noise(1)], prompt="we hear")
    embedding[token] = before
    assert model.transcribe(noise(2))[0] == expected


def test_a_prepared_batch_gives_the_same() -> None:
    model = tiny()
    batch = model.requests(slots=2)
    batch.prepare()
    number = batch.add(noise(2))
    found: dict[int, object] = {}
    while not found:
        found = dict(batch.step())
    assert found == {number: model.transcribe(noise(2))[0]}


def test_a_refused_recording_leaves_the_model_as_it_was() -> None:
    model = tiny()
    (expected,) = model.transcribe(noise(2))
    with pytest.raises(ValueError, match="no room"):
        model.transcribe([noise(2), noise(1)], prompt="we hear the rain " * 500)
    with pytest.raises(ShapeError):
        model.transcribe([noise(2), np.full(100, np.nan, np.float32)])
    assert model.transcribe(noise(2))[0] == expected


@pytest.mark.parametrize("slots", [0, -1])
def test_a_batch_without_slots_is_refused(slots: int) -> None:
    with pytest.raises(ShapeError, match="slots"):
        tiny().requests(slots)


def test_formats_that_do_not_exist_are_refused_before_anything_is_read() -> None:
    with pytest.raises(UnsupportedError, match="float64"):
        CanaryQwen.load("/nowhere", dtype="float64")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="xpu"):
        CanaryQwen.load("/nowhere", device="xpu")


def test_a_folder_of_another_kind_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError):
        CanaryQwen.load(tmp_path)


@pytest.mark.parametrize("name", ["canary-qwen", "nvidia/canary-qwen-2.5b"])
def test_the_other_loader_names_this_class_before_it_downloads(name: str) -> None:
    with pytest.raises(UnsupportedError, match=r"CanaryQwen\.load"):
        nemo_lite.load(name)


@needs_goldens
def test_the_other_loader_names_this_class_for_a_folder() -> None:
    with pytest.raises(CheckpointError, match=r"CanaryQwen\.load"):
        nemo_lite.load(TINY)

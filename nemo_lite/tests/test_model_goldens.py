"""Whole models against what NeMo made of the same files."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

import nemo_lite
from nemo_lite.decoding import RnntDecoder
from nemo_lite.model import DecoderName, Model
from nemo_lite.results import Marker
from nemo_lite.tests.goldens import GOLDENS, SHARED, case_names, needs_goldens, needs_models

NEMO_FILES = GOLDENS / "nemo_files"
DIGITS = SHARED / "audio" / "digits"


@cache
def model_of(path: Path) -> Model:
    return nemo_lite.load(path)


def expected_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["expected"]


def streamed(
    model: Model,
    samples: NDArray[np.float32],
    lookahead: int,
    decoder: DecoderName | None = None,
    packet: int = 1_111,
) -> nemo_lite.Transcript:
    """One stream beside an idle one, in packets."""
    batch = model.streams(2, decoder=decoder)
    batch.open()
    slot = batch.open(lookahead=lookahead)
    for at in range(0, len(samples), packet):
        batch.push(slot, samples[at : at + packet])
        batch.step()
    batch.finish(slot)
    while batch.ready:
        batch.step()
    return batch.transcript(slot)


def frames_of(transcript: nemo_lite.Transcript, model: Model) -> list[int]:
    return [round(time / model.config.frame_seconds) for time in transcript.token_times]


@needs_goldens
@pytest.mark.parametrize("name", case_names("nemo_files"))
def test_nemo_file_gives_nemos_tokens_at_every_lookahead(name: str) -> None:
    model = model_of(NEMO_FILES / f"{name}.nemo")
    samples, _ = soundfile.read(NEMO_FILES / f"{name}.wav", dtype="float32")
    for entry in expected_of(NEMO_FILES / f"{name}.json")["lookaheads"]:
        lookahead, offline = entry["att_context_size"][1], entry["offline"]
        whole = model.transcribe(NEMO_FILES / f"{name}.wav", lookahead=lookahead)[0]
        live = streamed(model, samples, lookahead)
        for found in (whole, live):
            assert list(found.token_ids) == offline["tokens"]
            assert frames_of(found, model) == offline["frames"]
            for marker in Marker:
                offline["text"] = offline["text"].replace(marker, "")
            assert found.text.split() == offline["text"].split()
        # What NeMo streams with its short first chunk differs at look-ahead 0 at most in rounding.
        assert list(live.token_ids) == entry["short_first"]["tokens"]
        if "offline_ctc" in entry:
            whole = model.transcribe(samples, lookahead=lookahead, decoder="ctc")[0]
            live = streamed(model, samples, lookahead, "ctc")
            assert whole.text == live.text == entry["offline_ctc"]["text"]
            assert whole.token_ids == live.token_ids


@needs_goldens
@pytest.mark.parametrize("name", case_names("nemo_files"))
def test_nemo_file_gives_nemos_encoder_frames(name: str) -> None:
    model = model_of(NEMO_FILES / f"{name}.nemo")
    network = model._network
    tensors = nemo_tensors(name)
    samples, _ = soundfile.read(NEMO_FILES / f"{name}.wav", dtype="float32")
    with torch.inference_mode():
        mel, lengths = network.preprocessor(
            torch.from_numpy(samples)[None], torch.tensor([len(samples)])
        )
        for entry in expected_of(NEMO_FILES / f"{name}.json")["lookaheads"]:
            found, _ = network.encoder(mel, lengths, lookahead=entry["att_context_size"][1])
            expected = tensors[f"out.{entry['name']}.encoded"].transpose(1, 2)
            found = found[:, : expected.shape[1]]
            torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def nemo_tensors(name: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(NEMO_FILES / f"{name}.safetensors")


@needs_goldens
def test_eou_is_an_update_of_its_own_kind() -> None:
    model = model_of(NEMO_FILES / "parakeet_eou.nemo")
    samples, _ = soundfile.read(NEMO_FILES / "parakeet_eou.wav", dtype="float32")
    batch = model.streams(1)
    slot = batch.open()
    batch.push(slot, samples)
    batch.finish(slot)
    markers: list[Marker] = []
    text = ""
    while batch.ready:
        for update in batch.step():
            text += update.text
            markers += [update.marker] if update.marker else []
    assert Marker.END_OF_UTTERANCE in markers
    assert "<" not in text
    eou = model.tokenizer.id_of("<EOU>")
    assert eou in batch.transcript(slot).token_ids


@needs_goldens
@pytest.mark.parametrize("run", range(3))
def test_nemos_production_windows_give_nemos_production_tokens(run: int) -> None:
    """From the features NeMo's pipeline feeds: -16.6 in front, two frames always dropped.

    The stored windows hold its deviations from the whole file; `streams()` does not repeat them.
    """
    case = json.loads((GOLDENS / "pipeline" / "cache_aware_rnnt.json").read_text())
    entry = case["expected"]["runs"][run]
    model = model_of((GOLDENS / "pipeline" / case["inputs"]["nemo"]).resolve())
    samples, _ = soundfile.read(GOLDENS / "pipeline" / case["inputs"]["wav"], dtype="float32")
    found = production_tokens(model, samples, case["inputs"]["streams"], entry)
    for stream, final in entry["final"].items():
        assert found[int(stream)] == final["tokens"]
        first, last, _ = case["inputs"]["streams"][int(stream)]
        lookahead = entry["att_context_size"][1]
        live = streamed(model, samples[first:last], lookahead)
        whole = model.transcribe(samples[first:last], lookahead=lookahead)[0]
        assert live.token_ids == whole.token_ids
        # NeMo's pipeline drops the tail: where a stream ends within a word it has fewer tokens.
        assert list(live.token_ids)[: len(final["tokens"])] == final["tokens"]


@torch.inference_mode()
def production_tokens(
    model: Model, samples: NDArray[np.float32], streams: list[list[int]], entry: dict[str, Any]
) -> list[list[int]]:
    """Run the recorded calls on windows built as README section 3 describes them."""
    from safetensors.torch import load_file

    stored = load_file(GOLDENS / "pipeline" / "cache_aware_rnnt.safetensors")
    network, size = model._network, entry["chunk_samples"]
    context = model.config.encoder.context(entry["att_context_size"][1])
    assert context is not None
    positions = network.encoder.positions(context, context.chunk_frames)
    cache = network.encoder.new_cache(len(streams))
    decoder = RnntDecoder(network.decoder, network.joint, max_symbols=model.config.max_symbols)
    state = decoder.new_state(len(streams))
    silence = float(np.log(model.config.preprocessor.log_guard))
    new = 8 * context.chunk_frames
    buffers = torch.full((len(streams), model.config.preprocessor.n_mels, 9 + new), silence)
    tokens: list[list[int]] = [[] for _ in streams]
    for index, call in enumerate(entry["calls"]):
        rows = torch.tensor(call["stream_ids"])
        for stream, first in zip(call["stream_ids"], call["first_sample"], strict=True):
            start, end, _ = streams[stream]
            audio = torch.from_numpy(samples[start:end])
            mel = production_mel(model, audio, first, size)
            buffers[stream] = torch.cat((buffers[stream], mel), dim=1)[:, -(9 + new) :]
        window, lengths = buffers[rows], torch.tensor(call["feature_lengths"])
        for row, length in enumerate(call["feature_lengths"]):
            window[row, :, length:] = 0
        key = f"out.{entry['name']}.call{index}.features"
        if key in stored:
            torch.testing.assert_close(window, stored[key], atol=2e-3, rtol=1e-4)
        x, frames = network.encoder.pre_encode(window, lengths)
        encoded = network.encoder.advance(x[:, 2:], frames - 2, cache, rows, context, positions)
        decoded = decoder.decode(encoded, frames - 2, state, rows)
        for stream, row, count in zip(
            call["stream_ids"], decoded.tokens.tolist(), decoded.counts.tolist(), strict=True
        ):
            tokens[stream] += row[:count]
        assert [tokens[stream] for stream in call["stream_ids"]] == call["tokens_so_far"]
    return tokens


def production_mel(model: Model, audio: torch.Tensor, first: int, size: int) -> torch.Tensor:
    """NeMo's chunk-wise features: 160 samples of look-back, borders miss their neighbours."""
    chunk = torch.zeros(160 + size)
    before = audio[max(0, first - 160) : first]
    chunk[160 - len(before) : 160] = before
    now = audio[first : first + size]
    chunk[160 : 160 + len(now)] = now
    mel, _ = model._network.preprocessor(chunk[None], torch.tensor([len(chunk)]))
    return mel[0, :, 1 : 1 + size // 160]


@cache
def digits_expected() -> dict[str, Any]:
    return json.loads((SHARED / "models" / "digits-expected.json").read_text())


@needs_models
@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
@pytest.mark.parametrize("lookahead", [13, 6, 1, 0])
def test_digits_are_recognised_as_nemo_does(lookahead: int, decoder: DecoderName) -> None:
    model = model_of(SHARED / "models" / "digits-streaming.nemo")
    files = digits_expected()["files"]
    found = model.transcribe([DIGITS / f for f in files], lookahead=lookahead, decoder=decoder)
    for transcript, entry in zip(found, files.values(), strict=True):
        expected = entry["offline"][str(lookahead)][decoder]
        assert list(transcript.token_ids) == expected["ids"]
        assert frames_of(transcript, model) == expected["frames"]
        assert transcript.text == expected["text"].replace("<EOU>", "").strip()


@needs_models
@pytest.mark.parametrize("lookahead", [13, 6, 1, 0])
def test_digits_streamed_together_equal_the_whole_files(lookahead: int) -> None:
    model = model_of(SHARED / "models" / "digits-streaming.nemo")
    files = list(digits_expected()["files"].items())[:16]
    batch = model.streams(len(files))
    audio = [soundfile.read(DIGITS / name, dtype="float32")[0] for name, _ in files]
    for samples in audio:
        batch.push(batch.open(lookahead=lookahead), samples[: len(samples) // 2])
    batch.step()
    for slot, samples in enumerate(audio):
        batch.push(slot, samples[len(samples) // 2 :])
        batch.finish(slot)
    while batch.ready:
        batch.step()
    for slot, (_, entry) in enumerate(files):
        expected = entry["offline"][str(lookahead)]["rnnt"]
        assert list(batch.transcript(slot).token_ids) == expected["ids"]

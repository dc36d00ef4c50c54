"""Canary-Qwen against what NeMo computed with the same checkpoint."""

from functools import cache

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from nemo_lite.salm.adapters import merged
from nemo_lite.salm.checkpoint import SalmCheckpoint, load_network, read_salm
from nemo_lite.salm.network import SalmNetwork
from nemo_lite.salm.tests.reference import greedy, request_rows
from nemo_lite.salm.tokenizer import PromptIds
from nemo_lite.tests.goldens import GOLDENS, Case, case_names, load_case, needs_goldens

pytestmark = needs_goldens
each_case = pytest.mark.parametrize("name", case_names("salm"))

ENCODER = 2e-4
LOGITS = 5e-4


@cache
def case(name: str) -> Case:
    return load_case("salm", name)


def checkpoint(name: str) -> SalmCheckpoint:
    return read_salm(GOLDENS / "salm" / case(name).inputs["model"])


@cache
def network(name: str) -> SalmNetwork:
    return load_network(checkpoint(name), device="cpu", dtype=torch.float32)


def waveforms(name: str) -> list[Tensor]:
    files = [GOLDENS / "salm" / file for file in case(name).inputs["wavs"]]
    return [torch.from_numpy(soundfile.read(file, dtype=np.float32)[0]) for file in files]


def prompts(name: str) -> list[PromptIds]:
    tokenizer = checkpoint(name).tokenizer
    return [tokenizer.prompt(text) for text in case(name).inputs["prompts"]]


def padded(rows: list[list[int]], size: int, fill: int) -> list[list[int]]:
    return [row + [fill] * (size - len(row)) for row in rows]


@each_case
def test_prompts_have_nemos_token_ids(name: str) -> None:
    tokenizer, expected = checkpoint(name).tokenizer, case(name).expected

    assert tokenizer.audio_id == expected["special"]["audio_locator_tag_id"]
    assert (tokenizer.eos_id, tokenizer.pad_id) == (
        expected["special"]["eos_id"],
        expected["special"]["pad_id"],
    )
    assert [
        [*prompt.before, tokenizer.audio_id, *prompt.after] for prompt in prompts(name)
    ] == expected["prompt_ids"]


@each_case
def test_default_prompt_is_the_one_the_model_was_trained_with(name: str) -> None:
    tokenizer = checkpoint(name).tokenizer

    assert tokenizer.prompt() == tokenizer.prompt(
        f"Transcribe the following: {tokenizer.audio_tag}"
    )


@each_case
def test_perception_gives_nemos_frames(name: str) -> None:
    expected, audio = case(name).tensors, waveforms(name)
    lengths = torch.tensor([len(waveform) for waveform in audio])
    samples = torch.nn.utils.rnn.pad_sequence(audio, batch_first=True)
    with torch.inference_mode():
        frames, counts = network(name).perception(samples, lengths)

    assert counts.tolist() == expected["out.perception_length"].tolist()
    for row, count in enumerate(counts.tolist()):
        wanted = expected["out.perception"][row, :count]
        torch.testing.assert_close(frames[row, :count], wanted, atol=ENCODER, rtol=0)


@each_case
def test_audio_takes_the_tags_place_among_the_embeddings(name: str) -> None:
    expected, masks = case(name).tensors["out.merged_embeds"], case(name).tensors["out.merged_mask"]
    rows = request_rows(network(name), waveforms(name), prompts(name))

    for row, wanted, mask in zip(rows, expected, masks, strict=True):
        torch.testing.assert_close(row, wanted[mask.bool()], atol=ENCODER, rtol=0)


@each_case
def test_first_scores_and_tokens_are_nemos_in_a_batch(name: str) -> None:
    tokenizer, expected = checkpoint(name).tokenizer, case(name).expected
    rows = request_rows(network(name), waveforms(name), prompts(name))
    steps = case(name).inputs["max_new_tokens"]
    scores, tokens = greedy(network(name), rows, end=frozenset((tokenizer.eos_id,)), steps=steps)

    wanted = case(name).tensors["out.prefill_last_logits"]
    torch.testing.assert_close(scores, wanted, atol=LOGITS, rtol=0)
    size = len(expected["generated_batch"][0])
    assert padded(tokens, size, tokenizer.pad_id) == expected["generated_batch"]


@each_case
def test_tokens_and_texts_are_nemos_one_by_one(name: str) -> None:
    tokenizer, expected = checkpoint(name).tokenizer, case(name).expected
    steps = case(name).inputs["max_new_tokens"]
    found: list[list[int]] = []
    for waveform, prompt in zip(waveforms(name), prompts(name), strict=True):
        rows = request_rows(network(name), [waveform], [prompt])
        found += greedy(network(name), rows, end=tokenizer.end_tokens, steps=steps)[1]

    assert found == expected["generated_single"]
    assert [tokenizer.decode(tokens) for tokens in found] == expected["texts_single"]
    for tokens, text in zip(found, expected["texts_single"], strict=True):
        assert [word for word, _, _ in tokenizer.word_spans(tokens)] == text.split()


@each_case
def test_merged_adapter_gives_the_adapted_projection(name: str) -> None:
    read, tensors = checkpoint(name), case(name).tensors
    weight = "llm.layers.0.self_attn.q_proj.weight"
    base = read.state[weight]
    adapted = merged(base, read.adapters[weight], read.config.lora_scale)

    assert read.config.lora_scale == case(name).expected["lora_scaling"]
    x = tensors["out.lora_in"]
    torch.testing.assert_close(x @ base.T, tensors["out.lora_base_out"], atol=1e-5, rtol=0)
    torch.testing.assert_close(x @ adapted.T, tensors["out.lora_out"], atol=1e-5, rtol=0)


@each_case
def test_adapters_are_in_the_networks_weights(name: str) -> None:
    read = checkpoint(name)
    without = {key: tensor.clone() for key, tensor in read.state.items()}
    parameters = dict(network(name).named_parameters())

    changed = {
        key
        for key, tensor in without.items()
        if key in parameters and not torch.equal(parameters[key], tensor)
    }
    assert changed == read.adapters.keys()

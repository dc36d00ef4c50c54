"""Canary-Qwen with 8-bit weights: close to float32, and exactly alone as in a batch."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from nemo_lite.errors import UnsupportedError
from nemo_lite.salm.generation import GenerationBatch
from nemo_lite.salm.int8 import quantise
from nemo_lite.salm.network import SalmNetwork
from nemo_lite.salm.tests.tiny import LLM, noise, tiny_network, tiny_tokenizer

pytest.importorskip("nemo_lite_cpu")


def quantised(dtype: torch.dtype = torch.float32) -> SalmNetwork:
    network = tiny_network().to(dtype)
    quantise(network, threads=1)
    return network


def perceived(network: SalmNetwork) -> torch.Tensor:
    samples = torch.from_numpy(noise(3.0))[None]
    with torch.inference_mode():
        frames, _ = network.perception(samples, torch.tensor([samples.shape[1]]))
    return frames


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frames_are_close_to_float32(dtype: torch.dtype) -> None:
    expected, found = perceived(tiny_network()), perceived(quantised(dtype))
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < 0.05


def test_no_float_weights_of_linear_layers_are_left() -> None:
    network = quantised()
    assert not [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert network.embed_tokens.weight.dtype == torch.bfloat16
    assert network.dtype == torch.float32
    left = sum(p.numel() for p in network.parameters() if p.ndim > 1)
    assert left < 0.3 * sum(p.numel() for p in tiny_network().parameters())


def test_untied_heads_are_packed_too() -> None:
    network = tiny_network(llm=replace(LLM, tied=False))
    x = torch.randn(3, LLM.width)
    expected = network.scores(x)
    quantise(network, threads=1)
    with torch.inference_mode():
        found = network.scores(x)
    assert float((found - expected).norm() / expected.norm()) < 0.03


def test_a_batch_writes_what_each_request_alone_does() -> None:
    network = quantised()
    prompt, ends = tiny_tokenizer().prompt(), tiny_tokenizer().end_tokens
    found: list[dict[int, tuple[int, ...]]] = []
    for slots in (1, 4):
        batch = GenerationBatch(network, slots=slots, length=96, end_tokens=ends)
        for index in range(6):
            batch.add(noise(0.4 * index, seed=index), prompt, max_new_tokens=15)
        done: dict[int, tuple[int, ...]] = {}
        while batch.active or batch.waiting:
            done |= {number: generated.tokens for number, generated in batch.step()}
        found.append(done)
    assert found[0] == found[1]
    assert any(found[0].values())


def test_steps_leave_torchs_threads_as_they_were() -> None:
    network = quantised()
    assert network.torch_threads == 1
    batch = GenerationBatch(network, slots=1, length=64, end_tokens=frozenset())
    batch.add(noise(0.5), tiny_tokenizer().prompt(), max_new_tokens=2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    batch.step()
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == 2


@pytest.mark.parametrize("threads", [0, 1000])
def test_bad_numbers_of_threads_are_refused(threads: int) -> None:
    network = tiny_network()
    with pytest.raises(UnsupportedError, match="threads"):
        quantise(network, threads=threads)
    assert perceived(network).isfinite().all()

"""The language model against `transformers`, and against itself in other passes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen3Config as ReferenceConfig
from transformers import Qwen3ForCausalLM

from nemo_lite.salm.config import Qwen3Config
from nemo_lite.salm.kv_cache import KvCache
from nemo_lite.salm.network import SalmNetwork
from nemo_lite.salm.qwen3 import Prefill, make_plan
from nemo_lite.salm.tests.tiny import CONFIG, LLM, llm_config, tiny_network

TOLERANCE = 1e-4
"""Of scores of about ±10 in float32."""

VARIANTS = {
    "tied": LLM,
    "untied": replace(LLM, tied=False),
    "one query head per key head": replace(LLM, heads=2, kv_heads=2),
    "all query heads share one key head": replace(LLM, heads=4, kv_heads=1),
    "heads wider than the model": replace(LLM, head_size=24),
    "heads narrower than the model": replace(LLM, head_size=4),
    "other constants": replace(LLM, norm_eps=1e-3, rope_theta=100.0, layers=3),
}
each_variant = pytest.mark.parametrize("llm", VARIANTS.values(), ids=VARIANTS.keys())


def reference(network: SalmNetwork) -> Qwen3ForCausalLM:
    """The same weights in `transformers`."""
    facts: dict[str, Any] = llm_config(network.llm.config)
    model = Qwen3ForCausalLM(ReferenceConfig(**facts, attn_implementation="eager"))
    state = {f"model.{name}": tensor for name, tensor in network.llm.state_dict().items()}
    state["model.embed_tokens.weight"] = network.embed_tokens.weight
    state["lm_head.weight"] = network.lm_head.weight
    model.load_state_dict(state)
    return model.to(network.dtype).eval()


def random_tokens(count: int, *, seed: int = 0) -> Tensor:
    return torch.randint(LLM.vocabulary_size, (count,), generator=torch.manual_seed(seed))


def cache_for(network: SalmNetwork, *, slots: int = 4, length: int = 40) -> KvCache:
    weights = network.llm.norm.weight
    cache = KvCache.allocate(network.llm.config, slots=slots, length=length, like=weights)
    # What an earlier request may have left.
    cache.keys.normal_(generator=torch.manual_seed(1))
    cache.values.normal_(generator=torch.manual_seed(2))
    return cache


@torch.inference_mode()
def scores(network: SalmNetwork, cache: KvCache, rows: list[Tensor], **plan: Any) -> Tensor:
    """(N, V) after one pass over tokens."""
    layout = make_plan(network.llm.config, cache, **plan)
    return network.scores(network.llm(network.embed(torch.cat(rows)), layout, cache))


@torch.inference_mode()
def expected(model: Qwen3ForCausalLM, tokens: Tensor) -> Tensor:
    """(N, V) of one request alone."""
    return model(tokens[None]).logits[0].float()


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)


@each_variant
def test_whole_prompt_gives_the_scores_of_transformers(llm: Qwen3Config) -> None:
    network, tokens = tiny_network(llm=llm), random_tokens(17)
    ours = scores(network, cache_for(network), [tokens], prefills=[Prefill(2, 0, 17)])

    close(ours, expected(reference(network), tokens))


@each_variant
def test_prompt_in_pieces_and_token_by_token_gives_the_same_scores(llm: Qwen3Config) -> None:
    network, tokens = tiny_network(llm=llm), random_tokens(17)
    cache = cache_for(network)
    ours = [
        scores(network, cache, [tokens[start:end]], prefills=[Prefill(1, start, end - start)])
        for start, end in ((0, 5), (5, 6), (6, 13))
    ]
    for at in range(13, 17):
        idle = torch.tensor([0])
        lengths = torch.tensor([cache.length, at])
        step = scores(network, cache, [idle, tokens[at : at + 1]], lengths=lengths)
        ours.append(step[1:])

    close(torch.cat(ours), expected(reference(network), tokens))


def test_requests_at_any_position_share_a_pass_without_seeing_each_other() -> None:
    network, model = tiny_network(), reference(tiny_network())
    requests = [random_tokens(count, seed=count) for count in (9, 21, 14, 6)]
    cache = cache_for(network)
    for slot, read in ((0, 8), (1, 20), (2, 4)):
        scores(network, cache, [requests[slot][:read]], prefills=[Prefill(slot, 0, read)])
    ours = scores(
        network,
        cache,
        [requests[0][8:], requests[1][20:], requests[2][4:], requests[3]],
        lengths=torch.tensor([8, 20]),
        prefills=[Prefill(2, 4, 10), Prefill(3, 0, 6)],
    )

    wanted = [expected(model, tokens) for tokens in requests]
    close(ours, torch.cat((wanted[0][8:], wanted[1][20:], wanted[2][4:], wanted[3])))


def test_reach_that_covers_all_rows_changes_nothing() -> None:
    network, tokens = tiny_network(), random_tokens(8)
    found: list[Tensor] = []
    for reach in (8, 20, None):
        cache = cache_for(network)
        scores(network, cache, [tokens[:7]], prefills=[Prefill(0, 0, 7)])
        step = scores(network, cache, [tokens[7:]], lengths=torch.tensor([7]), reach=reach)
        found.append(step)

    close(found[0], found[2])
    close(found[1], found[2])


def test_last_position_of_a_slot_can_be_used() -> None:
    network, tokens = tiny_network(), random_tokens(12)
    cache = cache_for(network, length=12)
    scores(network, cache, [tokens[:11]], prefills=[Prefill(0, 0, 11)])
    last = scores(network, cache, [tokens[11:]], lengths=torch.tensor([11]))

    close(last, expected(reference(network), tokens)[11:])


@pytest.mark.parametrize("llm", [LLM, replace(LLM, tied=False)], ids=["tied", "untied"])
def test_bfloat16_is_as_near_to_float32_as_transformers_is(llm: Qwen3Config) -> None:
    exact, tokens = tiny_network(llm=llm), random_tokens(17)
    wanted = expected(reference(exact), tokens)
    network = tiny_network(llm=llm).to(torch.bfloat16)
    theirs = (expected(reference(network), tokens) - wanted).square().mean().sqrt()
    ours = scores(network, cache_for(network), [tokens], prefills=[Prefill(0, 0, 17)]) - wanted

    assert ours.square().mean().sqrt() < 1.5 * theirs


def test_configuration_of_transformers_is_read_in_its_older_and_newer_form() -> None:
    facts = llm_config()
    newer = {key: value for key, value in facts.items() if key != "rope_theta"}
    newer["rope_parameters"] = {"rope_type": "default", "rope_theta": LLM.rope_theta}

    assert Qwen3Config.from_transformers(facts) == LLM
    assert Qwen3Config.from_transformers(newer) == LLM
    assert Qwen3Config.from_transformers(ReferenceConfig(**facts).to_dict()) == LLM
    assert CONFIG.output_width == LLM.width

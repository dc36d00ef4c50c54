"""What answers requests to Canary-Qwen in the benchmark, and how it is timed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from canary_network import PROMPT, Request
from torch import Tensor

from nemo_lite.salm.generation import GenerationBatch
from nemo_lite.salm.kv_cache import KvCache
from nemo_lite.salm.network import SalmNetwork
from nemo_lite.salm.qwen3 import Prefill, make_plan


@dataclass(slots=True)
class Run:
    """Requests answered; seconds since the first came, in the order of the requests."""

    done: list[float]
    tokens: list[tuple[int, ...]]
    begun: list[float] = field(default_factory=list[float])
    """When each came."""
    first_seconds: float = 0.0
    """Of the repetition in which the first was done soonest."""

    @property
    def total(self) -> float:
        """Seconds until the last was done."""
        return max(self.done)

    @property
    def first(self) -> float:
        """Seconds until the first was done."""
        return min(self.done)

    @property
    def waits(self) -> list[float]:
        """Seconds from coming to being done."""
        return [done - begun for done, begun in zip(self.done, self.begun, strict=True)]


class Contender(Protocol):
    """Answers requests that come at given times."""

    network: SalmNetwork

    def run(self, requests: Sequence[Request], arrivals: Sequence[float]) -> Run:
        """Answer all; `arrivals` in seconds, ascending."""
        ...


class Continuous:
    """`nemo_lite`: requests join between steps."""

    def __init__(self, network: SalmNetwork, *, slots: int, seconds: float) -> None:
        """Make room for `slots` requests of up to `seconds` of audio."""
        self.network = network
        frames = network.perception.output_frames(int(seconds * 16_000))
        length = len(PROMPT.before) + frames + len(PROMPT.after) + int(seconds * 3) + 2
        self.batch = GenerationBatch(
            network, slots=slots, length=-(-length // 64) * 64, end_tokens=frozenset()
        )

    def run(self, requests: Sequence[Request], arrivals: Sequence[float]) -> Run:
        """See `Contender`."""
        batch, count = self.batch, len(requests)
        run = Run([0.0] * count, [()] * count, list(arrivals))
        indices: dict[int, int] = {}
        start, at = time.perf_counter(), 0
        while at < count or indices:
            now = time.perf_counter() - start
            while at < count and arrivals[at] <= now:
                number = batch.add(requests[at].samples, PROMPT, max_new_tokens=requests[at].tokens)
                indices[number] = at
                at += 1
            if not indices:
                time.sleep(max(0.0, arrivals[at] - now))
            for number, generated in batch.step():
                index = indices.pop(number)
                run.done[index] = time.perf_counter() - start
                run.tokens[index] = generated.tokens
        return run


class Generate:
    """`transformers`' `generate`: waits until it is free, then answers all that have come."""

    def __init__(self, network: SalmNetwork, *, most: int) -> None:
        """Share the weights; `most` requests at once."""
        self.network = network
        self._most = most
        self._llm = shared_qwen3(network)

    def run(self, requests: Sequence[Request], arrivals: Sequence[float]) -> Run:
        """See `Contender`."""
        count = len(requests)
        run = Run([0.0] * count, [()] * count, list(arrivals))
        start, at = time.perf_counter(), 0
        while at < count:
            now = time.perf_counter() - start
            if arrivals[at] > now:
                time.sleep(arrivals[at] - now)
                continue
            end = at
            while end < count and arrivals[end] <= now and end - at < self._most:
                end += 1
            answers = self.answer(requests[at:end])
            for index, tokens in enumerate(answers, start=at):
                run.done[index] = time.perf_counter() - start
                run.tokens[index] = tokens
            at = end
        return run

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        """The tokens of each, from one batch padded on the left."""
        rows = prompt_rows(self.network, requests)
        longest = max(len(row) for row in rows)
        embeds = torch.stack([F.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
        mask = torch.tensor(
            [[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=embeds.device
        )
        tokens = max(request.tokens for request in requests)
        out = self._llm.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=None,
            pad_token_id=0,
        )
        found = out.tolist()
        return [tuple(row[: request.tokens]) for row, request in zip(found, requests, strict=True)]


def prompt_rows(network: SalmNetwork, requests: Sequence[Request]) -> list[Tensor]:
    """(N, width) per request: the embedded prompt around the frames, encoded in one batch."""
    sizes = torch.tensor([len(request.samples) for request in requests])
    samples = torch.zeros(len(requests), int(sizes.max()))
    for row, request in zip(samples, requests, strict=True):
        row[: len(request.samples)] = torch.as_tensor(request.samples)
    frames, lengths = network.perception(samples.to(network.device), sizes.to(network.device))
    before, after = (
        network.embed(torch.tensor(ids, device=network.device))
        for ids in (PROMPT.before, PROMPT.after)
    )
    return [
        torch.cat((before, row[:count], after))
        for row, count in zip(frames, lengths.tolist(), strict=True)
    ]


@torch.inference_mode()
def first_scores(network: SalmNetwork, request: Request) -> Tensor:
    """(V,) float32 on the CPU: what the first token is chosen from."""
    (rows,) = prompt_rows(network, [request])
    cache = KvCache.allocate(network.llm.config, slots=1, length=len(rows), like=rows)
    plan = make_plan(network.llm.config, cache, prefills=[Prefill(0, 0, len(rows))])
    return network.scores(network.llm(rows, plan, cache)[-1:])[0].cpu()


def shared_qwen3(network: SalmNetwork) -> Any:
    """`transformers`' own Qwen3 on the network's tensors."""
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    ours = network.llm.config
    config = Qwen3Config(
        vocab_size=ours.vocabulary_size,
        hidden_size=ours.width,
        intermediate_size=ours.ff_size,
        num_hidden_layers=ours.layers,
        num_attention_heads=ours.heads,
        num_key_value_heads=ours.kv_heads,
        head_dim=ours.head_size,
        rms_norm_eps=ours.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": ours.rope_theta},
        tie_word_embeddings=ours.tied,
        dtype=network.dtype,
    )
    with torch.device("meta"):
        llm = Qwen3ForCausalLM(config).eval()
    state = {f"model.{name}": tensor for name, tensor in network.llm.state_dict().items()}
    state["model.embed_tokens.weight"] = network.embed_tokens.weight
    state["lm_head.weight"] = network.lm_head.weight
    llm.load_state_dict(state, assign=True)
    llm.model.rotary_emb = Qwen3RotaryEmbedding(config).to(network.device)
    return llm

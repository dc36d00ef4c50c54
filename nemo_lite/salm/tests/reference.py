"""Plain ways to run Canary-Qwen's parts, which faster ones are compared with."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_lite.salm.kv_cache import KvCache
from nemo_lite.salm.network import SalmNetwork
from nemo_lite.salm.qwen3 import Prefill, make_plan
from nemo_lite.salm.tokenizer import PromptIds


@torch.inference_mode()
def request_rows(
    network: SalmNetwork, waveforms: Sequence[Tensor], prompts: Sequence[PromptIds]
) -> list[Tensor]:
    """What the language model reads of each request, (N, width); audio is encoded in one batch."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    samples = torch.nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True)
    frames, counts = network.perception(samples, lengths)
    return [
        torch.cat(
            (
                network.embed(torch.tensor(prompt.before)),
                frames[row, : int(counts[row])],
                network.embed(torch.tensor(prompt.after)),
            )
        )
        for row, prompt in enumerate(prompts)
    ]


@torch.inference_mode()
def greedy(
    network: SalmNetwork, rows: Sequence[Tensor], *, end: frozenset[int], steps: int
) -> tuple[Tensor, list[list[int]]]:
    """Read all requests in one pass, then write in one batch until each has ended.

    Returns:
        (B, V) scores of the first tokens, and the tokens, the ending one included.
    """
    config, count = network.llm.config, len(rows)
    longest = max(len(request) for request in rows) + steps
    cache = KvCache.allocate(config, slots=count, length=longest, like=network.llm.norm.weight)
    prefills = [Prefill(slot, 0, len(request)) for slot, request in enumerate(rows)]
    plan = make_plan(config, cache, prefills=prefills)
    hidden = network.llm(torch.cat(list(rows)), plan, cache)
    lengths = torch.tensor([len(request) for request in rows])
    first = scores = network.scores(hidden[lengths.cumsum(0) - 1])
    found: list[list[int]] = [[] for _ in rows]
    for _ in range(steps):
        tokens = scores.argmax(1)
        for slot, token in enumerate(tokens.tolist()):
            if not end.intersection(found[slot]):
                found[slot].append(token)
        if all(end.intersection(tokens) for tokens in found):
            break
        plan = make_plan(config, cache, lengths=lengths)
        scores = network.scores(network.llm(network.embed(tokens), plan, cache))
        lengths = lengths + 1
    return first, found

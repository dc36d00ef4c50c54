"""Passes over the language model's weights for the requests that hold slots."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nemo_lite.salm.kv_cache import KvCache
from nemo_lite.salm.network import SalmNetwork
from nemo_lite.salm.qwen3 import Prefill, make_plan

REACH_STEP = 16
"""Positions that decoding rows see are rounded up to a multiple of this."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The next rows of a request's prompt."""

    slot: int
    start: int
    rows: Tensor
    """(N, width)."""
    last: bool
    """The prompt ends with them: the next token is wanted."""

    @property
    def prefill(self) -> Prefill:
        """Where the rows belong."""
        return Prefill(self.slot, self.start, len(self.rows))


@dataclass(frozen=True, slots=True)
class Token:
    """The likeliest next token of a request and its share in the softmax of all."""

    id: int
    probability: float


@dataclass(frozen=True, slots=True)
class Writer:
    """A request that writes: the token to read next, and the rows read before it."""

    token: int
    read: int


class Passes(Protocol):
    """Advances requests by one token each and reads prompts."""

    def run(self, writers: Mapping[int, Writer], readings: Sequence[Reading]) -> dict[int, Token]:
        """The next token, by slot, of every writer and of every reading that is its prompt's last.

        Args:
            writers: by slot.
            readings: of other slots.
        """
        ...

    def prepare(self) -> None:
        """Do ahead what the first passes would have to wait for."""
        ...


class EagerPasses:
    """One pass for writers and readings together, which reads the weights once."""

    def __init__(self, network: SalmNetwork, cache: KvCache) -> None:
        self._network = network
        self._cache = cache

    def prepare(self) -> None:
        """Nothing has to be recorded for passes that run as they are."""

    def run(self, writers: Mapping[int, Writer], readings: Sequence[Reading]) -> dict[int, Token]:
        """See `Passes`."""
        network, cache, device = self._network, self._cache, self._network.device
        rows: list[Tensor] = []
        lengths, reach, at = None, None, 0
        wanted = dict.fromkeys(sorted(writers), 0)
        if writers:
            at = max(writers) + 1
            columns = torch.zeros(2, at, dtype=torch.int64)
            columns[0] = cache.length  # idle unless a writer's
            for slot in wanted:
                columns[:, slot] = torch.tensor((writers[slot].read, writers[slot].token))
                wanted[slot] = slot
            reach = reach_of(max(writer.read for writer in writers.values()) + 1, cache)
            lengths, tokens = columns.to(device)
            rows.append(network.embed(tokens))
        for reading in readings:
            rows.append(reading.rows)
            at += len(reading.rows)
            if reading.last:
                wanted[reading.slot] = at - 1
        prefills = [reading.prefill for reading in readings]
        plan = make_plan(network.llm.config, cache, lengths=lengths, prefills=prefills, reach=reach)
        hidden = network.llm(torch.cat(rows) if len(rows) > 1 else rows[0], plan, cache)
        if not wanted:
            return {}
        ids, probabilities = choose(network, hidden[list(wanted.values())])
        found = zip(wanted, ids.tolist(), probabilities.tolist(), strict=True)
        return {slot: Token(token, probability) for slot, token, probability in found}


def reach_of(positions: int, cache: KvCache) -> int:
    """`positions` rounded up, so that shapes are few."""
    return min(-(-positions // REACH_STEP) * REACH_STEP, cache.length)


def choose(network: SalmNetwork, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """(N, width) → the likeliest tokens (N,) int64 and their probabilities (N,) float32."""
    scores = network.scores(hidden)
    best, ids = scores.max(dim=1)
    return ids, (best - scores.logsumexp(dim=1)).exp()


def wait_for(device: torch.device) -> Callable[[], None]:
    """What returns when the device has computed all that it was told to on the current stream.

    On CUDA, operations are only queued; elsewhere they are done when they return.
    """
    if device.type == "cuda":
        return lambda: torch.cuda.current_stream(device).synchronize()
    return lambda: None

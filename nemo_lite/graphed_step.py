"""Steps for CUDA: every tensor of a step has a fixed place, so that one graph launch runs it all.

A graph exists per look-ahead and batch size; batches are padded to the next size with rows that
work on a scratch slot. Without CUDA the same code runs eagerly, which is how it is tested.
"""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_lite.config import AttentionContext
from nemo_lite.decoding import Decoded, GreedyDecoder
from nemo_lite.features import UNKNOWN_LENGTH
from nemo_lite.network import Network
from nemo_lite.step import Group, StepSnapshot, mel_bounds
from nemo_lite.transcripts import TokenRun

_EXTRA_TOKENS = 4
"""Tokens per stream and step, beyond one per frame, that the first launch finds."""

_COLUMNS = 6
"""slots, first_sample, total_samples, first_frame, valid_frames, prompts."""


def batch_sizes(slots: int) -> list[int]:
    """The sizes that batches are padded to: at most a third more than needed."""
    sizes = [1, 2, 3, 4]
    while sizes[-1] < slots:
        sizes += [sizes[-1] * 3 // 2, sizes[-1] * 2]
    return [size for size in sizes if size < slots] + [slots]


@dataclass(slots=True)
class _Plan:
    """The fixed places of one look-ahead and batch size, and how to run what lies in them."""

    samples: Tensor  # (B, W)
    columns: Tensor  # (6, B) int64
    encoded: Tensor  # (B, T, D), what the decoder has to go on with
    lengths: Tensor  # (B,) frames not yet decoded
    result: Tensor  # (B, 2 + 3 U) float64: count, done, tokens, frames, confidences
    start: Callable[[], None]
    resume: Callable[[], None]


class GraphedStep:
    """A `StepRunner` for CUDA: front end, encoder and decoder without a word to the host."""

    def __init__(self, network: Network, decoder: GreedyDecoder, slots: int) -> None:
        """Allocate the state of `slots` streams and one scratch slot."""
        self._network, self._decoder = network, decoder
        self._cache = network.encoder.new_cache(slots + 1)
        self._state = decoder.new_state(slots + 1)
        self._scratch = slots
        self._sizes = batch_sizes(slots)
        self._plans: dict[tuple[AttentionContext, int], _Plan] = {}
        self._positions: dict[AttentionContext, list[Tensor]] = {}
        self._pool = None

    def prepare(self, contexts: Sequence[AttentionContext], batch: int) -> None:
        """Capture all graphs up to a batch size ahead of time, so that no live step waits."""
        for context in contexts:
            for size in self._sizes:
                self._plan(context, size)
                if size >= batch:
                    break

    @torch.inference_mode()
    def run(self, groups: Sequence[Group]) -> list[TokenRun]:
        """Advance every stream of every group; the new tokens of each, in order."""
        plans = [self._launch(group) for group in groups]
        return [
            run
            for group, plan in zip(groups, plans, strict=True)
            for run in self._collect(plan, len(group.slots))
        ]

    def clear(self, slot: int) -> None:
        """Make a slot ready for a new stream."""
        self._cache.clear(slot)
        self._state.clear(slot)

    def save(self, slot: int) -> StepSnapshot:
        """Copy a slot's state."""
        return StepSnapshot(self._cache.save(slot), self._state.save(slot))

    def load(self, slot: int, snapshot: StepSnapshot) -> None:
        """Put a copy into a slot."""
        self._cache.load(slot, snapshot.encoder)
        self._state.load(slot, snapshot.decoder)

    def _launch(self, group: Group) -> _Plan:
        """Put a group's inputs into place and start its step."""
        batch = len(group.slots)
        size = self._sizes[bisect.bisect_left(self._sizes, batch)]
        plan = self._plan(group.context, size)
        columns = self._idle_columns(size)
        columns[:, :batch] = (
            group.slots,
            group.first_sample,
            group.total_samples,
            group.first_frame,
            group.valid_frames,
            group.prompts,
        )
        plan.columns.copy_(torch.from_numpy(columns))
        plan.samples[:batch].copy_(torch.from_numpy(group.samples))
        plan.start()
        return plan

    def _collect(self, plan: _Plan, batch: int) -> list[TokenRun]:
        """Wait for a step and read its tokens; go on decoding where a stream has very many."""
        runs = [TokenRun() for _ in range(batch)]
        while True:
            rows = plan.result[:batch].tolist()
            limit = (len(rows[0]) - 2) // 3
            for run, (count, _, *values) in zip(runs, rows, strict=True):
                found = int(count)
                run.tokens += [int(token) for token in values[:found]]
                run.frames += [int(frame) for frame in values[limit : limit + found]]
                run.confidences += values[2 * limit : 2 * limit + found]
            if all(done for _, done, *_ in rows):
                return runs
            plan.resume()

    def _idle_columns(self, size: int) -> np.ndarray:
        """Rows without a stream: no valid frame, on the scratch slot."""
        idle = (self._scratch, 0, UNKNOWN_LENGTH, 1, 0, 0)
        return np.repeat(np.array(idle, np.int64)[:, None], size, axis=1)

    def _plan(self, context: AttentionContext, size: int) -> _Plan:
        key = (context, size)
        if key not in self._plans:
            if context not in self._positions:
                frames = context.chunk_frames
                with torch.inference_mode():
                    self._positions[context] = self._network.encoder.positions(context, frames)
            self._plans[key] = self._build(context, size)
        return self._plans[key]

    @torch.inference_mode()
    def _build(self, context: AttentionContext, size: int) -> _Plan:
        network, device = self._network, self._network.device
        frames, factor = context.chunk_frames, network.encoder.pre_encode.factor
        tokens = frames + _EXTRA_TOKENS
        plan = _Plan(
            samples=torch.zeros(
                size, network.preprocessor.span_samples(factor * frames), device=device
            ),
            columns=torch.from_numpy(self._idle_columns(size)).to(device),
            encoded=torch.zeros(
                size, frames, network.config.encoder.d_model, device=device, dtype=network.dtype
            ),
            lengths=torch.zeros(size, dtype=torch.int64, device=device),
            result=torch.zeros(size, 2 + 3 * tokens, dtype=torch.float64, device=device),
            start=lambda: None,
            resume=lambda: None,
        )
        plan.start = self._captured(lambda: self._start(plan, context))
        plan.resume = self._captured(lambda: self._decode(plan))
        return plan

    def _start(self, plan: _Plan, context: AttentionContext) -> None:
        """The whole step, from the plan's inputs to its result."""
        network = self._network
        slots, first_sample, total_samples, first_frame, valid, prompts = plan.columns.unbind()
        mel = network.preprocessor.frames(plan.samples, first_sample, total_samples)
        bounds = mel_bounds(first_frame, total_samples, network)
        x = network.encoder.subsample(mel.to(network.dtype), self._cache, slots, bounds)
        positions = self._positions[context]
        x = network.encoder.advance(x, valid, self._cache, slots, context, positions)
        plan.encoded.copy_(network.apply_prompt(x, prompts))
        plan.lengths.copy_(valid)
        self._decode(plan)

    def _decode(self, plan: _Plan) -> None:
        """Find the next tokens of all rows that still have frames."""
        limit = (plan.result.shape[1] - 2) // 3
        decoded, done = self._decoder.decode_fixed(
            plan.encoded, plan.lengths, self._state, plan.columns[0], limit
        )
        plan.lengths.copy_(torch.where(done, 0, plan.lengths))
        plan.result.copy_(_packed(decoded, done, limit))

    def _captured(self, body: Callable[[], None]) -> Callable[[], None]:
        """`body` as a CUDA graph; as it is on other devices."""
        if self._network.device.type != "cuda":
            return body
        # Lazy initialisation inside the libraries must happen outside the capture.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                body()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            body()
        self._pool = self._pool or graph.pool()
        return graph.replay


def _packed(decoded: Decoded, done: Tensor, limit: int) -> Tensor:
    """One tensor, so that one copy brings everything to the host; float64 holds every integer."""
    head = torch.stack((decoded.counts, done), dim=1)
    columns = (decoded.tokens, decoded.frames, decoded.confidences)
    padded = [F.pad(column, (0, limit - column.shape[1])) for column in columns]
    return torch.cat([head.double(), *(column.double() for column in padded)], dim=1)

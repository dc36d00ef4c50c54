"""Steps for CUDA: every tensor of a step has a fixed place, so that one graph launch runs it all.

A graph exists per look-ahead and batch size; batches are padded to the next size with rows that
work on a scratch slot. Without CUDA the same code runs eagerly, which is how it is tested.
"""

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nemo_lite.config import AttentionContext
from nemo_lite.conformer.cache import EncoderSnapshot
from nemo_lite.cuda_graphs import CudaGraphs
from nemo_lite.decoding import Decoded, GreedyDecoder
from nemo_lite.features import UNKNOWN_LENGTH
from nemo_lite.network import Network
from nemo_lite.step import Group, StepSnapshot, mel_bounds
from nemo_lite.transcripts import TokenRun

_COLUMNS = 6
"""slots, first_sample, total_samples, first_frame, valid_frames, prompts."""


def batch_sizes(slots: int) -> list[int]:
    """The sizes that batches are padded to.

    Powers of two up to 32, since a step of few streams takes as long as one of some more; then at
    most a quarter more than needed.
    """
    sizes = [1, 2, 4, 8, 16, 32]
    while sizes[-1] < slots:
        sizes += [sizes[-1] * quarters // 4 for quarters in (5, 6, 7, 8)]
    return [size for size in sizes if size < slots] + [slots]


def _iterations(frames: int) -> int:
    """How often one launch looks for a token; the last time in vain, or the step is resumed.

    Speech has about one token in three frames, and few streams have many at once.
    """
    return frames // 2 + 3


@dataclass(frozen=True, slots=True)
class _Rows:
    """The fixed places of B streams with one look-ahead.

    What crosses between host and device has a place on both sides. The host's is pinned: copies
    to and from it are queued like kernels, where others would make the host wait.
    """

    samples: Tensor  # (B, W) float32
    columns: Tensor  # (B, 6) int64
    encoded: Tensor  # (B, T, D), what the decoder has to go on with
    lengths: Tensor  # (B,) frames not yet decoded
    result: Tensor  # (B, 2 + 3 U) float64: count, done, tokens, frames, confidences
    host_samples: Tensor
    host_columns: Tensor
    host_result: Tensor

    def head(self, count: int) -> Self:
        """The first rows; all sizes of batch share their memory."""
        return type(self)(*(getattr(self, field.name)[:count] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to run a step of one look-ahead and batch size."""

    rows: _Rows
    start: Callable[[], None]
    """The whole step, from the rows' inputs to their result."""
    resume: Callable[[], None]
    """Goes on with the rows that are not done."""
    arrived: torch.cuda.Event | None
    """Recorded when the result is on the host; None where nothing is asynchronous."""

    def fetch(self, batch: int) -> None:
        """Queue the copy of the result to the host."""
        result = self.rows.result[:batch]
        self.rows.host_result[:batch].copy_(result, non_blocking=True)
        if self.arrived is not None:
            self.arrived.record(torch.cuda.current_stream(result.device))

    def wait(self, batch: int) -> NDArray[np.float64]:
        """The result of the last `fetch`, a view that the next one overwrites."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.rows.host_result[:batch].numpy()


class GraphedStep:
    """A `StepRunner` for CUDA: front end, encoder and decoder without a word to the host.

    Works on the calling thread's current stream. In float32 the numbers are the CPU's up to the
    order of summation: convolutions, for which torch allows TF32 by default, do without it, and
    matrix products follow torch's own setting, which by default does not allow it.
    """

    def __init__(self, network: Network, decoder: GreedyDecoder, slots: int) -> None:
        """Allocate the state of `slots` streams and one scratch slot."""
        self._network, self._decoder = network, decoder
        self._slots = slots
        self._cache = network.encoder.new_cache(slots + 1)
        self._state = decoder.new_state(slots + 1)
        self._sizes = batch_sizes(slots)
        # Rows without a stream: no valid frame, neither at a start nor at an end, on the scratch
        # slot. Several of them write there at once, and what remains is of no interest.
        self._idle = np.array((slots, 0, UNKNOWN_LENGTH, 1, 0, 0), np.int64)
        self._rows: dict[AttentionContext, _Rows] = {}
        self._positions: dict[AttentionContext, list[Tensor]] = {}
        self._plans: dict[tuple[AttentionContext, int], _Plan] = {}
        cuda = network.device.type == "cuda"
        self._graphs = CudaGraphs(network.device) if cuda else None

    @property
    def kind(self) -> tuple[type, ...]:
        """What the encoder's and the decoder's snapshots are made by."""
        return (EncoderSnapshot, type(self._decoder))

    def prepare(self, contexts: Sequence[AttentionContext], batch: int) -> None:
        """Capture all graphs up to a batch size ahead of time, so that no live step waits.

        Recording a graph takes many times as long as a step, and without this the first step of
        each look-ahead and size waits for it.
        """
        largest = self._size(batch)
        sizes = [size for size in self._sizes if size <= largest]
        pairs = [(context, size) for context in contexts for size in sizes]
        # The largest first: the others then find room in its memory.
        for context, size in sorted(pairs, key=lambda p: -p[0].chunk_frames * p[1]):
            self._plan(context, size)

    @torch.inference_mode()
    def run(self, groups: Sequence[Group]) -> list[TokenRun]:
        """Advance every stream of every group; the new tokens of each, in order.

        Args:
            groups: at most one per look-ahead, of one chunk each.

        Returns:
            One run per stream. Those without tokens are one and the same object.
        """
        # All are under way before the first is waited for.
        plans = [self._launch(group) for group in groups]
        nothing = TokenRun()
        runs: list[TokenRun] = []
        for group, plan in zip(groups, plans, strict=True):
            found = self._collect(plan, len(group.slots))
            runs += [found.get(row, nothing) for row in range(len(group.slots))]
        return runs

    def clear(self, slot: int) -> None:
        """Make a slot ready for a new stream."""
        self._cache.clear(slot)
        self._state.clear(slot)

    def reset_decoder(self, slot: int) -> None:
        """Let a stream's decoder forget what was said; the encoder goes on."""
        self._state.forget(slot)

    def save(self, slot: int) -> StepSnapshot:
        """Copy a slot's state."""
        return StepSnapshot(self._cache.save(slot), self._state.save(slot))

    def load(self, slot: int, snapshot: StepSnapshot) -> None:
        """Put a copy into a slot."""
        assert isinstance(snapshot.encoder, EncoderSnapshot)
        self._cache.load(slot, snapshot.encoder)
        self._state.load(slot, snapshot.decoder)

    def _launch(self, group: Group) -> _Plan:
        """Put a group's inputs into place and start its step."""
        batch = len(group.slots)
        plan = self._plan(group.context, self._size(batch))
        rows = plan.rows
        columns = rows.host_columns.numpy()
        columns[:batch] = np.stack(
            (
                group.slots,
                group.first_sample,
                group.total_samples,
                group.first_frame,
                group.valid_frames,
                group.prompts,
            ),
            axis=1,
        )
        columns[batch:] = self._idle
        rows.columns.copy_(rows.host_columns, non_blocking=True)
        rows.host_samples[:batch].copy_(torch.from_numpy(group.samples))
        rows.samples[:batch].copy_(rows.host_samples[:batch], non_blocking=True)
        plan.start()
        plan.fetch(batch)
        return plan

    def _collect(self, plan: _Plan, batch: int) -> dict[int, TokenRun]:
        """Wait for a step and read its tokens, by row; go on where a stream has very many."""
        found: defaultdict[int, TokenRun] = defaultdict(TokenRun)
        while True:
            result = plan.wait(batch)
            for row, run in _unpacked(result):
                found[row].extend(run)
            if result[:, 1].all():
                return found
            plan.resume()
            plan.fetch(batch)

    def _size(self, batch: int) -> int:
        return self._sizes[bisect.bisect_left(self._sizes, batch)]

    @torch.inference_mode()
    def _plan(self, context: AttentionContext, size: int) -> _Plan:
        key = (context, size)
        if key not in self._plans:
            if context not in self._rows:
                # Constants must be there before a capture, whose memory is used again.
                frames = context.chunk_frames
                self._positions[context] = self._network.encoder.positions(context, frames)
                self._rows[context] = self._new_rows(frames)
            rows = self._rows[context].head(size)
            # What warms up and is captured must not touch the streams of the step before.
            rows.columns.copy_(torch.from_numpy(self._idle))
            rows.lengths.zero_()
            self._plans[key] = _Plan(
                rows,
                start=self._runnable(lambda: self._start(rows, context)),
                resume=self._runnable(lambda: self._decode(rows)),
                arrived=torch.cuda.Event() if self._graphs else None,
            )
        return self._plans[key]

    def _new_rows(self, frames: int) -> _Rows:
        network, device, slots = self._network, self._network.device, self._slots
        span = network.preprocessor.span_samples(network.encoder.pre_encode.factor * frames)
        tokens = max(frames, _iterations(frames))  # CTC has up to one per frame
        result = 2 + 3 * tokens
        encoded = (slots, frames, network.config.encoder.d_model)

        def pinned(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, pin_memory=self._graphs is not None)

        return _Rows(
            samples=torch.zeros(slots, span, device=device),
            columns=torch.zeros(slots, _COLUMNS, dtype=torch.int64, device=device),
            encoded=torch.zeros(encoded, dtype=network.dtype, device=device),
            lengths=torch.zeros(slots, dtype=torch.int64, device=device),
            result=torch.zeros(slots, result, dtype=torch.float64, device=device),
            host_samples=pinned(slots, span, dtype=torch.float32),
            host_columns=pinned(slots, _COLUMNS, dtype=torch.int64),
            host_result=pinned(slots, result, dtype=torch.float64),
        )

    def _runnable(self, body: Callable[[], None]) -> Callable[[], None]:
        return body if self._graphs is None else self._graphs.capture(body)

    def _start(self, rows: _Rows, context: AttentionContext) -> None:
        network = self._network
        columns = rows.columns.t().contiguous()
        slots, first_sample, total_samples, first_frame, valid, prompts = columns.unbind()
        mel = network.preprocessor.frames(rows.samples, first_sample, total_samples)
        bounds = mel_bounds(first_frame, total_samples, network)
        x = network.encoder.subsample(mel.to(network.dtype), self._cache, slots, bounds)
        positions = self._positions[context]
        x = network.encoder.advance(x, valid, self._cache, slots, context, positions)
        rows.encoded.copy_(network.apply_prompt(x, prompts))
        rows.lengths.copy_(valid)
        self._decode(rows)

    def _decode(self, rows: _Rows) -> None:
        slots = rows.columns[:, 0].contiguous()
        decoded, done = self._decoder.decode_fixed(
            rows.encoded, rows.lengths, self._state, slots, _iterations(rows.encoded.shape[1])
        )
        rows.lengths.masked_fill_(done, 0)
        rows.result.copy_(_packed(decoded, done, (rows.result.shape[1] - 2) // 3))


def _packed(decoded: Decoded, done: Tensor, width: int) -> Tensor:
    """One tensor, so that one copy brings everything to the host; float64 holds every integer."""
    head = torch.stack((decoded.counts, done), dim=1)
    columns = (decoded.tokens, decoded.frames, decoded.confidences)
    padded = [F.pad(column, (0, width - column.shape[1])) for column in columns]
    return torch.cat([head.double(), *(column.double() for column in padded)], dim=1)


def _unpacked(result: NDArray[np.float64]) -> Iterator[tuple[int, TokenRun]]:
    """The rows that have tokens; the others cost no Python."""
    counts = result[:, 0].astype(np.int64)
    tokens, frames, confidences = np.split(result[:, 2:], 3, axis=1)
    present = np.arange(tokens.shape[1]) < counts[:, None]
    ids = tokens[present].astype(np.int64).tolist()
    times = frames[present].astype(np.int64).tolist()
    sure = confidences[present].tolist()
    ends = counts.cumsum()
    for row in np.flatnonzero(counts).tolist():
        part = slice(int(ends[row] - counts[row]), int(ends[row]))
        yield row, TokenRun(ids[part], times[part], sure[part])

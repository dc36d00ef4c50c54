"""One measured run of a streaming recogniser, and the contenders that run behind `StreamBatch`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from full_size import babble
from numpy.typing import NDArray
from precision import edits, plain_tokenizer
from torch import Tensor

from nemo_lite import StreamBatch, StreamSnapshot
from nemo_lite.chunk_encoder import Chunk, ChunkEncoder
from nemo_lite.decoding import RnntDecoder
from nemo_lite.network import Network
from nemo_lite.step import EagerStep

LEFT_FRAMES = 70
"""Encoder frames that every stream has heard before a run is measured: the caches are full."""
FRAME_S = 0.08
RATE = 16_000

Token = tuple[int, int]
"""Encoder frame since the start of the stream, and id."""


class Unavailable(Exception):
    """A contender cannot run here; the message says why."""


class Audio:
    """Endless noise, elsewhere in it for every stream; what stream 0 hears never changes."""

    def __init__(self, seconds: float = 120.0) -> None:
        samples = babble(seconds, seed=1).numpy()
        self._size = len(samples)
        self._samples = np.tile(samples, 2)

    def samples(self, stream: int, first: int, count: int) -> NDArray[np.float32]:
        """(count,) samples of a stream from its sample `first` on; a view."""
        start = (first + stream * 37_003) % self._size
        return self._samples[start : start + count]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a contender is to run: streams that all have full caches and advance together."""

    lookahead: int
    batch: int
    seconds: float = 3.0
    """Steps are measured until so much time is over, `fewest` at least and `most` at most."""
    fewest: int = 8
    most: int = 40

    @property
    def chunk_frames(self) -> int:
        """Encoder frames of a step."""
        return self.lookahead + 1

    @property
    def rows(self) -> int:
        """Encoder frames of all streams in a step."""
        return self.batch * self.chunk_frames

    @property
    def chunk_samples(self) -> int:
        """Samples of a step."""
        return round(self.chunk_frames * FRAME_S * RATE)

    @property
    def chunk_s(self) -> float:
        """Seconds of audio of a step."""
        return self.chunk_frames * FRAME_S

    def goes_on(self, step: int, began: float) -> bool:
        """Whether to run step number `step`, having begun at that `time.perf_counter()`."""
        if step < self.fewest:
            return True
        return step < self.most and time.perf_counter() - began < self.seconds


@dataclass(frozen=True, slots=True)
class Run:
    """What was measured: seconds of every step, of the encoder in it, and what stream 0 became."""

    plan: Plan
    steps_s: list[float]
    encoder_s: list[float]
    encoded: Tensor
    """(T, D) encoder frames since the start of the stream."""
    tokens: list[Token]

    @property
    def p95_s(self) -> float:
        """The 95th percentile of the step."""
        return percentile(self.steps_s, 95)

    @property
    def streams(self) -> float:
        """Streams in real time: batch times chunk by the 95th percentile of the step."""
        return self.plan.batch * self.plan.chunk_s / self.p95_s


class Contender(Protocol):
    """A way to recognise live streams."""

    def run(self, plan: Plan, audio: Audio) -> Run:
        """Fill the caches and measure."""
        ...


@dataclass(slots=True)
class Meter:
    """A `ChunkEncoder` that notes how long another one takes and what it gives for stream 0."""

    encoder: ChunkEncoder
    seconds: list[float] = field(default_factory=list[float])
    encoded: list[Tensor] = field(default_factory=list[Tensor])
    snapshot_type: type = field(init=False)

    def __post_init__(self) -> None:
        self.snapshot_type = self.encoder.snapshot_type

    def encode(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Encode, and note."""
        began = time.perf_counter()
        frames = self.encoder.encode(chunks)
        self.seconds.append(time.perf_counter() - began)
        self.encoded.append(frames[0][0].float().clone())
        return frames

    def clear(self, slot: int) -> None:
        """As the encoder."""
        self.encoder.clear(slot)

    def save(self, slot: int) -> object:
        """As the encoder."""
        return self.encoder.save(slot)

    def load(self, slot: int, snapshot: object) -> None:
        """As the encoder."""
        self.encoder.load(slot, snapshot)


class LiveBatch:
    """A `Contender`: nemo_lite's front end, decoder and batching around any `ChunkEncoder`."""

    def __init__(
        self,
        network: Network,
        new_encoder: Callable[[int], ChunkEncoder],
        *,
        torch_threads: int | None = None,
    ) -> None:
        """Use the network's front end and decoder.

        Args:
            network: its encoder may be missing.
            new_encoder: gives an encoder for so many slots.
            torch_threads: for what torch computes; None = its setting. An encoder with threads of
                its own leaves too little for more than one.
        """
        self._network, self._new_encoder = network, new_encoder
        self._torch_threads = torch_threads
        self._tokenizer = plain_tokenizer(network)
        self._warm: dict[int, tuple[StreamSnapshot, list[Tensor]]] = {}

    def run(self, plan: Plan, audio: Audio) -> Run:
        """Warm one stream up, make the others its copies, and let all go on with their own."""
        snapshot, encoded = self._warmed_up(plan, audio)
        batch, meter = self._open(plan.batch, plan.lookahead)
        for slot in range(plan.batch):
            batch.restore(slot, snapshot)
        at, steps_s = LEFT_FRAMES * round(FRAME_S * RATE), list[float]()
        began = time.perf_counter()
        while plan.goes_on(len(steps_s), began):
            samples = [audio.samples(s, at, plan.chunk_samples) for s in range(plan.batch)]
            at += plan.chunk_samples
            step_began = time.perf_counter()
            for slot, packet in enumerate(samples):
                batch.push(slot, packet)
            batch.step()
            steps_s.append(time.perf_counter() - step_began)
        said = batch.transcript(0)
        frames = [round(seconds / FRAME_S) for seconds in said.token_times]
        return Run(
            plan,
            steps_s[1:],  # in the first the libraries allocate
            meter.seconds[1:],
            torch.cat(encoded + meter.encoded),
            list(zip(frames, said.token_ids, strict=True)),
        )

    def _warmed_up(self, plan: Plan, audio: Audio) -> tuple[StreamSnapshot, list[Tensor]]:
        if plan.lookahead not in self._warm:
            batch, meter = self._open(1, plan.lookahead)
            for first in range(0, LEFT_FRAMES, plan.chunk_frames):
                at = round(first * FRAME_S * RATE)
                batch.push(0, audio.samples(0, at, plan.chunk_samples))
                batch.step()
            self._warm[plan.lookahead] = batch.snapshot(0), meter.encoded
        return self._warm[plan.lookahead]

    def _open(self, slots: int, lookahead: int) -> tuple[StreamBatch, Meter]:
        network, meter = self._network, Meter(self._new_encoder(slots))
        decoder = RnntDecoder(
            network.decoder, network.joint, max_symbols=network.config.max_symbols
        )
        batch = StreamBatch(
            network,
            self._tokenizer,
            EagerStep(network, meter, decoder, slots, torch_threads=self._torch_threads),
            slots=slots,
            frames_per_step=1,
        )
        for _ in range(slots):
            batch.open(lookahead=lookahead)
        return batch, meter


def percentile(values: Sequence[float], percent: float) -> float:
    """That percentile."""
    return float(np.percentile(values, percent))


def encoder_error(run: Run, reference: Run) -> float:
    """Relative difference of the encoder frames that both have, as a share of their size."""
    frames = min(len(run.encoded), len(reference.encoded))
    expected = reference.encoded[:frames]
    return float((run.encoded[:frames] - expected).norm() / expected.norm())


def token_error(run: Run, reference: Run) -> float:
    """Wrong, missing and surplus tokens over the tokens of the reference, in common frames."""
    frames = min(len(run.encoded), len(reference.encoded))
    found, expected = (
        [token for frame, token in tokens if frame < frames]
        for tokens in (run.tokens, reference.tokens)
    )
    return edits(expected, found) / max(1, len(expected))

"""One step of the model for many live streams: samples in, tokens out. Decides nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nemo_lite.chunk_encoder import Chunk, ChunkEncoder, EncoderCopy
from nemo_lite.config import AttentionContext
from nemo_lite.conformer.subsampling import UNBOUNDED, Bounds
from nemo_lite.cuda_graphs import exact_convolutions
from nemo_lite.decoding import DecoderSnapshot, GreedyDecoder
from nemo_lite.features import UNKNOWN_LENGTH
from nemo_lite.network import Network
from nemo_lite.torch_threads import torch_threads
from nemo_lite.transcripts import TokenRun, token_runs

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Group:
    """B streams with one look-ahead that advance by the same number of frames.

    Positions count from the start of each stream; all int64 (B,).
    """

    context: AttentionContext
    frames: int
    """Encoder frames, T."""
    samples: NDArray[np.float32]
    """(B, W) the span that the front end needs for 8 T mel frames; undefined outside the stream."""
    slots: Rows
    first_sample: Rows
    """Of the span; negative at a stream's start."""
    total_samples: Rows
    """`UNKNOWN_LENGTH` until the stream has ended."""
    first_frame: Rows
    valid_frames: Rows
    """In 1..T; fewer than T only at a stream's end."""
    prompts: Rows

    @property
    def at_border(self) -> bool:
        """Whether a stream begins or ends here."""
        ended = self.total_samples < UNKNOWN_LENGTH
        return bool(ended.any()) or not self.first_frame.all()


@dataclass(frozen=True, slots=True)
class StepSnapshot:
    """The model's state of one stream; opaque."""

    encoder: EncoderCopy
    decoder: DecoderSnapshot


class StepRunner(Protocol):
    """Runs steps and keeps the model's state of a fixed number of slots."""

    def run(self, groups: Sequence[Group]) -> list[TokenRun]:
        """Advance every stream of every group; the new tokens of each, in order."""
        ...

    @property
    def kind(self) -> tuple[type, ...]:
        """Equal for runners whose snapshots fit each other."""
        ...

    def prepare(self, contexts: Sequence[AttentionContext], batch: int) -> None:
        """Do ahead what the first steps of up to `batch` streams would have to wait for."""
        ...

    def clear(self, slot: int) -> None:
        """Make a slot ready for a new stream."""
        ...

    def reset_decoder(self, slot: int) -> None:
        """Let a stream's decoder forget what was said; the encoder goes on."""
        ...

    def save(self, slot: int) -> StepSnapshot:
        """Copy a slot's state."""
        ...

    def load(self, slot: int, snapshot: StepSnapshot) -> None:
        """Put a copy into a slot."""
        ...


class EagerStep:
    """Front end, a `ChunkEncoder` and a decoder, one after another, on any device."""

    def __init__(
        self,
        network: Network,
        encoder: ChunkEncoder,
        decoder: GreedyDecoder,
        slots: int,
        *,
        torch_threads: int | None = None,
    ) -> None:
        """Use fresh state for `slots` streams; `encoder` brings its own.

        Args:
            network: front end, prompt and decoder.
            encoder: for as many slots.
            decoder: on the network's modules.
            slots: streams at once.
            torch_threads: for torch's operations during a step; None = torch's setting.
        """
        self._network = network
        self._torch_threads = torch_threads
        self._encoder = encoder
        self._decoder = decoder
        self._state = decoder.new_state(slots)

    @torch.inference_mode()
    @exact_convolutions()
    def run(self, groups: Sequence[Group]) -> list[TokenRun]:
        """Advance every stream of every group; the new tokens of each, in order."""
        with torch_threads(self._torch_threads):
            return self._run(groups)

    def _run(self, groups: Sequence[Group]) -> list[TokenRun]:
        chunks = [self._chunk(group) for group in groups]
        encoded = self._encoder.encode(chunks)
        widest = max(x.shape[1] for x in encoded)
        padded = [F.pad(x, (0, 0, 0, widest - x.shape[1])) for x in encoded]
        x = padded[0] if len(padded) == 1 else torch.cat(padded)
        slots = torch.cat([chunk.slots for chunk in chunks])
        valid = torch.cat([chunk.valid_frames for chunk in chunks])
        prompts = np.concatenate([group.prompts for group in groups])
        x = self._network.apply_prompt(x, torch.from_numpy(prompts).to(x.device))
        return token_runs(self._decoder.decode(x, valid, self._state, slots))

    @property
    def kind(self) -> tuple[type, ...]:
        """What the encoder's and the decoder's snapshots are made by."""
        return (self._encoder.snapshot_type, type(self._decoder))

    def prepare(self, contexts: Sequence[AttentionContext], batch: int) -> None:
        """Nothing has to be recorded for steps that run as they are."""

    def clear(self, slot: int) -> None:
        """Make a slot ready for a new stream."""
        self._encoder.clear(slot)
        self._state.clear(slot)

    def reset_decoder(self, slot: int) -> None:
        """Let a stream's decoder forget what was said; the encoder goes on."""
        self._state.forget(slot)

    def save(self, slot: int) -> StepSnapshot:
        """Copy a slot's state."""
        return StepSnapshot(self._encoder.save(slot), self._state.save(slot))

    def load(self, slot: int, snapshot: StepSnapshot) -> None:
        """Put a copy into a slot."""
        self._encoder.load(slot, snapshot.encoder)
        self._state.load(slot, snapshot.decoder)

    def _chunk(self, group: Group) -> Chunk:
        columns = np.stack(
            (
                group.slots,
                group.first_sample,
                group.total_samples,
                group.first_frame,
                group.valid_frames,
            )
        )
        device = self._network.device
        slots, first, total, first_frame, valid = torch.from_numpy(columns).to(device).unbind()
        samples = torch.from_numpy(group.samples).to(device)
        mel = self._network.preprocessor.frames(samples, first, total).to(self._network.dtype)
        bounds = mel_bounds(first_frame, total, self._network) if group.at_border else None
        factor = self._network.config.encoder.subsampling_factor
        return Chunk(mel, slots, valid, bounds, group.context, factor)


def mel_bounds(first_frame: Tensor, total_samples: Tensor, network: Network) -> Bounds:
    """What subsampling must know of streams that may begin or end in this step."""
    hop = network.config.preprocessor.hop_samples
    ended = total_samples < UNKNOWN_LENGTH
    return Bounds(first_frame, torch.where(ended, total_samples // hop, UNBOUNDED))

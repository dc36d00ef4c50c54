"""What every greedy decoder shares: its shape, its result, and the state of live streams."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from nemo_lite.errors import ShapeError


@dataclass(frozen=True, slots=True)
class Decoded:
    """What one call added to each of B streams, on the model's device.

    Attributes:
        tokens: (B, U) int64 ids; entries from `counts[b]` on are padding without meaning.
        frames: (B, U) int64, the encoder frame of each token, counted since the stream began.
        confidences: (B, U) float32 in 0..1, normalised maximum probability of the token's step.
        counts: (B,) int64, tokens of each stream.
    """

    tokens: Tensor
    frames: Tensor
    confidences: Tensor
    counts: Tensor

    @classmethod
    def from_events(
        cls, rows: Tensor, tokens: Tensor, frames: Tensor, confidences: Tensor, *, batch: int
    ) -> Self:
        """Gather N tokens, each of stream `rows[n]` and in order within a stream, into B rows."""
        order = rows.argsort(stable=True)
        counts = torch.bincount(rows, minlength=batch)
        row = rows[order]
        column = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[row]
        width = int(counts.max()) if batch else 0

        def fill(values: Tensor) -> Tensor:
            padded = values.new_zeros(batch, width)
            padded[row, column] = values[order]
            return padded

        return cls(fill(tokens), fill(frames), fill(confidences), counts)


@dataclass(frozen=True, slots=True)
class DecoderSnapshot:
    """A copy of one slot; opaque."""

    tensors: Mapping[str, Tensor]

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


class DecoderState:
    """Decoder state of several streams: tensors with a leading slot dimension, advanced in place.

    Args:
        fresh: what a stream that has heard nothing holds, without the slot dimension.
        slots: how many streams fit.
        memory: the names of those that hold what was said; the others say where a stream is.
    """

    def __init__(self, fresh: Mapping[str, Tensor], slots: int, *, memory: Sequence[str]) -> None:
        self._memory = tuple(memory)
        # Ordinary tensors wherever this is called: inference tensors could not be cleared later
        # outside of inference mode.
        with torch.inference_mode(False):
            self._fresh = {name: row.detach().clone() for name, row in fresh.items()}
            self._tensors = {
                name: row.expand(slots, *row.shape).clone() for name, row in self._fresh.items()
            }

    def __getitem__(self, name: str) -> Tensor:
        """(slots, ...) one tensor, itself and not a copy."""
        return self._tensors[name]

    def rows(self, slots: Tensor) -> dict[str, Tensor]:
        """(B, ...) copies of the given slots' rows, by name."""
        return {name: tensor[slots] for name, tensor in self._tensors.items()}

    def store(self, slots: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Write rows back that `rows` gave and a call advanced."""
        for name, tensor in rows.items():
            self._tensors[name].index_copy_(0, slots, tensor)

    def clear(self, slots: Tensor | int) -> None:
        """Make slots ready for new streams."""
        for name, tensor in self._tensors.items():
            tensor[slots] = self._fresh[name]

    def forget(self, slot: int) -> None:
        """Make one stream go on as if nothing had been said before."""
        for name in self._memory:
            self._tensors[name][slot] = self._fresh[name]

    def save(self, slot: int) -> DecoderSnapshot:
        """Copy one slot; the copy stays on the device."""
        return DecoderSnapshot({name: rows[slot].clone() for name, rows in self._tensors.items()})

    def load(self, slot: int, snapshot: DecoderSnapshot) -> None:
        """Put a copy into a slot, the same one or another."""
        for name, tensor in self._tensors.items():
            tensor[slot] = snapshot.tensors[name]


class GreedyDecoder(Protocol):
    """Encoder frames to tokens, for a batch of streams that are fed piece by piece.

    A piece may hold any number of frames: the tokens do not depend on how a stream is cut.
    Decoding keeps no gradients: call it in `torch.inference_mode()`.
    """

    def new_state(self, slots: int) -> DecoderState:
        """State for `slots` streams, all ready to begin, on the model's device."""
        ...

    def decode(
        self, encoded: Tensor, lengths: Tensor, state: DecoderState, slots: Tensor
    ) -> Decoded:
        """Decode the next frames of B streams and advance their state in place.

        Args:
            encoded: (B, T, D) encoder frames in the model's dtype.
            lengths: (B,) int64 in 0..T; what lies beyond is ignored, and a stream without frames
                keeps its state.
            state: from `new_state`.
            slots: (B,) int64, distinct; row b continues the stream in slot `slots[b]`.

        Raises:
            ShapeError: the shapes do not fit together.
        """
        ...

    def decode_fixed(
        self,
        encoded: Tensor,
        lengths: Tensor,
        state: DecoderState,
        slots: Tensor,
        iterations: int,
    ) -> tuple[Decoded, Tensor]:
        """As `decode`, but with static shapes and no word to the host: fit for a CUDA graph.

        At most `iterations` tokens per stream are found.

        Returns:
            The tokens, U being fixed by the shapes alone, and (B,) bool: which streams are done
            with their frames. For those that are not, call again with the same `encoded`; give
            those that are a length of 0.
        """
        ...


def check_shapes(encoded: Tensor, lengths: Tensor, slots: Tensor) -> None:
    """Check what `decode` was given.

    Raises:
        ShapeError: `encoded` is not (B, T, D) or the others are not (B,) int64.
    """
    if encoded.ndim != 3:
        raise ShapeError(f"encoded has {encoded.ndim} dimensions, not (B, T, D)")
    for name, tensor in (("lengths", lengths), ("slots", slots)):
        if tensor.shape != encoded.shape[:1] or tensor.dtype != torch.int64:
            raise ShapeError(
                f"{name} is {tuple(tensor.shape)} {tensor.dtype}, not ({len(encoded)},) int64"
            )

"""The state of live streams: one preallocated row ("slot") per stream in every tensor."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_lite.config import EncoderConfig
from nemo_lite.conformer.layer import LayerCache
from nemo_lite.conformer.subsampling import Subsampling


@dataclass(frozen=True, slots=True)
class EncoderSnapshot:
    """A copy of one slot; opaque."""

    tensors: tuple[Tensor, ...]

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""
        return sum(tensor.nbytes for tensor in self.tensors)


class EncoderCache:
    """Caches of `slots` streams.

    Keys and values are kept projected, not as NeMo's layer inputs, so that a step projects only
    its own frames. `frames` (slots,) int64 counts the frames each stream has seen.
    """

    @torch.inference_mode(False)  # so that it may be changed in and outside of that mode
    def __init__(
        self, config: EncoderConfig, subsampling: Subsampling, slots: int, *, like: Tensor
    ) -> None:
        self.left = max(context.left for context in config.contexts)
        shape = (config.layers, slots, self.left, config.d_model)
        self.keys = like.new_zeros(shape)
        self.values = like.new_zeros(shape)
        self.conv = like.new_zeros(config.layers, slots, config.d_model, config.conv_kernel - 1)
        self.subsampling = [
            like.new_zeros(slots, channels, 1, bins) for channels, bins in subsampling.cached_shapes
        ]
        self.frames = torch.zeros(slots, dtype=torch.int64, device=like.device)

    @property
    def slots(self) -> int:
        """How many streams fit."""
        return self.frames.shape[0]

    def layer(self, index: int, slots: Tensor, left: int) -> LayerCache:
        """Layer `index` of the given slots with the newest `left` keys and values (copies)."""
        skip = self.left - left
        return LayerCache(
            keys=self.keys[index, slots, skip:],
            values=self.values[index, slots, skip:],
            conv=self.conv[index, slots],
        )

    def store(self, index: int, slots: Tensor, layer: LayerCache) -> None:
        """Write back what `layer` gave and a step advanced."""
        skip = self.left - layer.keys.shape[1]
        self.keys[index, slots, skip:] = layer.keys
        self.values[index, slots, skip:] = layer.values
        self.conv[index, slots] = layer.conv

    def clear(self, slot: int) -> None:
        """Make a slot ready for a new stream."""
        for tensor in self._rows(slot):
            tensor.zero_()

    def save(self, slot: int) -> EncoderSnapshot:
        """Copy one slot."""
        return EncoderSnapshot(tuple(tensor.clone() for tensor in self._rows(slot)))

    def load(self, slot: int, snapshot: EncoderSnapshot) -> None:
        """Put a copy into a slot, the same one or another."""
        for row, saved in zip(self._rows(slot), snapshot.tensors, strict=True):
            row.copy_(saved)

    def _rows(self, slot: int) -> list[Tensor]:
        """Views of everything that belongs to one slot."""
        per_layer = [self.keys[:, slot], self.values[:, slot], self.conv[:, slot]]
        return [*per_layer, *(tensor[slot] for tensor in self.subsampling), self.frames[slot]]

"""Live steps on the CPU with 8-bit weights: `nemo_lite_cpu`, the kernels in `conformer-rs/`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nemo_lite.chunk_encoder import Chunk
from nemo_lite.conformer import FastConformer
from nemo_lite.conformer.positions import relative_positions
from nemo_lite.errors import UnsupportedError

if TYPE_CHECKING:
    from nemo_lite_cpu import Encoder


@dataclass(frozen=True, slots=True)
class Int8Snapshot:
    """A copy of one slot; opaque."""

    layers: bytes
    subsampling: tuple[Tensor, ...]


class Int8Layers:
    """The packed layers of one model; shared by every batch of streams."""

    def __init__(self, encoder: FastConformer, *, threads: int) -> None:
        """Pack the encoder's layers and drop their float weights from it, one at a time.

        Raises:
            UnsupportedError: `nemo_lite_cpu` is not installed, or the model is not cache-aware
                with layer norms.
        """
        config = encoder.config
        if not config.streaming or config.conv_norm != "layer_norm":
            raise UnsupportedError("int8 needs a cache-aware model with layer norms")
        try:
            from nemo_lite_cpu import Encoder
        except ImportError as error:
            raise UnsupportedError(
                "int8 needs the package nemo-lite-cpu (conformer-rs/)"
            ) from error
        self._packed = Encoder(
            _take_layers(encoder),
            heads=config.heads,
            left=max(context.left for context in config.contexts),
            max_chunk=max(context.chunk_frames for context in config.contexts),
            slots=1,
            threads=threads,
        )

    def fork(self, slots: int) -> "Encoder":
        """The same weights with fresh state for `slots` streams."""
        return self._packed.fork(slots)


class Int8ChunkEncoder:
    """A `ChunkEncoder`: subsampling in float32, the layers of all chunks in one call.

    Linear layers have 8-bit weights per output and 8-bit activations per frame; attention and
    convolutions are float32. To the bit, a stream's frames do not depend on its batch.
    """

    def __init__(self, encoder: FastConformer, layers: Int8Layers, slots: int) -> None:
        """Allocate the state of `slots` streams; `encoder` brings the subsampling."""
        self._subsampling = encoder.pre_encode
        self._scale = encoder.input_scale
        self._layers = layers.fork(slots)
        weight = encoder.pre_encode.out.weight
        self._cached = [
            weight.new_zeros(slots, channels, 1, bins)
            for channels, bins in encoder.pre_encode.cached_shapes
        ]

    def encode(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Encode one step: per chunk (B, T, D), all look-aheads in one pass over the weights."""
        inputs = [self._subsample(chunk).flatten(0, 1).numpy() for chunk in chunks]
        columns = [_columns(chunk) for chunk in chunks]
        slots, frames, valid, left = np.concatenate(columns, axis=1)
        x = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        encoded = torch.from_numpy(self._layers.step(x, slots, frames, valid, left))
        sizes = [len(rows) for rows in inputs]
        return [
            rows.unflatten(0, (len(chunk.slots), chunk.frames))
            for rows, chunk in zip(encoded.split(sizes), chunks, strict=True)
        ]

    def clear(self, slot: int) -> None:
        """Make a slot ready for a new stream."""
        self._layers.clear(slot)
        for cached in self._cached:
            cached[slot].zero_()

    def save(self, slot: int) -> Int8Snapshot:
        """Copy a slot's caches."""
        frames = tuple(cached[slot].clone() for cached in self._cached)
        return Int8Snapshot(self._layers.save(slot), frames)

    def load(self, slot: int, snapshot: object) -> None:
        """Put a copy that `save` made into a slot."""
        assert isinstance(snapshot, Int8Snapshot)
        self._layers.load(slot, snapshot.layers)
        for cached, frame in zip(self._cached, snapshot.subsampling, strict=True):
            cached[slot].copy_(frame)

    def _subsample(self, chunk: Chunk) -> Tensor:
        rows = [cached[chunk.slots] for cached in self._cached]
        x = self._subsampling.advance(chunk.mel, rows, chunk.bounds)
        for cached, row in zip(self._cached, rows, strict=True):
            cached[chunk.slots] = row
        return x * self._scale


def _columns(chunk: Chunk) -> NDArray[np.int64]:
    """(4, B): slots, frames, valid frames, left context."""
    slots = chunk.slots.numpy()
    frames, left = np.full_like(slots, chunk.frames), np.full_like(slots, chunk.context.left)
    return np.stack((slots, frames, chunk.valid_frames.numpy(), left))


def _take_layers(encoder: FastConformer) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Each layer's parameters as arrays, with its projected positions; frees it afterwards."""
    config = encoder.config
    left = max(context.left for context in config.contexts)
    ahead = max(context.right for context in config.contexts)
    like = torch.zeros((), dtype=torch.float32)
    distances = relative_positions(left + ahead, ahead, config.d_model, like=like)
    for layer in encoder.release_layers():
        arrays = {name: _array(tensor) for name, tensor in layer.state_dict().items()}
        project = arrays.pop("self_attn.linear_pos.weight")
        arrays["positions"] = np.ascontiguousarray(distances.numpy() @ project.T)
        yield arrays


def _array(tensor: Tensor | nn.Parameter) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().float().numpy())

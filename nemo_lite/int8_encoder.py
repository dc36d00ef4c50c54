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
from nemo_lite.conformer.subsampling import UNBOUNDED
from nemo_lite.errors import UnsupportedError

if TYPE_CHECKING:
    from nemo_lite_cpu import Encoder, Subsampling


@dataclass(frozen=True, slots=True)
class Int8Snapshot:
    """A copy of one slot; opaque."""

    subsampling: bytes
    layers: bytes

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""
        return len(self.subsampling) + len(self.layers)


class Int8Encoder:
    """The packed weights of one encoder; shared by every batch of streams."""

    def __init__(self, encoder: FastConformer, *, threads: int, isa: str | None = None) -> None:
        """Pack the encoder and drop the float weights of its layers, one at a time.

        Args:
            encoder: its layers are taken away; it cannot encode afterwards.
            threads: to compute on.
            isa: instruction set, one of `nemo_lite_cpu.isas()`; None = the fastest here.

        Raises:
            UnsupportedError: `nemo_lite_cpu` is not installed, the model is not cache-aware with
                layer norms, or its sizes, `threads` or `isa` do not suit the kernels.
        """
        config = encoder.config
        if not config.streaming or config.conv_norm != "layer_norm":
            raise UnsupportedError("int8 needs a cache-aware model with layer norms")
        self._scale = encoder.input_scale
        try:
            self._pack(encoder, threads, isa)
        except ImportError as error:
            raise UnsupportedError(
                "int8 needs the package nemo-lite-cpu (conformer-rs/)"
            ) from error
        except ValueError as error:
            raise UnsupportedError(f"int8 cannot run this model here: {error}") from error

    def _pack(self, encoder: FastConformer, threads: int, isa: str | None) -> None:
        from nemo_lite_cpu import Encoder, Subsampling

        config = encoder.config
        self._subsampling = Subsampling(
            {name: _array(tensor) for name, tensor in encoder.pre_encode.state_dict().items()},
            n_mels=config.n_mels,
            slots=1,
            threads=threads,
            isa=isa,
        )
        self._layers = Encoder(
            _take_layers(encoder),
            heads=config.heads,
            left=max(context.left for context in config.contexts),
            max_chunk=max(context.chunk_frames for context in config.contexts),
            slots=1,
            threads=threads,
            isa=isa,
        )

    def chunk_encoder(self, slots: int) -> "Int8ChunkEncoder":
        """Fresh state for `slots` streams."""
        return Int8ChunkEncoder(
            self._subsampling.fork(slots), self._layers.fork(slots), self._scale
        )


class Int8ChunkEncoder:
    """A `ChunkEncoder` that runs the chunks of all look-aheads in one pass over the weights.

    Weights have 8 bits per output, activations 8 bits per frame; attention and depthwise
    convolutions are float32. To the bit, a stream's frames do not depend on its batch.
    """

    snapshot_type = Int8Snapshot

    def __init__(self, subsampling: "Subsampling", layers: "Encoder", scale: float) -> None:
        """Use `Int8Encoder.chunk_encoder`."""
        self._subsampling = subsampling
        self._layers = layers
        self._scale = scale

    def encode(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Encode one step: per chunk (B, T, D)."""
        mel = np.concatenate([_mel_rows(chunk) for chunk in chunks])
        columns = np.concatenate([_columns(chunk) for chunk in chunks], axis=1)
        slots, frames, valid, left, mel_length = columns
        x = self._subsampling.step(mel, slots, frames, mel_length)
        if self._scale != 1.0:
            x *= self._scale
        encoded = torch.from_numpy(self._layers.step(x, slots, frames, valid, left))
        sizes = [len(chunk.slots) * chunk.frames for chunk in chunks]
        return [
            rows.unflatten(0, (len(chunk.slots), chunk.frames))
            for rows, chunk in zip(encoded.split(sizes), chunks, strict=True)
        ]

    def clear(self, slot: int) -> None:
        """Make a slot ready for a new stream."""
        self._subsampling.clear(slot)
        self._layers.clear(slot)

    def save(self, slot: int) -> Int8Snapshot:
        """Copy a slot's caches."""
        return Int8Snapshot(self._subsampling.save(slot), self._layers.save(slot))

    def load(self, slot: int, snapshot: object) -> None:
        """Put a copy that `save` made into a slot."""
        assert isinstance(snapshot, Int8Snapshot)
        self._subsampling.load(slot, snapshot.subsampling)
        self._layers.load(slot, snapshot.layers)


def _mel_rows(chunk: Chunk) -> NDArray[np.float32]:
    """(8 T B, n_mels), one stream's frames after another's."""
    return chunk.mel.transpose(1, 2).flatten(0, 1).numpy()


def _columns(chunk: Chunk) -> NDArray[np.int64]:
    """(5, B): slots, frames, valid frames, left context, mel frames of the whole stream."""
    slots = chunk.slots.numpy()
    frames, left = np.full_like(slots, chunk.frames), np.full_like(slots, chunk.context.left)
    valid = chunk.valid_frames.numpy()
    if chunk.bounds is None:
        return np.stack((slots, frames, valid, left, np.full_like(slots, UNBOUNDED)))
    return np.stack((slots, frames, valid, left, chunk.bounds.mel_length.numpy()))


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

"""How a step of many live streams is encoded: the interface, and the way that works everywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from nemo_lite.config import AttentionContext
from nemo_lite.conformer import EncoderCache, FastConformer
from nemo_lite.conformer.cache import EncoderSnapshot
from nemo_lite.conformer.subsampling import Bounds


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next frames of B streams with one look-ahead.

    `mel` is (B, n_mels, factor * T) as `Subsampling.advance` wants it, `slots` (B,) int64 distinct,
    `valid_frames` (B,) int64 in 1..T (fewer than T only where a stream ends), `bounds` None when
    no stream begins or ends here.
    """

    mel: Tensor
    slots: Tensor
    valid_frames: Tensor
    bounds: Bounds | None
    context: AttentionContext
    factor: int = 8
    """Mel frames per encoder frame."""

    @property
    def frames(self) -> int:
        """T, encoder frames."""
        return self.mel.shape[2] // self.factor


class EncoderCopy(Protocol):
    """A copy of one slot's caches; opaque but for its size."""

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""
        ...


class ChunkEncoder(Protocol):
    """Encodes chunks and keeps the caches of a fixed number of slots."""

    snapshot_type: type
    """What `save` gives and `load` takes."""

    def encode(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Encode one step: per chunk (B, T, D). A slot is in at most one of the chunks."""
        ...

    def clear(self, slot: int) -> None:
        """Make a slot ready for a new stream."""
        ...

    def save(self, slot: int) -> EncoderCopy:
        """Copy a slot's caches."""
        ...

    def load(self, slot: int, snapshot: object) -> None:
        """Put a copy that `save` made into a slot."""
        ...


class TorchChunkEncoder:
    """The encoder's own modules, on whatever device and in whatever dtype they are."""

    snapshot_type = EncoderSnapshot

    def __init__(self, encoder: FastConformer, slots: int, *, frames_per_step: int) -> None:
        """Allocate the caches.

        Args:
            encoder: shared with other batches; not changed.
            slots: streams at once.
            frames_per_step: most encoder frames of one stream in one step.
        """
        self._encoder = encoder
        self._cache: EncoderCache = encoder.new_cache(slots)
        self._frames_per_step = frames_per_step
        self._positions: dict[AttentionContext, list[Tensor]] = {}

    def encode(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Encode one step; streams with different look-aheads take turns."""
        return [self._encode(chunk) for chunk in chunks]

    def clear(self, slot: int) -> None:
        """Make a slot ready for a new stream."""
        self._cache.clear(slot)

    def save(self, slot: int) -> EncoderSnapshot:
        """Copy a slot's caches."""
        return self._cache.save(slot)

    def load(self, slot: int, snapshot: object) -> None:
        """Put a copy that `save` made into a slot."""
        assert isinstance(snapshot, EncoderSnapshot)
        self._cache.load(slot, snapshot)

    def _encode(self, chunk: Chunk) -> Tensor:
        if chunk.context not in self._positions:
            frames = max(self._frames_per_step, chunk.context.chunk_frames)
            self._positions[chunk.context] = self._encoder.positions(chunk.context, frames)
        positions = self._positions[chunk.context]
        x = self._encoder.subsample(chunk.mel, self._cache, chunk.slots, chunk.bounds)
        return self._encoder.advance(
            x, chunk.valid_frames, self._cache, chunk.slots, chunk.context, positions
        )

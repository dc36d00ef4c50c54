from collections.abc import Iterable, Mapping
from typing import final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

def isas() -> list[str]:
    """The instruction sets this processor has, the fastest first; the last is `portable`.

    Any of `avx512vnni`, `avxvnni`, `avx2`, `portable`.
    """

@final
class Encoder:
    """A stack of cache-aware FastConformer layers with the state of `slots` streams.

    Weights are 8-bit per output, activations 8-bit per row, sums exact; norms, convolutions and
    attention are float32 over cached keys and values in float16. A stream's result does not depend,
    to the bit, on its slot, its batch neighbours, their order, or the number of threads. It does
    depend, in its rounding, on the instruction set.

    Thread-safe: calls run one after another, with the GIL released.

    Source: arXiv 2312.17279 (cache-aware FastConformer).
    """

    def __new__(
        cls,
        layers: Iterable[Mapping[str, Floats]],
        *,
        heads: int,
        left: int,
        max_chunk: int,
        slots: int,
        threads: int,
        isa: str | None = None,
    ) -> Encoder:
        """Pack the layers, one at a time: pass a generator to hold one in float32 at once.

        Args:
            layers: per layer NeMo's parameters by name: `norm_feed_forward1.weight`,
                `feed_forward1.linear1.weight`, `self_attn.linear_q.weight`,
                `self_attn.pos_bias_u` (H, D / H), `conv.pointwise_conv1.weight` (2 D, D, 1),
                `conv.depthwise_conv.weight` (D, 1, k), `conv.batch_norm.weight` (a layer norm's)
                and so on; the biases of linear layers and convolutions may be left out. `positions`
                (left + 2 max_chunk - 1, D) takes the place of `self_attn.linear_pos`: its output
                for the distances left + max_chunk - 1 down to -(max_chunk - 1), the past positive.
                Other entries are ignored. D is a multiple of 16, D / H one of 8.
            heads: attention heads H.
            left: most frames a stream attends to before its chunk.
            max_chunk: most frames in a chunk.
            slots: streams that have a place.
            threads: threads to compute on, the calling one included.
            isa: one of `isas()`; None takes the first.

        Raises:
            ValueError: an array is missing or of the wrong shape, a size does not fit, or this
                processor lacks the instruction set.
        """
    def fork(self, slots: int) -> Encoder:
        """The same weights and threads, shared, with fresh state for `slots` streams.

        Steps of an encoder and its forks take turns.

        Raises:
            ValueError: `slots` is zero or too large.
        """
    def step(
        self, x: Floats, slots: Integers, frames: Integers, valid: Integers, left: Integers
    ) -> Floats:
        """Advance B streams by one chunk each, their caches in place.

        Every frame of a chunk attends to the whole chunk and to the last `left` frames before it,
        or as many as there were. Convolutions are causal.

        Args:
            x: (N, D) contiguous; the rows of the chunks, one chunk after another.
            slots: (B,) distinct.
            frames: (B,) rows of each chunk, 1 to max_chunk; they sum to N.
            valid: (B,) rows that belong to the stream, 1 to `frames`. Fewer than `frames` is for a
                stream's last chunk: what the padding gives means nothing.
            left: (B,) at most the encoder's.

        Returns:
            (N, D) rows in the order of `x`.

        Raises:
            TypeError: an array has the wrong dtype or number of dimensions.
            ValueError: the arguments do not fit; no stream has advanced.
        """
    def clear(self, slot: int) -> None:
        """Forget a slot's stream: its next chunk is a stream's first.

        Raises:
            ValueError: there is no such slot.
        """
    def save(self, slot: int) -> bytes:
        """A slot's stream, to `load` into any slot of an encoder with the same weights.

        Equal streams give equal bytes. Up to about `cache_bytes_per_slot`.

        Raises:
            ValueError: there is no such slot.
        """
    def load(self, slot: int, state: bytes) -> None:
        """Put a saved stream into a slot, in place of what is there.

        Raises:
            ValueError: there is no such slot, or `state` is not that of an encoder of this size;
                nothing has changed.
        """
    @property
    def slots(self) -> int:
        """Streams that have a place."""
    @property
    def d_model(self) -> int:
        """D, numbers per row."""
    @property
    def isa(self) -> str:
        """The instruction set in use."""
    @property
    def threads(self) -> int:
        """Threads in use, the calling one included."""
    @property
    def weight_bytes(self) -> int:
        """Bytes of packed weights, all layers."""
    @property
    def cache_bytes_per_slot(self) -> int:
        """Bytes of state per slot, all layers."""

@final
class Subsampling:
    """The causal `dw_striding` front with the state of `slots` streams: mel in, encoder frames out.

    3x3 convolutions in float32; pointwise convolutions and the projection have 8-bit weights per
    output and 8-bit activations per pixel or frame. Like `Encoder` in all else.

    Encoder frame i needs mel frames up to factor * i. A chunk of n encoder frames therefore brings
    the factor * n mel frames that end there; of a stream's first chunk the first factor - 1 lie
    before the stream. The result is that of the whole recording, at any chunk widths.
    """

    def __new__(
        cls,
        weights: Mapping[str, Floats],
        *,
        n_mels: int,
        slots: int,
        threads: int,
        isa: str | None = None,
    ) -> Subsampling:
        """Pack NeMo's parameters below `pre_encode`.

        Args:
            weights: `conv.0.weight` (C, 1, 3, 3), then per further halving a depthwise
                `conv.2.weight` (C, 1, 3, 3) and a pointwise `conv.3.weight` (C, C, 1, 1), and so on
                in steps of 3; `out.weight` (D, C * bins); the biases. Other entries are ignored.
            n_mels: mel bins.
            slots: streams that have a place.
            threads: threads to compute on, the calling one included.
            isa: one of `isas()`; None takes the first.

        Raises:
            ValueError: an array is missing or of the wrong shape, a size does not fit, or this
                processor lacks the instruction set.
        """
    def fork(self, slots: int) -> Subsampling:
        """The same weights and threads, shared, with fresh state for `slots` streams.

        Raises:
            ValueError: `slots` is zero or too large.
        """
    def step(self, mel: Floats, slots: Integers, frames: Integers, mel_length: Integers) -> Floats:
        """Advance B streams by one chunk each, their caches in place.

        Args:
            mel: (factor * N, n_mels) contiguous log-mel; the frames of the chunks, one chunk after
                another.
            slots: (B,) distinct.
            frames: (B,) encoder frames of each chunk; they sum to N.
            mel_length: (B,) mel frames that the stream has had with this chunk if it is the last;
                any larger number, such as 2**40, before. What lies beyond is ignored.

        Returns:
            (N, D) encoder frames, before the scale that some models apply.

        Raises:
            TypeError: an array has the wrong dtype or number of dimensions.
            ValueError: the arguments do not fit; no stream has advanced.
        """
    def clear(self, slot: int) -> None:
        """Forget a slot's stream: its next chunk is a stream's first.

        Raises:
            ValueError: there is no such slot.
        """
    def save(self, slot: int) -> bytes:
        """A slot's stream, to `load` into any slot of a subsampling with the same weights.

        Raises:
            ValueError: there is no such slot.
        """
    def load(self, slot: int, state: bytes) -> None:
        """Put a saved stream into a slot, in place of what is there.

        Raises:
            ValueError: there is no such slot, or `state` has the wrong size; nothing has changed.
        """
    @property
    def slots(self) -> int:
        """Streams that have a place."""
    @property
    def d_model(self) -> int:
        """D, numbers per encoder frame."""
    @property
    def factor(self) -> int:
        """Mel frames per encoder frame."""

@final
class Linear:
    """One linear layer with 8-bit weights and an input quantised row by row.

    Thread-safe: calls run one after another, also those of layers made `beside` each other, with
    the GIL released. To the bit, a row's result does not depend on the rows around it.
    """

    def __new__(
        cls,
        weight: Floats,
        bias: Floats | None = None,
        *,
        threads: int,
        isa: str | None = None,
    ) -> Linear:
        """Pack `weight` (outputs, inputs) and `bias` (outputs,), both contiguous.

        Raises:
            ValueError: the sizes do not fit, or this processor lacks the instruction set.
        """
    def beside(self, weight: Floats, bias: Floats | None = None) -> Linear:
        """Pack another layer that takes turns on the same threads, with the same buffers.

        Raises:
            ValueError: the sizes do not fit.
        """
    def __call__(self, x: Floats, out: Floats | None = None) -> Floats:
        """(M, inputs) → (M, outputs), both contiguous; `out` is overwritten and returned.

        Raises:
            ValueError: `x` or `out` has the wrong shape or is not contiguous.
        """
    @property
    def weight_bytes(self) -> int:
        """Bytes of packed weights."""

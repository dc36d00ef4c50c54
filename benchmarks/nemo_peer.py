"""NeMo's own encoder, where NeMo is installed, behind the interface of a `ChunkEncoder`."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from full_size import CONFIGS
from streaming_runs import Unavailable
from torch import Tensor

from nemo_lite.chunk_encoder import Chunk
from nemo_lite.config import AttentionContext
from nemo_lite.network import Network

_CACHED_MEL = 9
_DROPPED = 2


class NemoChunkEncoder:
    """`ConformerEncoder.cache_aware_stream_step`: all slots in every step, all of the same age.

    NeMo caches the inputs of the attention, which it projects again in every step, and encodes nine
    old mel frames again, of which it drops two encoder frames. At look-ahead 0 its second step
    deviates from the whole file.
    """

    snapshot_type = tuple

    def __init__(self, encoder: Any, slots: int) -> None:
        """Use an encoder of `nemo_encoder` for `slots` streams."""
        self._encoder = encoder
        self._caches: tuple[Tensor, Tensor, Tensor] = encoder.get_initial_cache_state(slots)
        self._mel: Tensor | None = None
        self._context: AttentionContext | None = None

    def encode(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Encode one step of all streams."""
        (chunk,) = chunks
        if chunk.context != self._context:
            self._context = chunk.context
            self._encoder.set_default_att_context_size([chunk.context.left, chunk.context.right])
        first = self._mel is None
        # Before the stream's first mel frame there are factor - 1 zeros, which NeMo does not want.
        mel = chunk.mel[:, :, 7:] if self._mel is None else torch.cat((self._mel, chunk.mel), 2)
        self._mel = F.pad(mel, (_CACHED_MEL, 0))[:, :, -_CACHED_MEL:]
        lengths = torch.full((len(mel),), mel.shape[2])
        encoded, _, *caches = self._encoder.cache_aware_stream_step(
            processed_signal=mel,
            processed_signal_length=lengths,
            cache_last_channel=self._caches[0],
            cache_last_time=self._caches[1],
            cache_last_channel_len=self._caches[2],
            keep_all_outputs=True,
            drop_extra_pre_encoded=0 if first else _DROPPED,
        )
        self._caches = (caches[0], caches[1], caches[2])
        return [encoded.transpose(1, 2)]

    def clear(self, slot: int) -> None:
        """Nothing to do: only fresh streams are measured."""

    def save(self, slot: int) -> object:
        """Copy a slot's caches."""
        assert self._mel is not None
        channel, time, length = self._caches
        rows = (channel[:, slot], time[:, slot], length[slot], self._mel[slot])
        return tuple(row.clone() for row in rows)

    def load(self, slot: int, snapshot: Any) -> None:
        """Put a copy that `save` made into a slot."""
        channel, time, length = self._caches
        mel: Tensor = snapshot[3]
        if self._mel is None:
            self._mel = mel.new_zeros(len(length), *mel.shape)
        rows = (channel[:, slot], time[:, slot], length[slot], self._mel[slot])
        for row, saved in zip(rows, snapshot, strict=True):
            row.copy_(saved)


def nemo_encoder(name: str, network: Network) -> Any:
    """NeMo's encoder with the network's weights.

    Raises:
        Unavailable: NeMo is not installed.
    """
    try:
        from nemo.collections.asr.modules import ConformerEncoder  # type: ignore[import-not-found]
    except ImportError as error:
        raise Unavailable("NeMo is not installed") from error
    encoder = ConformerEncoder(**CONFIGS[name]["encoder"])
    encoder.load_state_dict(network.encoder.state_dict(), strict=True)
    encoder.eval().setup_streaming_params()
    return encoder

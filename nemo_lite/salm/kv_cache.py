"""Keys and values of every request, in memory that is allocated once."""

from typing import Self

import torch
from torch import Tensor

from nemo_lite.salm.config import Qwen3Config


class KvCache:
    """Slots of `length` positions. Joining and leaving is an index, not an allocation.

    What a slot held before need not be cleared as long as it is finite: nobody sees positions
    beyond their own, that is, they have the weight zero.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """Use `allocate`."""
        self.keys = keys
        """(layers, S, KV, length + 1, D); idle rows are written to the last position."""
        self.values = values

    @classmethod
    def allocate(cls, config: Qwen3Config, *, slots: int, length: int, like: Tensor) -> Self:
        """Room for `slots` requests of up to `length` rows, in the dtype and place of `like`."""
        shape = (config.layers, slots, config.kv_heads, length + 1, config.head_size)
        # Zeros, as idle rows must not meet what is no number.
        return cls(like.new_zeros(shape), like.new_zeros(shape))

    @property
    def slots(self) -> int:
        """Requests that have a place."""
        return self.keys.shape[1]

    @property
    def length(self) -> int:
        """Positions per slot."""
        return self.keys.shape[3] - 1

    def clear(self, slot: int) -> None:
        """Forget what is no number."""
        self.keys[:, slot].zero_()
        self.values[:, slot].zero_()

    @staticmethod
    def bytes_per_position(config: Qwen3Config, dtype: torch.dtype) -> int:
        """Memory of one position of one slot."""
        return 2 * config.layers * config.kv_heads * config.head_size * dtype.itemsize

"""Multi-head attention with relative positions, over whole files or a chunk and its cache."""

import math

import torch
from torch import Tensor, nn

from nemo_lite.config import EncoderConfig

MASKED = -10_000.0
"""NeMo's score of what must not be seen; finite, so that a row without any key gives no NaN."""


class RelativeAttention(nn.Module):
    """Transformer-XL attention; parameter names are NeMo's."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, bias = config.d_model, config.use_bias
        self._heads = config.heads
        self._scale = 1 / math.sqrt(config.head_size)
        self.linear_q = nn.Linear(width, width, bias)
        self.linear_k = nn.Linear(width, width, bias)
        self.linear_v = nn.Linear(width, width, bias)
        self.linear_out = nn.Linear(width, width, bias)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(config.heads, config.head_size))
        self.pos_bias_v = nn.Parameter(torch.zeros(config.heads, config.head_size))

    def project_positions(self, positions: Tensor) -> Tensor:
        """(P, D) encoded distances → (H, dk, P), ready for `attend`; depends on weights alone."""
        return self._split(self.linear_pos(positions)[None])[0].transpose(1, 2).contiguous()

    def forward(self, x: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Attend within `x` (B, T, D); `positions` and `visible` as for `attend`."""
        return self.attend(x, self.linear_k(x), self.linear_v(x), positions, visible)

    def attend(
        self, x: Tensor, keys: Tensor, values: Tensor, positions: Tensor, visible: Tensor
    ) -> Tensor:
        """Let the frames `x` look at `keys`, of which they are the newest.

        Args:
            x: (B, T, D).
            keys, values: (B, K, D) projected, oldest first, K ≥ T; the last T belong to `x`.
            positions: (H, dk, K + T - 1) from `project_positions`, distances K - 1 ... -(T - 1).
            visible: broadcastable to (B, T, K) bool; what is False has no weight at all.

        Returns:
            (B, T, D).
        """
        q = self._split(self.linear_q(x))  # (B, H, T, dk)
        k, v = self._split(keys), self._split(values)
        content = (q + self.pos_bias_u[:, None]) @ k.transpose(2, 3)
        distance = (q + self.pos_bias_v[:, None]) @ positions
        scores = (content + _by_key(distance, k.shape[2])) * self._scale
        hidden = ~visible.unsqueeze(-3)
        weights = scores.masked_fill(hidden, MASKED).softmax(dim=-1).masked_fill(hidden, 0.0)
        return self.linear_out((weights @ v).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self._heads, -1)).transpose(1, 2)


def _by_key(distance: Tensor, keys: int) -> Tensor:
    """(B, H, T, K + T - 1) scores by distance → (B, H, T, K) by key, without a copy.

    Query i is frame K - T + i, so its distance to key j is at column T - 1 - i + j.
    """
    distance = distance.contiguous()
    batch, heads, row, _ = distance.stride()
    queries = distance.shape[2]
    shape = (*distance.shape[:3], keys)
    return distance.as_strided(
        shape, (batch, heads, row - 1, 1), distance.storage_offset() + queries - 1
    )

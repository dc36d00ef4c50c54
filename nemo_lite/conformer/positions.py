"""Relative positions as sinusoids (arXiv 1901.02860, section 3.3)."""

import torch
from torch import Tensor


def relative_positions(past: int, future: int, d_model: int, *, like: Tensor) -> Tensor:
    """Encode the distances `past`, `past - 1`, ..., `-future`, in frames.

    A distance is the query's time minus the key's: positive looks back.

    Returns:
        (past + future + 1, d_model) on the device and in the dtype of `like`.
    """
    distance = torch.arange(past, -future - 1, -1, device=like.device, dtype=torch.float32)
    even = torch.arange(0, d_model, 2, device=like.device, dtype=torch.float32)
    angle = distance[:, None] * torch.pow(10_000.0, -even / d_model)
    encoded = torch.stack((angle.sin(), angle.cos()), dim=-1)
    return encoded.flatten(1).to(like.dtype)

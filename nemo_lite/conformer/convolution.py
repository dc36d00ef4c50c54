"""The convolution module of a Conformer layer: pointwise, GLU, depthwise, norm, SiLU, pointwise."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nemo_lite.config import EncoderConfig


class BatchNorm(nn.Module):
    """Batch norm with the statistics of the checkpoint, over the last dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., D)."""
        scale = self.weight * torch.rsqrt(self.get_buffer("running_var") + 1e-5)
        return (x - self.get_buffer("running_mean")) * scale + self.bias


class ConvolutionModule(nn.Module):
    """(B, T, D) → (B, T, D). The norm is called `batch_norm` even where it is a layer norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, bias = config.d_model, config.use_bias
        kernel = config.conv_kernel
        self._padding = (kernel - 1, 0) if config.causal_conv else ((kernel - 1) // 2,) * 2
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1, bias=bias)
        self.depthwise_conv = nn.Conv1d(width, width, kernel, groups=width, bias=bias)
        norm = nn.LayerNorm if config.conv_norm == "layer_norm" else BatchNorm
        self.batch_norm = norm(width)
        self.pointwise_conv2 = nn.Conv1d(width, width, 1, bias=bias)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Convolve whole files; `valid` (B, T) bool, other frames count as silence."""
        return self._finish(F.pad(self._gated(x, valid), self._padding))

    def advance(self, x: Tensor, valid: Tensor, cached: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve one chunk after the `cached` (B, D, kernel - 1) frames of its past.

        Returns:
            (B, T, D) and the frames to cache for the next chunk.
        """
        extended = torch.cat((cached, self._gated(x, valid)), dim=2)
        return self._finish(extended), extended[:, :, -cached.shape[2] :]

    def _gated(self, x: Tensor, valid: Tensor) -> Tensor:
        x = _pointwise(self.pointwise_conv1, x)
        return (F.glu(x, dim=-1) * valid[:, :, None]).transpose(1, 2)  # (B, D, T)

    def _finish(self, x: Tensor) -> Tensor:
        x = F.silu(self.batch_norm(self.depthwise_conv(x).transpose(1, 2)))
        return _pointwise(self.pointwise_conv2, x)


def _pointwise(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution of width 1 over (..., D), or the linear layer that took its place."""
    if isinstance(conv, nn.Conv1d):
        return F.linear(x, conv.weight[:, :, 0], conv.bias)
    return conv(x)

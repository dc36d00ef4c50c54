"""One Conformer layer: half feed-forward, attention, convolution, half feed-forward, norm."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nemo_lite.config import EncoderConfig
from nemo_lite.conformer.attention import RelativeAttention
from nemo_lite.conformer.convolution import ConvolutionModule


class FeedForward(nn.Module):
    """Linear, SiLU, Linear."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.linear1 = nn.Linear(config.d_model, config.ff_size, config.use_bias)
        self.linear2 = nn.Linear(config.ff_size, config.d_model, config.use_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        return self.linear2(nn.functional.silu(self.linear1(x)))


@dataclass(slots=True)
class LayerCache:
    """What one layer keeps of B streams: projected keys and values (B, L, D), newest last, and the
    depthwise convolution's input (B, D, kernel - 1)."""

    keys: Tensor
    values: Tensor
    conv: Tensor


class ConformerLayer(nn.Module):
    """A pre-norm macaron block; parameter names are NeMo's."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.d_model
        self.norm_feed_forward1 = nn.LayerNorm(width)
        self.feed_forward1 = FeedForward(config)
        self.norm_self_att = nn.LayerNorm(width)
        self.self_attn = RelativeAttention(config)
        self.norm_conv = nn.LayerNorm(width)
        self.conv = ConvolutionModule(config)
        self.norm_feed_forward2 = nn.LayerNorm(width)
        self.feed_forward2 = FeedForward(config)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, x: Tensor, positions: Tensor, visible: Tensor, valid: Tensor) -> Tensor:
        """Whole files: (B, T, D) → (B, T, D).

        Args:
            x: (B, T, D).
            positions: (H, dk, 2 T - 1), this layer's projected distances.
            visible: broadcastable to (B, T, T), which frame (row) sees which (column).
            valid: (B, T) bool, False for padding.
        """
        x = x + 0.5 * self.feed_forward1(self.norm_feed_forward1(x))
        x = x + self.self_attn(self.norm_self_att(x), positions, visible)
        x = x + self.conv(self.norm_conv(x), valid)
        x = x + 0.5 * self.feed_forward2(self.norm_feed_forward2(x))
        return self.norm_out(x)

    def advance(
        self, x: Tensor, cache: LayerCache, positions: Tensor, visible: Tensor, valid: Tensor
    ) -> Tensor:
        """One chunk of live streams; `cache` then holds what the next chunk needs.

        Args:
            x: (B, T, D).
            cache: of L frames.
            positions: (H, dk, L + 2 T - 1).
            visible: broadcastable to (B, T, L + T).
            valid: (B, T) bool.
        """
        x = x + 0.5 * self.feed_forward1(self.norm_feed_forward1(x))
        normed = self.norm_self_att(x)
        left = cache.keys.shape[1]
        keys = torch.cat((cache.keys, self.self_attn.linear_k(normed)), dim=1)
        values = torch.cat((cache.values, self.self_attn.linear_v(normed)), dim=1)
        x = x + self.self_attn.attend(normed, keys, values, positions, visible)
        cache.keys, cache.values = (
            keys[:, keys.shape[1] - left :],
            values[:, keys.shape[1] - left :],
        )
        convolved, cache.conv = self.conv.advance(self.norm_conv(x), valid, cache.conv)
        x = x + convolved
        x = x + 0.5 * self.feed_forward2(self.norm_feed_forward2(x))
        return self.norm_out(x)

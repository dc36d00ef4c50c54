"""`dw_striding` subsampling: stride-2 convolutions over time and frequency, then a projection.

Causal and not; whole files and, when causal, live chunks with one cached frame per convolution.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nemo_lite.config import EncoderConfig

T = TypeVar("T", int, Tensor)

UNBOUNDED = 2**40
"""A length in mel frames for streams that have not ended."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where the chunk of each stream lies in the stream; needed for first and last chunks.

    `first_frame` (B,) is the index of the chunk's first encoder frame, `mel_length` (B,) the mel
    frames the stream will have had (`UNBOUNDED` until it has ended). Both int64.
    """

    first_frame: Tensor
    mel_length: Tensor


class Subsampling(nn.Module):
    """(B, n_mels, T) log-mel → (B, ceil(T / factor) or so, D). Parameter names are NeMo's."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self._causal = config.causal_subsampling
        channels = config.subsampling_channels
        stages = config.subsampling_factor.bit_length() - 1
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, 2), nn.ReLU()]
        for _ in range(stages - 1):
            layers.append(nn.Conv2d(channels, channels, 3, 2, groups=channels))
            layers.append(nn.Conv2d(channels, channels, 1))
            layers.append(nn.ReLU())
        self.conv = nn.ModuleList(layers)
        bins = [config.n_mels]
        for _ in range(stages):
            bins.append(self._halved(bins[-1]))
        self.out = nn.Linear(channels * bins[-1], config.d_model)
        self.cached_shapes = [(1, bins[0]), *((channels, width) for width in bins[1:-1])]
        """(channels, bins) of the one frame that each stride-2 convolution keeps of a stream."""

    def forward(self, mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Subsample whole recordings.

        Args:
            mel: (B, n_mels, T) log-mel; what lies at or beyond `lengths` is ignored.
            lengths: (B,) int64 mel frames.

        Returns:
            (B, T', D) and (B,) int64; frames at or beyond the new lengths are the projection of
            zeros.
        """
        x = mel.transpose(1, 2).unsqueeze(1)  # (B, 1, T, F)
        left, right = self._padding
        for stage in self._stages():
            x = _keep(x, torch.arange(x.shape[2], device=x.device) < lengths[:, None])
            x = stage(F.pad(x, (left, right, left, right)))
            lengths = self._halved(lengths)
        x = _keep(x, torch.arange(x.shape[2], device=x.device) < lengths[:, None])
        return self._project(x), lengths

    def advance(self, mel: Tensor, cached: list[Tensor], bounds: Bounds | None) -> Tensor:
        """Subsample one chunk of live streams, exactly as the whole file would be.

        Encoder frame i needs mel frames up to factor * i. A chunk of n encoder frames therefore
        brings the `factor * n` mel frames that end there; the very first chunk's first
        `factor - 1` of them lie before the stream and are zero.

        NeMo instead re-computes frames from nine old mel frames, which at look-ahead 0 deviates
        from the whole file; this does not.

        Args:
            mel: (B, n_mels, factor * n).
            cached: per convolution (B, channels, 1, bins), the frame before; replaced in place by
                the frame before the next chunk.
            bounds: None when no stream is at its first or last chunk.

        Returns:
            (B, n, D).
        """
        x = mel.transpose(1, 2).unsqueeze(1)
        factor = self.factor
        left, right = self._padding
        for index, stage in enumerate(self._stages()):
            if bounds is not None:
                start = factor * bounds.first_frame - (factor - 1)
                at = start[:, None] + torch.arange(x.shape[2], device=x.device)
                x = _keep(x, (at >= 0) & (at < bounds.mel_length[:, None]))
                bounds = Bounds(bounds.first_frame, self._halved(bounds.mel_length))
            factor //= 2
            extended = torch.cat((cached[index], x), dim=2)
            cached[index] = x[:, :, -1:]
            x = stage(F.pad(extended, (left, right)))
        return self._project(x)

    def output_frames(self, mel_frames: int) -> int:
        """Encoder frames of a recording of so many mel frames."""
        for _ in self.cached_shapes:
            mel_frames = self._halved(mel_frames)
        return mel_frames

    @property
    def factor(self) -> int:
        """Mel frames per encoder frame."""
        return 2 ** len(self.cached_shapes)

    @property
    def _padding(self) -> tuple[int, int]:
        return (2, 1) if self._causal else (1, 1)

    def _halved(self, length: T) -> T:
        return (length + sum(self._padding) - 3) // 2 + 1

    def _stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        first, relu, *rest = self.conv
        yield lambda x: relu(first(x))
        for at in range(0, len(rest), 3):
            depthwise, pointwise, relu = rest[at : at + 3]
            yield lambda x, d=depthwise, p=pointwise, r=relu: r(p(d(x)))

    def _project(self, x: Tensor) -> Tensor:
        return self.out(x.transpose(1, 2).flatten(2))  # (B, T, C * F), channel major


def _keep(x: Tensor, valid: Tensor) -> Tensor:
    return x * valid[:, None, :, None]

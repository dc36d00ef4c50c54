"""The log-mel front end: whole recordings, batches of live streams, and one incremental stream.

A feature frame depends on `window_samples` samples and, through pre-emphasis, on the one before
them. All three ways cut the same samples for it, so they give the same numbers. NeMo's production
pipeline does not: it cuts the audio into chunks first, and the frames at chunk borders miss samples
on both sides. Here every frame equals the one NeMo computes from the whole recording.
"""

import copy
import math
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nemo_lite.config import PreprocessorConfig
from nemo_lite.errors import CheckpointError, ShapeError, StreamStateError, UnsupportedError

UNKNOWN_LENGTH = 2**62
"""A stream length in samples for streams that have not ended."""

_BLOCK_FRAMES = 1024
"""Frames computed at once: bounds the memory of long recordings."""

_STD_GUARD = 1e-5
"""NeMo's constant, added to the standard deviation before dividing by it."""


class AudioPreprocessor(nn.Module):
    """Raw 16 kHz samples in -1..1 → natural-log mel power, NeMo's inference numbers.

    Always float32, whatever dtype the rest of the network has. The buffers `featurizer.fb`
    (1, n_mels, n_fft // 2 + 1) and `featurizer.window` (window_samples,) carry NeMo's names, so a
    checkpoint's own tables load strictly. They are filled at construction, also inside a
    `torch.device("meta")` block, so that a checkpoint may leave them out.

    Source: NeMo's `AudioToMelSpectrogramPreprocessor`; mel scale and filter area after Slaney,
    Auditory Toolbox (1998).
    """

    def __init__(self, config: PreprocessorConfig) -> None:
        super().__init__()
        if not 0 < config.hop_samples <= config.window_samples <= config.n_fft:
            raise CheckpointError(
                f"preprocessor: hop {config.hop_samples}, window {config.window_samples} and "
                f"n_fft {config.n_fft} samples do not grow in this order"
            )
        self.config = config
        self.featurizer = _Featurizer(config)

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel of whole recordings, normalised and padded as the configuration says.

        Args:
            samples: (B, S) float32; what lies at or beyond `lengths` is ignored.
            lengths: (B,) int64 samples.

        Returns:
            (B, n_mels, T) float32 and (B,) int64, the frames that are valid: one per whole hop.
            T is S // hop_samples + 1, or the next multiple of `pad_to`; other frames are 0.

        Raises:
            ShapeError: a shape or dtype is not as stated, or a length is not within 0..S.
        """
        _require(samples, torch.float32, (-1, -1), "samples")
        rows, size = samples.shape
        _require(lengths, torch.int64, (rows,), "lengths")
        if bool(((lengths < 0) | (lengths > size)).any()):
            raise ShapeError(f"lengths {lengths.tolist()} are not all within 0..{size}")
        count = size // self.config.hop_samples
        multiple = max(1, self.config.pad_to)
        width = math.ceil((count + 1) / multiple) * multiple
        mel = samples.new_zeros(rows, self.config.n_mels, width)
        if count:
            lead = -self.span_offset
            spans = F.pad(samples, (lead, self.span_samples(count) - lead - size))
            mel[..., :count] = self.frames(spans, torch.full_like(lengths, -lead), lengths)
        mel_lengths = lengths // self.config.hop_samples
        if self.config.normalize == "per_feature":
            mel = _per_feature(mel, mel_lengths)
        return mel, mel_lengths

    def frames(self, spans: Tensor, first: Tensor, total: Tensor) -> Tensor:
        """Log-mel of consecutive frames of several streams, each at its own position.

        Frame f needs the samples from `f * hop_samples + span_offset` on; t frames need
        `span_samples(t)` of them. Never normalised. Shapes follow from the arguments' shapes alone
        and nothing waits for the device, so a CUDA graph can hold it. Rows do not see each other.

        Args:
            spans: (B, W) float32, W == span_samples(t) for some t >= 1. Samples outside
                0..total are taken as zero, whatever is there.
            first: (B,) int64 sample index in the stream of each row's first sample, which is
                f * hop_samples + span_offset for a frame f; both may be negative.
            total: (B,) int64 length of each stream in samples, `UNKNOWN_LENGTH` until it has ended.

        Returns:
            (B, n_mels, t) float32, a transposed view. Frames before the stream or at or beyond
            total // hop_samples are exactly 0.

        Raises:
            ShapeError: a shape or dtype is not as stated.
        """
        _require(spans, torch.float32, (-1, -1), "spans")
        rows, size = spans.shape
        _require(first, torch.int64, (rows,), "first")
        _require(total, torch.int64, (rows,), "total")
        hop = self.config.hop_samples
        count, rest = divmod(size - self.span_samples(0), hop)
        if count < 1 or rest:
            raise ShapeError(f"{size} samples per row are no whole number of frames")
        blocks: list[Tensor] = []
        for at in range(0, count, _BLOCK_FRAMES):
            end = at * hop + self.span_samples(min(_BLOCK_FRAMES, count - at))
            blocks.append(self._log_mel(spans[:, at * hop : end], first + at * hop, total))
        mel = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
        return mel.transpose(1, 2)

    def stream(self) -> "MelStream":
        """An incremental front end for one audio source, on this module's device.

        Raises:
            UnsupportedError: the features are normalised over the whole recording.
        """
        if self.config.normalize is not None:
            raise UnsupportedError(
                f"{self.config.normalize} normalisation needs the whole recording: "
                "this model cannot stream"
            )
        return MelStream(self)

    @property
    def span_offset(self) -> int:
        """The first sample that frame f needs, minus `f * hop_samples`: negative.

        That is the start of the window, which is centred at f * hop_samples, and one sample more.
        """
        left_margin = (self.config.n_fft - self.config.window_samples) // 2
        return left_margin - self.config.n_fft // 2 - 1

    def span_samples(self, frames: int) -> int:
        """Samples needed for so many consecutive frames."""
        return (frames - 1) * self.config.hop_samples + self.config.window_samples + 1

    def complete_frames(self, samples: int) -> int:
        """How many frames of a stream are certain once its first `samples` samples are known."""
        hop = self.config.hop_samples
        first_end = self.span_offset + self.span_samples(1)
        return max(0, min((samples - first_end) // hop + 1, samples // hop))

    def _log_mel(self, spans: Tensor, first: Tensor, total: Tensor) -> Tensor:
        """`frames` without checks and blocks; (B, t, n_mels)."""
        config = self.config
        at = torch.arange(spans.shape[1], device=spans.device)
        outside = (at < -first[:, None]) | (at >= (total - first)[:, None])
        # Masked before pre-emphasis for its first sample and again after for the one past the end.
        x = spans.masked_fill(outside, 0.0)
        x = torch.sub(x[:, 1:], x[:, :-1], alpha=config.preemphasis)
        x = x.masked_fill(outside[:, 1:], 0.0)
        x = x.unfold(1, config.window_samples, config.hop_samples)  # (B, t, window)
        # Where the window lies inside n_fft only turns phases, so it starts at 0 here.
        spectrum = torch.fft.rfft(x * self.featurizer.window, n=config.n_fft)
        power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
        mel = F.linear(power, self.featurizer.fb[0].float())  # (B, t, n_mels)
        mel = mel.add_(config.log_guard).log_()
        frame = (first - self.span_offset)[:, None] // config.hop_samples
        frame = frame + torch.arange(mel.shape[1], device=mel.device)
        outside = (frame < 0) | (frame >= (total // config.hop_samples)[:, None])
        return mel.masked_fill_(outside[..., None], 0.0)


class MelStream:
    """Log-mel of one source that arrives in packets, equal to the whole recording's.

    All results joined are the valid frames of `AudioPreprocessor.forward` on all packets joined,
    whatever the packets' sizes.
    """

    def __init__(self, preprocessor: AudioPreprocessor) -> None:
        self._preprocessor = preprocessor
        device = preprocessor.featurizer.window.device
        # The samples from the next frame's first one on; before the stream there is silence.
        self._samples = torch.zeros(-preprocessor.span_offset, device=device)
        self._received = 0
        self._frames = 0
        self._finished = False

    def push(self, samples: Tensor) -> Tensor:
        """Take a packet of (S,) float32 samples; (n_mels, t) frames that are complete now.

        Raises:
            ShapeError: `samples` is not (S,) float32.
            StreamStateError: the stream is finished.
        """
        self._require_open()
        _require(samples, torch.float32, (-1,), "samples")
        self._samples = torch.cat((self._samples, samples))
        self._received += len(samples)
        return self._advance(self._preprocessor.complete_frames(self._received), UNKNOWN_LENGTH)

    def finish(self) -> Tensor:
        """End the stream; the (n_mels, t) frames that were still waiting for samples.

        Raises:
            StreamStateError: the stream is finished already.
        """
        self._require_open()
        self._finished = True
        hop = self._preprocessor.config.hop_samples
        return self._advance(self._received // hop, self._received)

    def clone(self) -> Self:
        """An independent stream that continues from here."""
        return copy.copy(self)  # tensors are replaced, never written to

    def _require_open(self) -> None:
        if self._finished:
            raise StreamStateError("the stream is finished")

    def _advance(self, until: int, total: int) -> Tensor:
        """Frames up to `until`; drops the samples that no later frame needs."""
        config, count = self._preprocessor.config, until - self._frames
        if count == 0:
            return self._samples.new_empty(config.n_mels, 0)
        missing = self._preprocessor.span_samples(count) - len(self._samples)
        first = self._frames * config.hop_samples + self._preprocessor.span_offset
        mel = self._preprocessor.frames(
            F.pad(self._samples, (0, missing))[None],  # cuts what is too much
            torch.tensor([first], device=self._samples.device),
            torch.tensor([total], device=self._samples.device),
        )
        self._samples = self._samples[count * config.hop_samples :].clone()
        self._frames = until
        return mel[0]


class _Featurizer(nn.Module):
    """The two tables that NeMo stores in its checkpoints."""

    fb: Tensor
    window: Tensor

    def __init__(self, config: PreprocessorConfig) -> None:
        super().__init__()
        # NumPy, because a meta device block would leave torch's own factories without values.
        window = np.hanning(config.window_samples)  # symmetric
        filters = _mel_filters(config.sample_rate, config.n_fft, config.n_mels)
        self.register_buffer("fb", torch.from_numpy(filters.astype(np.float32))[None])
        self.register_buffer("window", torch.from_numpy(window.astype(np.float32)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the model to another device, but not to a narrower dtype."""

        def moved(table: Tensor) -> Tensor:
            result = fn(table)
            return result if result.dtype == table.dtype else table.to(result.device)

        return super()._apply(moved, recurse)


def _mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """Triangles of equal area up to half the rate, (n_mels, n_fft // 2 + 1) float64."""
    linear_hz, knee_hz, log_step = 200 / 3, 1000.0, math.log(6.4) / 27
    knee = knee_hz / linear_hz
    top_hz = sample_rate / 2
    above = math.log(max(top_hz / knee_hz, 1.0)) / log_step
    mels = np.linspace(0.0, min(top_hz, knee_hz) / linear_hz + above, n_mels + 2)
    edges = mels.clip(max=knee) * linear_hz * np.exp(log_step * (mels - knee).clip(min=0.0))
    bins = np.linspace(0.0, top_hz, n_fft // 2 + 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    return triangles.clip(min=0.0) * 2.0 / (high - low)


def _per_feature(mel: Tensor, lengths: Tensor) -> Tensor:
    """Mean 0 and unbiased deviation 1 per row and mel bin over the valid frames; others stay 0."""
    valid = torch.arange(mel.shape[2], device=mel.device) < lengths[:, None]
    count = lengths[:, None, None]
    mean = mel.sum(2, keepdim=True) / count.clamp(min=1)
    centred = (mel - mean).masked_fill(~valid[:, None], 0.0)
    # One valid frame has no deviation; NeMo takes 0, as the sum of its squares is.
    variance = centred.square().sum(2, keepdim=True) / (count - 1).clamp(min=1)
    return centred / (variance.sqrt() + _STD_GUARD)


def _require(tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], name: str) -> None:
    """Raise ShapeError unless dtype and shape fit; -1 is any size."""
    fits = len(shape) == tensor.ndim and all(
        want in (-1, size) for want, size in zip(shape, tensor.shape, strict=True)
    )
    if not fits or tensor.dtype != dtype:
        raise ShapeError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {dtype} {shape}")

"""The FastConformer encoder: log-mel in, one vector per 80 ms out."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from nemo_lite.config import AttentionContext, EncoderConfig
from nemo_lite.conformer.cache import EncoderCache
from nemo_lite.conformer.layer import ConformerLayer
from nemo_lite.conformer.positions import relative_positions
from nemo_lite.conformer.subsampling import Bounds, Subsampling
from nemo_lite.errors import ShapeError, UnsupportedError


class FastConformer(nn.Module):
    """NeMo's `ConformerEncoder` for inference; its `state_dict` loads strictly, unrenamed."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.input_scale = math.sqrt(config.d_model) if config.xscaling else 1.0
        """What subsampled frames are multiplied by before the first layer."""
        self.pre_encode = Subsampling(config)
        self._layers = [ConformerLayer(config) for _ in range(config.layers)]
        self.layers = nn.ModuleList(self._layers)

    def forward(
        self, mel: Tensor, lengths: Tensor, *, lookahead: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode whole recordings in one pass.

        Args:
            mel: (B, n_mels, T) log-mel, 10 ms hop; what lies at or beyond `lengths` is ignored.
            lengths: (B,) int64, mel frames.
            lookahead: encoder frames, one of the checkpoint's; None = its default. The mask is the
                streaming one, so that live streams give the same frames.

        Returns:
            (B, T', D) frames of 80 ms and (B,) int64 lengths; what lies beyond is undefined.

        Raises:
            ShapeError: `mel` has another number of mel bins.
            ValueError: the checkpoint has no such look-ahead.
        """
        *_, encoded = self.layer_by_layer(mel, lengths, lookahead=lookahead)
        return encoded

    def layer_by_layer(
        self,
        mel: Tensor,
        lengths: Tensor,
        *,
        lookahead: int | None = None,
        positions: Sequence[Tensor] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """`forward` in pieces of similar cost, each computed when it is asked for.

        Args:
            mel: as for `forward`.
            lengths: as for `forward`.
            lookahead: as for `forward`.
            positions: per layer the projected distances of at least as many frames, see
                `offline_positions`; None = computed here.

        Yields:
            What `forward` gives, after subsampling and after each layer; the last is the result.

        Raises:
            ShapeError: `mel` has another number of mel bins.
            ValueError: the checkpoint has no such look-ahead.
        """
        if mel.ndim != 3 or mel.shape[1] != self.config.n_mels:
            raise ShapeError(f"mel is {tuple(mel.shape)}, not (B, {self.config.n_mels}, T)")
        context = self.config.context(lookahead)
        x, lengths = self.pre_encode(mel, lengths)
        frames = x.shape[1]
        valid = torch.arange(frames, device=x.device) < lengths[:, None]
        visible = valid[:, :, None] & valid[:, None, :]
        if context is not None:
            visible = visible & chunk_mask(frames, frames, context, device=x.device)
        x = x * self.input_scale
        yield x, lengths
        distances = relative_positions(frames - 1, frames - 1, self.config.d_model, like=x)
        for index, layer in enumerate(self._layers):
            if positions is None:
                projected = layer.self_attn.project_positions(distances)
            else:
                unused = (positions[index].shape[2] - 2 * frames + 1) // 2
                projected = positions[index].narrow(2, unused, 2 * frames - 1)
            x = layer(x, projected, visible, valid)
            yield x, lengths

    def offline_positions(self, frames: int) -> list[Tensor]:
        """Per layer the projected distances for `layer_by_layer` of up to `frames` frames."""
        like = next(self.layers.parameters())
        distances = relative_positions(frames - 1, frames - 1, self.config.d_model, like=like)
        return [layer.self_attn.project_positions(distances) for layer in self._layers]

    def release_layers(self) -> Iterator[ConformerLayer]:
        """Give the layers away, first to last, for another implementation to take over.

        Each is dropped from this encoder when the next is asked for; then `forward` and `advance`
        work no more and only subsampling is left.
        """
        self.layers = nn.ModuleList()
        while self._layers:
            yield self._layers.pop(0)

    def new_cache(self, slots: int) -> EncoderCache:
        """Allocate the state of `slots` streams on the encoder's device, in its dtype.

        Raises:
            UnsupportedError: the encoder is not cache-aware.
        """
        if not self.config.streaming:
            raise UnsupportedError("this model was not trained for streaming")
        return EncoderCache(self.config, self.pre_encode, slots, like=self.pre_encode.out.weight)

    def positions(self, context: AttentionContext, frames: int) -> list[Tensor]:
        """Per layer the projected distances of steps of up to `frames` frames.

        They depend on weights alone: compute them once, pass them to every `advance`.
        """
        distances = relative_positions(
            context.left + frames - 1,
            frames - 1,
            self.config.d_model,
            like=self.pre_encode.out.weight,
        )
        return [layer.self_attn.project_positions(distances) for layer in self._layers]

    def subsample(
        self, mel: Tensor, cache: EncoderCache, slots: Tensor, bounds: Bounds | None
    ) -> Tensor:
        """Subsample one chunk per stream: (B, n_mels, 8 n) → (B, n, D); see `Subsampling.advance`.

        Advances the rows `slots` of the cache in place.
        """
        rows = [tensor[slots] for tensor in cache.subsampling]
        x = self.pre_encode.advance(mel, rows, bounds)
        for tensor, row in zip(cache.subsampling, rows, strict=True):
            tensor[slots] = row
        return x

    def advance(
        self,
        x: Tensor,
        valid_frames: Tensor,
        cache: EncoderCache,
        slots: Tensor,
        context: AttentionContext,
        positions: list[Tensor],
    ) -> Tensor:
        """Encode the next subsampled frames of each stream and advance the caches in place.

        Args:
            x: (B, T, D) from `subsample`; T is `context.chunk_frames` for a live step, a multiple
                of it to catch up, anything in a stream's last step.
            valid_frames: (B,) int64 in 0..T; fewer than T only in a stream's last step.
            cache: from `new_cache`.
            slots: (B,) int64, distinct; row b of `x` belongs to slot `slots[b]`.
            context: look-ahead and left context of all these streams.
            positions: from `positions(context, frames)` with frames ≥ T.

        Returns:
            (B, T, D); frames at or beyond `valid_frames` are undefined.

        Source: arXiv 2312.17279.
        """
        width, left = x.shape[1], context.left
        unused = (positions[0].shape[2] - left - 2 * width + 1) // 2
        columns = slice(unused, positions[0].shape[2] - unused)
        valid = torch.arange(width, device=x.device) < valid_frames[:, None]
        seen = cache.frames[slots]
        cached = torch.arange(left, 0, -1, device=x.device) <= seen[:, None]
        visible = torch.cat((cached, valid), dim=1)[:, None, :] & valid[:, :, None]  # (B, T, L + T)
        if width > context.chunk_frames:
            visible = visible & chunk_mask(width, left + width, context, device=x.device)
        x = x * self.input_scale
        for index, layer in enumerate(self._layers):
            rows = cache.layer(index, slots, left)
            x = layer.advance(x, rows, positions[index][:, :, columns], visible, valid)
            cache.store(index, slots, rows)
        cache.frames[slots] = seen + width
        return x


def chunk_mask(
    queries: int, keys: int, context: AttentionContext, *, device: torch.device
) -> Tensor:
    """(queries, keys) bool: which of the last `queries` of `keys` frames sees which frame.

    NeMo's `chunked_limited`: a frame sees its whole chunk and the `left` frames before the chunk.
    """
    chunk = torch.arange(keys, device=device) // context.chunk_frames
    behind = chunk[keys - queries :, None] - chunk[None, :]
    return (behind >= 0) & (behind <= context.left // context.chunk_frames)

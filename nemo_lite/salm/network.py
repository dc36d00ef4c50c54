"""Canary-Qwen's modules under one roof: perception, embedding, language model, head."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nemo_lite.conformer import FastConformer
from nemo_lite.features import AudioPreprocessor
from nemo_lite.salm.config import Qwen3Config, SalmConfig
from nemo_lite.salm.qwen3 import Qwen3


class Perception(nn.Module):
    """Audio to vectors that the language model reads in place of embedded tokens."""

    def __init__(self, config: SalmConfig) -> None:
        super().__init__()
        self.preprocessor = AudioPreprocessor(config.preprocessor)
        self.encoder = FastConformer(config.encoder)
        self.proj = nn.Linear(config.encoder.d_model, config.output_width)

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode recordings in one batch; padding changes nothing.

        Args:
            samples: (B, S) float32 at the model's rate; what lies beyond `lengths` is ignored.
            lengths: (B,) int64.

        Returns:
            (B, T, width) frames of 80 ms and (B,) int64 lengths; what lies beyond is undefined.
        """
        *_, encoded = self.piece_by_piece(samples, lengths)
        return encoded

    def piece_by_piece(
        self, samples: Tensor, lengths: Tensor, positions: Sequence[Tensor] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """`forward` in pieces of similar cost, each computed when it is asked for.

        Args:
            samples: as for `forward`.
            lengths: as for `forward`.
            positions: of the encoder, see `FastConformer.layer_by_layer`.

        Yields:
            What is there so far; the last is what `forward` gives.
        """
        mel, mel_lengths = self.preprocessor(samples, lengths)
        mel = mel.to(self.encoder.pre_encode.conv[0].weight.dtype)
        frames, frame_lengths = mel, mel_lengths
        pieces = self.encoder.layer_by_layer(mel, mel_lengths, positions=positions)
        for frames, frame_lengths in pieces:
            yield frames, frame_lengths
        yield self.proj(frames), torch.where(mel_lengths > 0, frame_lengths, 0)

    def output_frames(self, samples: int) -> int:
        """Valid frames of a recording of so many samples."""
        mel_frames = samples // self.preprocessor.config.hop_samples
        return self.encoder.pre_encode.output_frames(mel_frames) if mel_frames else 0


class SalmNetwork(nn.Module):
    """NeMo's `SALM` with its adapters merged into the weights."""

    def __init__(self, config: SalmConfig, llm: Qwen3Config) -> None:
        super().__init__()
        self.perception = Perception(config)
        self.embed_tokens = nn.Embedding(
            llm.vocabulary_size, llm.width, _weight=torch.empty(llm.vocabulary_size, llm.width)
        )
        self.llm = Qwen3(llm)
        self.lm_head = nn.Linear(llm.width, llm.vocabulary_size, bias=False)
        """Shares its weights with the embedding where the checkpoint does."""
        self.torch_threads: int | None = None
        """For torch's operations where others compute on threads of their own; None = as set."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the language model computes in."""
        return self.llm.norm.weight.dtype

    def embed(self, tokens: Tensor) -> Tensor:
        """(N,) int64 → (N, width)."""
        return F.embedding(tokens, self.embed_tokens.weight).to(self.dtype)

    def scores(self, hidden: Tensor) -> Tensor:
        """(N, width) from the language model → (N, vocabulary) float32 logits of the next token."""
        return self.lm_head(hidden).float()

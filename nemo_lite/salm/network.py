"""Canary-Qwen's modules under one roof: perception, embedding, language model, head."""

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
        mel, mel_lengths = self.preprocessor(samples, lengths)
        frames, frame_lengths = self.encoder(mel.to(self.proj.weight.dtype), mel_lengths)
        return self.proj(frames), torch.where(mel_lengths > 0, frame_lengths, 0)


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

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the language model computes in."""
        return self.embed_tokens.weight.dtype

    def embed(self, tokens: Tensor) -> Tensor:
        """(N,) int64 → (N, width)."""
        return F.embedding(tokens, self.embed_tokens.weight)

    def scores(self, hidden: Tensor) -> Tensor:
        """(N, width) from the language model → (N, vocabulary) float32 logits of the next token."""
        return self.lm_head(hidden).float()

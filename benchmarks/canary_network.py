"""Canary-Qwen with random weights, in its real size and smaller, and requests to it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from full_size import babble
from numpy.typing import NDArray

from nemo_lite.config import EncoderConfig, PreprocessorConfig
from nemo_lite.salm.config import Qwen3Config, SalmConfig
from nemo_lite.salm.network import SalmNetwork
from nemo_lite.salm.tokenizer import PromptIds

TOKENS_PER_SECOND = 3.0
"""Random weights never end by themselves: English speech has about so many tokens."""
PROMPT = PromptIds(tuple(range(10, 18)), tuple(range(20, 25)))
"""As long as the real one."""

_ENCODER = EncoderConfig(n_mels=128, layers=32, d_model=1024, heads=8, ff_size=4096, xscaling=False)
_LLM = Qwen3Config(
    vocabulary_size=151_936,
    width=2048,
    layers=28,
    heads=16,
    kv_heads=8,
    head_size=128,
    ff_size=6144,
    norm_eps=1e-6,
    rope_theta=1e6,
    tied=True,
)
SIZES: Mapping[str, tuple[EncoderConfig, Qwen3Config]] = {
    "full": (_ENCODER, _LLM),
    # A quarter of the layers in both parts, of full width, and of the vocabulary.
    "scaled": (
        replace(_ENCODER, layers=8),
        replace(_LLM, layers=7, vocabulary_size=151_936 // 4),
    ),
    "tiny": (
        replace(_ENCODER, layers=2, d_model=32, heads=2, ff_size=64, subsampling_channels=8),
        replace(
            _LLM,
            layers=2,
            width=32,
            heads=4,
            kv_heads=2,
            head_size=16,
            ff_size=64,
            vocabulary_size=100,
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Request:
    """A recording and how many tokens are to be written for it."""

    samples: NDArray[np.float32]
    tokens: int

    @property
    def seconds(self) -> float:
        """Of audio."""
        return len(self.samples) / 16_000


def request(seconds: float, seed: int) -> Request:
    """Noise that changes like speech."""
    samples = babble(seconds, seed).numpy().astype(np.float32)
    return Request(samples, max(1, round(seconds * TOKENS_PER_SECOND)))


def random_salm(size: str, *, dtype: torch.dtype, device: str, seed: int = 0) -> SalmNetwork:
    """A network in evaluation, tensors made one by one in their final type.

    Args:
        size: a key of `SIZES`.
        dtype: of all weights.
        device: where they are made.
        seed: of the weights.
    """
    encoder, llm = SIZES[size]
    config = SalmConfig(
        PreprocessorConfig(encoder.n_mels, normalize="per_feature"),
        encoder,
        llm.width,
        "<|audioplaceholder|>",
        "Qwen/Qwen3-1.7B",
        0,
        0.0,
        (),
    )
    with torch.device("meta"):
        network = SalmNetwork(config, llm).eval().requires_grad_(requires_grad=False)
    generator = torch.Generator(device).manual_seed(seed)
    for module in list(network.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 1:
                value = torch.full(parameter.shape, float(name == "weight"))
            else:
                # Rows of about one length: what a layer adds is as large as what it reads.
                value = torch.randn(parameter.shape, generator=generator, device=device)
                value /= parameter[0].numel() ** 0.5
            value = value.to(device, dtype)
            setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
    for module in network.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                full = float(name == "running_var")
                setattr(module, name, torch.full(buffer.shape, full, device=device, dtype=dtype))
    network.lm_head.weight = network.embed_tokens.weight
    network.perception.preprocessor.to(device)
    return network

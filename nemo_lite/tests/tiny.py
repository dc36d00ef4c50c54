"""A small model with random weights that behaves like a recogniser: some frames emit tokens."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from nemo_lite.config import (
    AttentionContext,
    EncoderConfig,
    JointConfig,
    ModelConfig,
    PredictorConfig,
    PreprocessorConfig,
)
from nemo_lite.decoding import Decoded, RnntDecoder
from nemo_lite.model import Model
from nemo_lite.network import Network
from nemo_lite.tokenizer import Tokenizer

CONFIG = ModelConfig(
    preprocessor=PreprocessorConfig(n_mels=80),
    encoder=EncoderConfig(
        n_mels=80,
        layers=2,
        d_model=32,
        heads=4,
        ff_size=64,
        conv_norm="layer_norm",
        causal_conv=True,
        subsampling_channels=8,
        causal_subsampling=True,
        contexts=tuple(AttentionContext(28, right) for right in (13, 6, 1, 0)),
    ),
    vocabulary_size=48,
    predictor=PredictorConfig(48, hidden=16, layers=1),
    joint=JointConfig(encoder_size=32, predictor_size=16, hidden=24, vocabulary_size=48),
    ctc=True,
    max_symbols=2,
)


def random_network(config: ModelConfig = CONFIG, *, seed: int = 0) -> Network:
    """Random weights; about a third of the frames of noise emit a token."""
    torch.manual_seed(seed)
    network = Network(config).eval()
    with torch.inference_mode():
        for parameter in network.encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        mel = torch.randn(1, config.encoder.n_mels, 800) * 2 - 8
        frames, _ = network.encoder(mel, torch.tensor([800]))
        projected = network.joint.enc(frames[0])
        network.joint.enc.weight *= 2 / projected.std(0).mean()
        network.joint.enc.bias -= network.joint.enc(frames[0]).mean(0)
        network.joint.pred.weight *= 4
        hidden, _ = network.decoder.start()
        joined = network.joint.enc(frames[0]) + network.joint.pred(hidden[:, -1])
        scores = network.joint(joined)
        margin = (scores[:, :-1].amax(1) - scores[:, -1]).quantile(0.67)
        output = network.joint.joint_net[-1]
        assert isinstance(output, torch.nn.Linear)
        output.bias[-1] += margin
    return network


@cache
def tiny_model() -> Model:
    """Shared by tests: models never change."""
    pieces = [f"▁{letters}" for letters in "abcdefghijklmnopqrstuvwx"]
    pieces += [piece[1:].upper() for piece in pieces]
    return Model(random_network(), Tokenizer.from_pieces(pieces))


def noise(seconds: float, *, seed: int = 0) -> NDArray[np.float32]:
    """(S,) noise whose level changes several times a second."""
    random = np.random.default_rng(seed)
    count = round(seconds * 16_000)
    level = np.repeat(random.uniform(0.001, 0.3, count // 2_000 + 1), 2_000)[:count]
    return (random.standard_normal(count) * level).astype(np.float32)


@torch.inference_mode()
def whole_file(model: Model, samples: NDArray[np.float32], lookahead: int) -> list[int]:
    """Token ids by the plain definition: one masked pass over the whole recording."""
    network = model._network
    lengths = torch.tensor([len(samples)])
    mel, mel_lengths = network.preprocessor(torch.from_numpy(samples)[None], lengths)
    if not int(mel_lengths):
        return []
    frames, frame_lengths = network.encoder(mel, mel_lengths, lookahead=lookahead)
    decoder = RnntDecoder(network.decoder, network.joint, max_symbols=model.config.max_symbols)
    found: Decoded = decoder.decode(frames, frame_lengths, decoder.new_state(1), torch.tensor([0]))
    return found.tokens[0, : int(found.counts[0])].tolist()


def with_lookaheads(*pairs: tuple[int, int]) -> ModelConfig:
    """`CONFIG` with other (left, right) contexts."""
    contexts = tuple(AttentionContext(left, right) for left, right in pairs)
    return replace(CONFIG, encoder=replace(CONFIG.encoder, contexts=contexts))

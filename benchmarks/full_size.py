"""Full-size models with random weights, from the published hyper-parameters of each checkpoint.

The real weights are not needed to measure shapes, memory and speed. Only random decoders will not
do: they emit `max_symbols` tokens at almost every frame or none at all. So a few of their weights
are set by hand, such that a token comes when a feature of the encoder frames changes its sign.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_lite.config import ModelConfig
from nemo_lite.network import Network

_LOOKAHEADS = [[70, 13], [70, 6], [70, 1], [70, 0]]


def _config(
    *,
    layers: int,
    width: int,
    predictor_layers: int,
    vocabulary: int,
    mels: int = 128,
    bias: bool = False,
    xscaling: bool = False,
    contexts: list[list[int]] = _LOOKAHEADS,
    ctc: bool = False,
    prompts: int = 0,
) -> dict[str, Any]:
    """The part of a `model_config.yaml` that inference reads."""
    config: dict[str, Any] = {
        "sample_rate": 16_000,
        "preprocessor": {
            "sample_rate": 16_000,
            "normalize": "NA",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": mels,
            "n_fft": 512,
            "pad_to": 0,
        },
        "encoder": {
            "feat_in": mels,
            "n_layers": layers,
            "d_model": width,
            "use_bias": bias,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 256,
            "causal_downsampling": True,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": 8,
            "att_context_size": contexts,
            "att_context_style": "chunked_limited",
            "xscaling": xscaling,
            "conv_kernel_size": 9,
            "conv_norm_type": "layer_norm",
            "conv_context_size": "causal",
        },
        "decoder": {
            "vocab_size": vocabulary,
            "blank_as_pad": True,
            "prednet": {"pred_hidden": 640, "pred_rnn_layers": predictor_layers},
        },
        "joint": {
            "num_classes": vocabulary,
            "jointnet": {
                "joint_hidden": 640,
                "activation": "relu",
                "encoder_hidden": width,
                "pred_hidden": 640,
            },
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
    }
    if ctc:
        config["aux_ctc"] = {"decoder": {"feat_in": width, "num_classes": vocabulary}}
    if prompts:
        config["num_prompts"] = prompts
        config["model_defaults"] = {"prompt_dictionary": {"en-US": 0, "de-DE": 5, "auto": 101}}
    return config


CONFIGS: Mapping[str, dict[str, Any]] = {
    "nemotron-en": _config(layers=24, width=1024, predictor_layers=2, vocabulary=1024),
    "nemotron-multi": _config(
        layers=24,
        width=1024,
        predictor_layers=2,
        vocabulary=13_087,
        contexts=[[56, 3], [56, 0], [56, 6], [56, 13]],
        prompts=128,
    ),
    "parakeet-eou": _config(
        layers=17, width=512, predictor_layers=1, vocabulary=1026, contexts=[[70, 1]]
    ),
    "fastconformer-multi": _config(
        layers=17,
        width=512,
        predictor_layers=1,
        vocabulary=1024,
        mels=80,
        bias=True,
        xscaling=True,
        ctc=True,
    ),
    # For tests of the benchmarks themselves.
    "tiny": _config(layers=2, width=64, predictor_layers=1, vocabulary=40),
}
"""By the registry's names."""


def babble(seconds: float, seed: int) -> Tensor:
    """(S,) float32 of noise at 16 kHz that changes its colour and level like syllables do."""
    random = torch.Generator().manual_seed(seed)
    size, pieces, made = int(seconds * 16_000), list[Tensor](), 0
    while made < size:
        length = int(torch.randint(1_600, 4_800, (), generator=random))
        colour = torch.randn(1, 1, 12, generator=random).cumsum(2)
        spectrum = torch.fft.rfft(torch.randn(length, generator=random))
        spectrum *= F.interpolate(colour, len(spectrum), mode="linear")[0, 0].exp()
        piece = torch.fft.irfft(spectrum, length) * torch.hann_window(length)
        pieces.append(piece * (0.3 * torch.rand((), generator=random) / piece.abs().max()))
        made += length
    return torch.cat(pieces)[:size]


def random_network(name: str, *, token_rate: float = 0.25, seed: int = 0) -> Network:
    """Build a full-size network with random float32 weights on the CPU.

    Args:
        name: a key of `CONFIGS`.
        token_rate: about how many tokens an encoder frame of `babble` emits.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    network = Network(ModelConfig.from_nemo(CONFIGS[name])).eval()
    with torch.inference_mode():
        _teach_to_emit(network, token_rate)
    return network


_LAST_TOKEN = 5.0
"""How much the last token's kind counts against the feature, whose standard deviation is 1."""


def _teach_to_emit(network: Network, token_rate: float) -> None:
    """Even tokens say that the feature became positive, odd ones that it became negative.

    The first two units of the joint compare the feature with the last token's kind.
    """
    joint, count = network.joint, network.config.vocabulary_size
    kind = 1.0 - 2.0 * (torch.arange(count) % 2)
    frames = _frames(network)
    feature, middle = _feature(frames, token_rate)
    last_kind, offset = _last_kind(network, kind)
    joint.enc.weight /= joint.enc(frames).std(0).mean()
    joint.enc.bias -= joint.enc(frames).mean(0)
    for unit, sign in ((0, 1.0), (1, -1.0)):
        joint.enc.weight[unit] = sign * feature
        joint.enc.bias[unit] = -sign * middle
        joint.pred.weight[unit] = -sign * _LAST_TOKEN * last_kind
        joint.pred.bias[unit] = -sign * _LAST_TOKEN * offset
    output = joint.joint_net[-1]
    output.weight *= 0.3
    output.weight[:, :2] = 0.0
    usual = joint(joint.enc(frames))[:, :-1].amax(1).mean()
    strength = 8.0
    output.weight[:-1, 0] = strength * (kind > 0)
    output.weight[:-1, 1] = strength * (kind < 0)
    output.weight[-1] = 0.0
    output.bias[-1] = strength * _LAST_TOKEN + usual


def _frames(network: Network) -> Tensor:
    """(T, D) encoder frames of `babble` with their whole left context: the first are peculiar."""
    audio = babble(40.0, seed=0)
    mel, lengths = network.preprocessor(audio[None], torch.tensor([len(audio)]))
    frames, lengths = network.encoder(mel, lengths)
    return frames[0, 70 : int(lengths)]


def _feature(frames: Tensor, token_rate: float) -> tuple[Tensor, Tensor]:
    """(D,) the direction that changes its sign as often as wanted, and where its middle is."""
    directions = torch.randn(frames.shape[1], 256)
    values = frames @ directions
    values = (values - values.median(0).values) / values.std(0)
    clear = (values[1:] * values[:-1] < 0) & (values[1:].abs() > 0.4)
    changes = clear.float().mean(0)
    best = int((changes - token_rate).abs().argmin())
    feature = directions[:, best] / (frames @ directions[:, best]).std()
    return feature, (frames @ feature).median()


def _last_kind(network: Network, kind: Tensor) -> tuple[Tensor, Tensor]:
    """(H,) weights and offset that read the last token's kind (±1) from the predictor's output.

    For that the embedding gets one direction that says it. The start counts as -1.
    """
    predictor, streams = network.decoder, 64
    embedding = predictor.prediction.embed.weight[:-1]
    embedding.mul_(0.1).add_(0.2 * kind[:, None] * torch.randn(embedding.shape[1]))
    start = predictor.start()
    hidden, cell = (state.expand(streams, -1, -1) for state in start)
    even = torch.arange(streams) % 2 == 0
    for _ in range(17):
        even = ~even
        tokens = 2 * torch.randint(len(kind) // 2, (streams,)) + ~even
        hidden, cell = predictor.step(tokens, hidden, cell)
    output = hidden[:, -1]
    seen = torch.stack((output[even].mean(0), output[~even].mean(0), start[0][0, -1]))
    read = torch.linalg.pinv(F.pad(seen, (0, 1), value=1.0)) @ torch.tensor([1.0, -1.0, -1.0])
    return read[:-1], read[-1]

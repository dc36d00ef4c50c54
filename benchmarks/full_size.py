"""Full-size models with random weights, from the published hyper-parameters of each checkpoint.

The real weights are not needed to measure shapes, memory and speed. One thing is set by hand: the
blank's bias in the joint, so that a realistic share of frames emits a token; random weights would
emit `max_symbols` tokens at almost every frame.
"""

from collections.abc import Mapping
from typing import Any

import torch

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
        layers=24, width=1024, predictor_layers=2, vocabulary=13_087, prompts=128
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


def random_network(name: str, *, token_rate: float = 0.25, seed: int = 0) -> Network:
    """Build a full-size network with random float32 weights on the CPU.

    Args:
        name: a key of `CONFIGS`.
        token_rate: share of the encoder frames of noise that emit a token.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    network = Network(ModelConfig.from_nemo(CONFIGS[name])).eval()
    with torch.inference_mode():
        _set_blank_bias(network, token_rate)
    return network


def _set_blank_bias(network: Network, token_rate: float) -> None:
    """Raise the blank's bias to the quantile of its margin over encoder frames of noise."""
    encoder = network.config.encoder
    mel = torch.randn(1, encoder.n_mels, 1600) * 2 - 8
    frames, _ = network.encoder(mel, torch.tensor([1600]), lookahead=encoder.contexts[0].right)
    joint = network.joint
    start = joint.pred(torch.zeros(1, joint.pred.in_features))
    logits = joint.joint_net[-1](torch.relu(joint.enc(frames[0]) + start))
    best = logits[:, :-1].amax(dim=1)
    margin = torch.quantile(best - logits[:, -1], 1 - token_rate)
    joint.joint_net[-1].bias[-1] += margin

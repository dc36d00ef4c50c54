"""A small Canary-Qwen with random weights that writes letters and sometimes ends by itself; as a
network, and as the folder NeMo would save."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from nemo_lite.config import EncoderConfig, PreprocessorConfig
from nemo_lite.salm.config import Qwen3Config, SalmConfig
from nemo_lite.salm.network import SalmNetwork
from nemo_lite.salm.tokenizer import SalmTokenizer

AUDIO_TAG = "<|audioplaceholder|>"
EOS, PAD = "<|im_end|>", "<|endoftext|>"
SPECIAL = (PAD, "<|im_start|>", EOS)
_TEXT = "user assistant Transcribe the following: we hear the rain on the roof at night. Bye!\n"


@cache
def tokenizer_json() -> bytes:
    """A byte-level BPE tokenizer of some ninety tokens, special ones included."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    library.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(vocab_size=90, show_progress=False)  # pyright: ignore[reportCallIssue]
    library.train_from_iterator([_TEXT] * 4, trainer)
    library.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return library.to_str().encode()


@cache
def tiny_tokenizer() -> SalmTokenizer:
    """Shared by tests: tokenizers never change."""
    return SalmTokenizer.from_json(tokenizer_json(), audio_tag=AUDIO_TAG, eos=EOS, pad=PAD)


CONFIG = SalmConfig(
    preprocessor=PreprocessorConfig(n_mels=16, normalize="per_feature"),
    encoder=EncoderConfig(
        n_mels=16,
        layers=2,
        d_model=16,
        heads=2,
        ff_size=32,
        subsampling_channels=4,
        xscaling=False,
    ),
    output_width=32,
    audio_tag=AUDIO_TAG,
    base_model="acme/tiny-qwen",
    lora_rank=4,
    lora_alpha=8.0,
    lora_modules=("q_proj", "v_proj"),
)
LLM = Qwen3Config(
    vocabulary_size=96,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_size=16,
    ff_size=64,
    norm_eps=1e-6,
    rope_theta=1e6,
    tied=True,
)


def tiny_network(
    *, seed: int = 0, config: SalmConfig = CONFIG, llm: Qwen3Config = LLM
) -> SalmNetwork:
    """Random weights in float32: choices are seldom near ties and depend on all that was read.

    With the default seed some requests end within ten tokens and others write on for ever.
    """
    generator = torch.Generator().manual_seed(seed)
    network = SalmNetwork(replace(config, output_width=llm.width), llm).eval()
    network.requires_grad_(False)
    if llm.tied:
        network.lm_head.weight = network.embed_tokens.weight
    with torch.inference_mode(False):
        for name, tensor in network.named_parameters():
            _fill(name, tensor, generator)
        tokenizer = tiny_tokenizer()
        unused = torch.arange(llm.vocabulary_size) >= tokenizer.size
        network.lm_head.weight[unused] *= 0.01
        network.lm_head.weight[tokenizer.eos_id] *= 1.6
    return network


_VOCABULARY = ("embed_tokens.weight", "lm_head.weight")


def _fill(name: str, tensor: Tensor, generator: torch.Generator) -> None:
    """A weight's random values; norms stay near 1, biases near 0."""
    if "norm" in name:
        values = float(name.endswith("weight")) + torch.randn(tensor.shape, generator=generator) / 9
    elif tensor.dim() < 2 or "pos_bias" in name:
        values = torch.randn(tensor.shape, generator=generator) / 9
    else:
        # Layers outweigh the embedding: with tied weights every token would repeat itself.
        gain = 1.0 if "perception" in name else 3.0 if name in _VOCABULARY else 4.0
        values = torch.randn(tensor.shape, generator=generator) * gain / tensor[0].numel() ** 0.5
    tensor.copy_(values)


def write_salm_folder(
    folder: Path,
    *,
    seed: int = 0,
    config: SalmConfig = CONFIG,
    llm: Qwen3Config = LLM,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Save `tiny_network` as NeMo does, adapters apart, with the base model's files inside.

    The network that is read again differs from `tiny_network` by rounding.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = salm_state(tiny_network(seed=seed, config=config, llm=llm), config)
    tensors = {
        name: tensor.to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in state.items()
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(nemo_config(config)))
    write_base_model(folder / "llm_backbone", llm)
    return folder


def write_base_model(folder: Path, llm: Qwen3Config = LLM) -> Path:
    """Save configuration and tokenizer of the language model, as `transformers` does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(llm_config(llm)))
    (folder / "tokenizer.json").write_bytes(tokenizer_json())
    tokens = {"eos_token": EOS, "pad_token": PAD}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    return folder


def salm_state(network: SalmNetwork, config: SalmConfig = CONFIG) -> dict[str, Tensor]:
    """The network's tensors as NeMo names them, random adapters taken out of the weights."""
    generator = torch.Generator().manual_seed(1)
    state: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        module = name.removesuffix(".weight")
        if name == "lm_head.weight":
            if not network.llm.config.tied:
                state[f"llm.base_model.model.{name}"] = tensor
        elif not name.startswith("llm."):
            state[name] = tensor
        elif config.lora_rank and module.rpartition(".")[2] in config.lora_modules:
            name = f"llm.base_model.model.model.{module[4:]}"
            a = torch.randn(config.lora_rank, tensor.shape[1], generator=generator) / 4
            b = torch.randn(tensor.shape[0], config.lora_rank, generator=generator) / 4
            state[f"{name}.base_layer.weight"] = tensor - config.lora_scale * b @ a
            state[f"{name}.lora_A.default.weight"] = a
            state[f"{name}.lora_B.default.weight"] = b
        else:
            state[f"llm.base_model.model.model.{name[4:]}"] = tensor
    state["perception.encoder.layers.0.conv.batch_norm.num_batches_tracked"] = torch.tensor(7)
    return state


def nemo_config(config: SalmConfig = CONFIG) -> dict[str, Any]:
    """What `SALM.save_pretrained` writes."""
    encoder = config.encoder
    return {
        "model_type": "nemo_speechlm",
        "pretrained_llm": config.base_model,
        "prompt_format": "qwen",
        "audio_locator_tag": config.audio_tag,
        "lora": {
            "task_type": "CAUSAL_LM",
            "r": config.lora_rank,
            "lora_alpha": config.lora_alpha,
            "target_modules": list(config.lora_modules),
        },
        "perception": {
            "output_dim": config.output_width,
            "modality_adapter": {"_target_": "nemo.modules.perception.IdentityConnector"},
            "preprocessor": {
                "features": config.preprocessor.n_mels,
                "normalize": config.preprocessor.normalize,
                "window_size": 0.025,
                "window_stride": 0.01,
                "n_fft": config.preprocessor.n_fft,
                "pad_to": 0,
            },
            "encoder": {
                "feat_in": encoder.n_mels,
                "n_layers": encoder.layers,
                "d_model": encoder.d_model,
                "n_heads": encoder.heads,
                "ff_expansion_factor": encoder.ff_size // encoder.d_model,
                "subsampling": "dw_striding",
                "subsampling_factor": 8,
                "subsampling_conv_channels": encoder.subsampling_channels,
                "self_attention_model": "rel_pos",
                "att_context_size": [-1, -1],
                "conv_kernel_size": encoder.conv_kernel,
                "conv_norm_type": encoder.conv_norm,
                "xscaling": encoder.xscaling,
            },
        },
    }


def llm_config(llm: Qwen3Config = LLM) -> dict[str, Any]:
    """What `transformers` writes for the base model."""
    return {
        "model_type": "qwen3",
        "vocab_size": llm.vocabulary_size,
        "hidden_size": llm.width,
        "num_hidden_layers": llm.layers,
        "num_attention_heads": llm.heads,
        "num_key_value_heads": llm.kv_heads,
        "head_dim": llm.head_size,
        "intermediate_size": llm.ff_size,
        "rms_norm_eps": llm.norm_eps,
        "rope_theta": llm.rope_theta,
        "tie_word_embeddings": llm.tied,
        "eos_token_id": tiny_tokenizer().eos_id,
    }


def noise(seconds: float, *, seed: int = 0) -> NDArray[np.float32]:
    """(S,) noise whose level changes several times a second."""
    random = np.random.default_rng(seed)
    count = round(seconds * 16_000)
    level = np.repeat(random.uniform(0.001, 0.3, count // 2_000 + 1), 2_000)[:count]
    return (random.standard_normal(count) * level).astype(np.float32)

"""Writes small checkpoints, sound ones and others, without NeMo."""

import gzip
import io
import tarfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import yaml
from torch import Tensor

from nemo_lite.config import ModelConfig
from nemo_lite.network import Network

VOCABULARY = 40
CONFIG_NAME = "model_config.yaml"
WEIGHTS_NAME = "model_weights.ckpt"
TOKENIZER_NAME = "0123_tokenizer.model"


@cache
def tokenizer_model() -> bytes:
    """A SentencePiece model of `VOCABULARY` pieces, `<EOU>` among them."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog"] * 10),
        model_writer=model,
        vocab_size=VOCABULARY,
        model_type="bpe",
        user_defined_symbols=["<EOU>", "<EOB>"],
        minloglevel=2,
    )
    return model.getvalue()


def nemo_config(**changes: Any) -> dict[str, Any]:
    """A whole configuration; `changes` replaces sections."""
    config: dict[str, Any] = {
        "target": "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel",
        "tokenizer": {"type": "bpe", "model_path": f"nemo:{TOKENIZER_NAME}"},
        "preprocessor": {
            "sample_rate": 16_000,
            "normalize": "NA",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": 16,
            "n_fft": 512,
            "pad_to": 0,
        },
        "encoder": {
            "feat_in": 16,
            "n_layers": 2,
            "d_model": 16,
            "use_bias": True,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 4,
            "causal_downsampling": True,
            "ff_expansion_factor": 2,
            "self_attention_model": "rel_pos",
            "n_heads": 2,
            "att_context_size": [[8, 3], [8, 0]],
            "att_context_style": "chunked_limited",
            "conv_kernel_size": 5,
            "conv_norm_type": "layer_norm",
            "conv_context_size": "causal",
        },
        "decoder": {
            "prednet": {"pred_hidden": 8, "pred_rnn_layers": 1},
            "vocab_size": VOCABULARY,
        },
        "joint": {
            "jointnet": {
                "joint_hidden": 8,
                "activation": "relu",
                "encoder_hidden": 16,
                "pred_hidden": 8,
            },
            "num_classes": VOCABULARY,
        },
    }
    return config | changes


def random_state(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every tensor that NeMo would save for this configuration."""
    torch.manual_seed(0)
    return Network(ModelConfig.from_nemo(config)).state_dict()


def saved(value: object, **options: Any) -> bytes:
    """What `torch.save` writes."""
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def parts(config: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """The members of a sound archive."""
    config = config or nemo_config()
    return {
        CONFIG_NAME: yaml.safe_dump(dict(config), sort_keys=False).encode(),
        WEIGHTS_NAME: saved(random_state(config)),
        TOKENIZER_NAME: tokenizer_model(),
    }


def write_nemo(
    path: Path,
    members: Mapping[str, bytes] | None = None,
    *,
    extra: list[tarfile.TarInfo] | None = None,
    prefix: str = "./",
) -> Path:
    """Tar the members, by default those of `parts`, and then headers without content."""
    with tarfile.open(path, "w") as archive:
        for name, data in (parts() if members is None else members).items():
            header = tarfile.TarInfo(prefix + name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
        for header in extra or []:
            archive.addfile(header)
    return path


def gzipped(path: Path) -> Path:
    """Compress the whole file in place."""
    path.write_bytes(gzip.compress(path.read_bytes()))
    return path

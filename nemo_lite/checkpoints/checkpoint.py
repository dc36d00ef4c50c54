"""What every layout is read into, and the checks that all of them share."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nemo_lite.checkpoints.key_maps import canonical
from nemo_lite.config import ModelConfig
from nemo_lite.errors import CheckpointError
from nemo_lite.tokenizer import Tokenizer

_TRAINING_LEFTOVERS = (
    "spec_augmentation.",  # noise on the features
    "loss.",
    "ctc_loss.",
    "joint._loss.",
    "wer.",  # error counters
    "ctc_wer.",
    "joint._wer.",
    "encoder.pos_enc.",  # a table of sinusoids that older versions stored
)
_COUNTER = ".num_batches_tracked"  # batch norm's momentum; no part of inference

_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A recogniser as read from disk: no module is built yet, nothing is converted.

    The tensors keep their dtype and are mapped from the file, so that they cost memory only where
    they are read.
    """

    config: ModelConfig
    state: dict[str, Tensor]
    """Every parameter and buffer the network needs, by NeMo's name. `preprocessor.featurizer.*`
    may be absent: the tables follow from the configuration."""
    tokenizer: Tokenizer
    source: Path
    target: str = ""
    """The name of the class that wrote it, such as `EncDecRNNTBPEModel`; for messages only."""
    nemo_config: Mapping[str, Any] | None = None
    """NeMo's configuration as written; None where the source has none."""


def assemble(checkpoint: Checkpoint) -> Checkpoint:
    """Drop what only training needs, and check that the parts belong together.

    Raises:
        CheckpointError: the weights or the tokenizer are of another configuration.
    """
    config, state = checkpoint.config, inference_state(checkpoint.state)
    layers = {match[1] for key in state if (match := _LAYER.match(key))}
    if len(layers) != config.encoder.layers:
        raise CheckpointError(
            f"the configuration has {config.encoder.layers} encoder layers, "
            f"the weights have {len(layers)}"
        )
    if checkpoint.tokenizer.size != config.vocabulary_size:
        raise CheckpointError(
            f"the tokenizer has {checkpoint.tokenizer.size} pieces, "
            f"the network {config.vocabulary_size}"
        )
    if config.prompt is not None:
        for language, index in config.prompt.languages.items():
            if not 0 <= index < config.prompt.num_prompts:
                raise CheckpointError(f"language {language!r} has prompt {index}")
    return replace(checkpoint, state=state)


def inference_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without what only training needs, in one spelling."""
    return {
        canonical(key): tensor
        for key, tensor in state.items()
        if not key.startswith(_TRAINING_LEFTOVERS) and not key.endswith(_COUNTER)
    }


def model_config(nemo: Mapping[str, Any]) -> ModelConfig:
    """`ModelConfig.from_nemo`, for configurations that strangers wrote.

    Raises:
        CheckpointError: the configuration is of another kind of model or makes no sense.
    """
    try:
        return ModelConfig.from_nemo(nemo)
    except ArithmeticError as error:  # infinite sizes
        raise CheckpointError(f"model_config.yaml is not a FastConformer's: {error!r}") from error


def target_class(nemo: Mapping[str, Any]) -> str:
    """The last part of the class path that NeMo stores."""
    return str(nemo.get("target", "")).rpartition(".")[2]

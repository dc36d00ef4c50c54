"""Canary-Qwen as NeMo publishes it: a folder of `config.json` and safetensors.

Names, shapes and sizes are checked when it is read; memory is taken when the network is built.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nemo_lite import hub
from nemo_lite.checkpoints import load_strictly
from nemo_lite.checkpoints.documents import read_json
from nemo_lite.checkpoints.safetensors_folder import read_tensors
from nemo_lite.errors import CheckpointError
from nemo_lite.salm.adapters import Adapter, merged, require_complete, take_adapters
from nemo_lite.salm.base_model import find_base_model, read_base_model
from nemo_lite.salm.config import Qwen3Config, SalmConfig
from nemo_lite.salm.network import SalmNetwork
from nemo_lite.salm.tokenizer import SalmTokenizer

_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"
_TABLES = "perception.preprocessor."
"""The features' filterbank and window: always float32, and where they are missing, computed."""

_LLM = re.compile(r"llm\.(?:base_model\.model\.)?(?:model\.)?(.+)")
_OUTSIDE = (_EMBEDDING, _HEAD)
_LAYER = re.compile(r"(perception\.encoder|llm)\.layers\.(\d+)\.")
_LEFTOVERS = (
    ".num_batches_tracked",  # batch norm's momentum
    ".rotary_emb.inv_freq",  # a table that older versions stored
)
_TRAINING = ("perception.spec_augmentation.", "perception.encoder.pos_enc.")
_MOST = 2**20
"""No size of a real model comes near; more only exhausts memory."""


@dataclass(frozen=True, slots=True)
class SalmCheckpoint:
    """As read from disk: nothing is built, merged or converted.

    The tensors keep their dtype and are mapped from the file, so that they cost memory only where
    they are read.
    """

    config: SalmConfig
    llm: Qwen3Config
    state: dict[str, Tensor]
    """By `SalmNetwork`'s names, all that it needs. The head's weights are absent where they are
    the embedding's, `perception.preprocessor.*` may be."""
    adapters: dict[str, Adapter]
    """Of which weights of `state`; empty where they are merged already."""
    tokenizer: SalmTokenizer
    source: Path


def read_salm(
    folder: Path,
    *,
    base_model: str | Path | None = None,
    fetch: Callable[[str], Path] = hub.base_model,
) -> SalmCheckpoint:
    """Read a checkpoint that NeMo's `SALM.save_pretrained` wrote.

    Args:
        folder: with `config.json` and `model.safetensors`, or shards of it and their index.
        base_model: folder or hub id of the language model's configuration and tokenizer; None:
            `llm_backbone` in `folder`, else what the checkpoint names.
        fetch: brings the files of a hub id here.

    Raises:
        CheckpointError: it is damaged or hostile, or of another kind of model; the message names
            `folder`.
        DownloadError: the language model's files are not in it and cannot be fetched.
        UnknownModelError: `base_model` is neither a folder nor a hub id.
    """
    try:
        config = SalmConfig.from_nemo(read_json(folder / "config.json"))
        base = find_base_model(folder, config.base_model, given=base_model, fetch=fetch)
        language = read_base_model(base, audio_tag=config.audio_tag)
        tensors = read_tensors(folder)
        state = _renamed(tensors)
        if language.config.tied:
            _tie(state)
        adapters = take_adapters(state, rank=config.lora_rank)
        wrapped = {_name(key) for key in tensors if key.endswith(".base_layer.weight")}
        require_complete(adapters, state, wrapped=wrapped, modules=config.lora_modules)
        _require_sane(config, language.config, state)
    except (CheckpointError, OSError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    found = SalmCheckpoint(config, language.config, state, adapters, language.tokenizer, folder)
    _assign(_empty_network(found), state, found)  # what does not fit is told before it is loaded
    return found


def load_network(
    checkpoint: SalmCheckpoint, *, device: torch.device | str, dtype: torch.dtype
) -> SalmNetwork:
    """Build the network, its adapters merged.

    Empties `checkpoint.state`: the tensors go over one by one into memory of the network's own.

    Args:
        checkpoint: a fresh one.
        device: where to compute.
        dtype: what in; the adapters are merged in float32, features are always float32.
    """
    device, scale = torch.device(device), checkpoint.config.lora_scale
    network, state = _empty_network(checkpoint), checkpoint.state
    owned: dict[str, Tensor] = {}
    for name in list(state):
        tensor, adapter = state.pop(name).to(device), checkpoint.adapters.pop(name, None)
        if adapter is not None:
            tensor = merged(tensor, adapter, scale)
        kind = torch.float32 if name.startswith(_TABLES) else dtype
        owned[name] = tensor.to(kind, copy=tensor.device.type == "cpu" and adapter is None)
    _assign(network, owned, checkpoint)
    network.perception.preprocessor.to(device)
    if checkpoint.llm.tied:
        network.lm_head.weight = network.embed_tokens.weight
    return network.requires_grad_(False)


def _empty_network(checkpoint: SalmCheckpoint) -> SalmNetwork:
    try:
        with torch.device("meta"):
            return SalmNetwork(checkpoint.config, checkpoint.llm).eval()
    except (RuntimeError, ArithmeticError, ValueError, TypeError) as error:
        raise CheckpointError(f"{checkpoint.source}: sizes make no sense: {error}") from error


def _assign(network: SalmNetwork, state: Mapping[str, Tensor], checkpoint: SalmCheckpoint) -> None:
    complete = dict(state)
    if checkpoint.llm.tied and _EMBEDDING in state:
        complete[_HEAD] = state[_EMBEDDING]
    load_strictly(network, complete, source=str(checkpoint.source), optional=(_TABLES,))


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By `SalmNetwork`'s names, without what only training needs.

    Raises:
        CheckpointError: tensors with one meaning have different values.
    """
    state: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key.endswith(_LEFTOVERS) or key.startswith(_TRAINING):
            continue
        name = _name(key)
        if name in state and not _equal(state[name], tensor):
            raise CheckpointError(f"two tensors mean {name} and differ; one is {key}")
        state[name] = tensor
    return state


def _name(key: str) -> str:
    """NeMo's and `peft`'s names for a tensor → the network's."""
    match = _LLM.fullmatch(key)
    if match is None:
        return key
    name = match[1].replace(".base_layer.", ".")
    return name if name in _OUTSIDE else f"llm.{name}"


def _tie(state: dict[str, Tensor]) -> None:
    """Leave one tensor for embedding and head, whichever the file has.

    Raises:
        CheckpointError: it has both and they differ.
    """
    head = state.pop(_HEAD, None)
    if head is not None and not _equal(state.setdefault(_EMBEDDING, head), head):
        raise CheckpointError("embedding and head differ, though the configuration ties them")


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _require_sane(config: SalmConfig, llm: Qwen3Config, state: Iterable[str]) -> None:
    """Refuse sizes that belong to no network, before one of that size is built."""
    features, encoder = config.preprocessor, config.encoder
    sizes = {
        "vocab_size": llm.vocabulary_size,
        "hidden_size": llm.width,
        "intermediate_size": llm.ff_size,
        "num_attention_heads": llm.heads,
        "num_key_value_heads": llm.kv_heads,
        "head_dim": llm.head_size,
        "features": features.n_mels,
        "n_fft": features.n_fft,
        "sample_rate": features.sample_rate,
        "d_model": encoder.d_model,
        "n_heads": encoder.heads,
        "ff_expansion_factor": encoder.ff_size,
        "conv_kernel_size": encoder.conv_kernel,
        "subsampling_conv_channels": encoder.subsampling_channels,
        "subsampling_factor": encoder.subsampling_factor,
    }
    wrong = [name for name, size in sizes.items() if not 0 < size <= _MOST]
    if not 0 <= features.pad_to <= _MOST:
        wrong.append("pad_to")
    numbers = {"rms_norm_eps": llm.norm_eps, "rope_theta": llm.rope_theta}
    wrong += [name for name, value in numbers.items() if not 0 < value < math.inf]
    if not math.isfinite(config.lora_scale):
        wrong.append("lora_alpha")
    if wrong:
        raise CheckpointError(f"the configuration makes no sense: {', '.join(wrong)}")
    if llm.heads % llm.kv_heads or llm.head_size % 2 or encoder.d_model % encoder.heads:
        raise CheckpointError("heads do not divide what they share")
    if features.n_mels != encoder.n_mels or config.output_width != llm.width:
        raise CheckpointError("features, encoder and language model are of different widths")
    if features.n_mels * features.n_fft > 2**2 * _MOST:
        raise CheckpointError(f"{features.n_mels} mel bins of {features.n_fft} samples")
    _require_layers(state, {"perception.encoder": encoder.layers, "llm": llm.layers})


def _require_layers(state: Iterable[str], wanted: Mapping[str, int]) -> None:
    layers = {match.groups() for name in state if (match := _LAYER.match(name))}
    for part, count in wanted.items():
        found = sum(owner == part for owner, _ in layers)
        if found != count:
            raise CheckpointError(
                f"the configuration has {count} layers in {part}, the weights have {found}"
            )

"""What Canary-Qwen takes of a device's memory, before it is loaded, and what there is of it."""

import gc
import os
from pathlib import Path

import torch
from torch import nn

from nemo_lite.number_formats import DtypeName, torch_dtype
from nemo_lite.salm.config import Qwen3Config, SalmConfig
from nemo_lite.salm.kv_cache import KvCache
from nemo_lite.salm.limits import LONGEST_SECONDS, POSITIONS
from nemo_lite.salm.network import SalmNetwork

_MOST_SLOTS = {"cpu": 8, "cuda": 32}
"""More at once make each wait longer and all together hardly faster."""
_SHARE = 0.5
"""Of what is free: others need memory, too."""
_WINDOWS_AT_ONCE = {"cpu": 1, "cuda": 8}
"""Windows of audio that `GenerationBatch` encodes in one go."""
_GROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"))
"""Where Linux limits a container: version 2, version 1."""


def required_bytes(
    config: SalmConfig,
    llm: Qwen3Config,
    dtype: torch.dtype | DtypeName | None,
    *,
    slots: int,
    positions: int = POSITIONS,
    device: torch.device | str = "cpu",
) -> int:
    """What loading a model and using one `RequestBatch` takes at most, within a fifth.

    Not counted is what the interpreter and torch take, about 0.5 GB, and CUDA's context.

    Args:
        config: of perception.
        llm: of the language model.
        dtype: as for `CanaryQwen.load`.
        slots: pieces of audio at once.
        positions: per slot.
        device: where; a GPU encodes more at once.
    """
    running = (
        weight_bytes(config, llm, dtype)
        + slots * slot_bytes(llm, dtype, positions=positions)
        + activation_bytes(config, llm, dtype, device=device)
    )
    if dtype != "int8":
        return running
    # The weights are made, layer by layer, from those in bfloat16; not all that these leave behind
    # is one piece that can be used again.
    return max(running, int(1.3 * weight_bytes(config, llm, torch.bfloat16)))


def weight_bytes(
    config: SalmConfig, llm: Qwen3Config, dtype: torch.dtype | DtypeName | None
) -> int:
    """Of the network alone, adapters merged."""
    with torch.device("meta"):
        network = SalmNetwork(config, llm)
    linear = _linear_weights(network)
    embedding = llm.vocabulary_size * llm.width
    rest = sum(parameter.numel() for parameter in network.parameters()) - linear - embedding
    if dtype == "int8":
        # The embedding is bfloat16; a head that shared its weights has its own.
        return linear + 2 * embedding + 4 * rest
    count = linear + embedding + rest - (embedding if llm.tied else 0)
    return count * torch_dtype(dtype).itemsize


def slot_bytes(
    llm: Qwen3Config, dtype: torch.dtype | DtypeName | None, *, positions: int = POSITIONS
) -> int:
    """Keys and values of one slot."""
    return KvCache.bytes_per_position(llm, _computed_in(dtype)) * (positions + 1)


def activation_bytes(
    config: SalmConfig,
    llm: Qwen3Config,
    dtype: torch.dtype | DtypeName | None,
    *,
    device: torch.device | str = "cpu",
) -> int:
    """What encoding windows of audio needs at its peak, and what is kept to encode others.

    Reading and writing need less, and not at the same time.
    """
    encoder, size = config.encoder, _computed_in(dtype).itemsize
    mel_frames = LONGEST_SECONDS * config.preprocessor.sample_rate
    mel_frames //= config.preprocessor.hop_samples
    frames = mel_frames // encoder.subsampling_factor
    # The first convolution has the largest result: it is masked, padded, and the next made from it.
    convolution = encoder.subsampling_channels * (mel_frames // 2) * (encoder.n_mels // 2)
    attention = encoder.heads * frames * 2 * frames
    scores = 2 * llm.vocabulary_size
    # Distances are projected once for all requests, of a few more frames than there can be.
    distances = encoder.layers * 2 * (frames + 128) * encoder.d_model
    windows = _WINDOWS_AT_ONCE[torch.device(device).type]
    return size * (windows * (4 * convolution + 4 * attention) + distances) + 4 * scores


def default_slots(
    llm: Qwen3Config, dtype: torch.dtype | DtypeName | None, device: torch.device
) -> int:
    """As many pieces at once as make sense and half of the free memory has room for, at least 1."""
    room = int(_SHARE * available_bytes(device)) // slot_bytes(llm, dtype)
    return max(1, min(_MOST_SLOTS[device.type], room))


def available_bytes(device: torch.device | str = "cpu") -> int:
    """Memory of the device that can be had now; in a container, no more than it may use.

    On the CPU, what the system can free by dropping cached files counts as available.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([_available_on_host(), *_available_in_groups()])


def release_unused() -> None:
    """Let other programs, and `available_bytes`, have what torch keeps of models that are gone."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _available_on_host() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1_024
    except (OSError, KeyError, ValueError):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _available_in_groups() -> list[int]:
    found: list[int] = []
    names = (("memory.max", "memory.current"), ("limit_in_bytes", "usage_in_bytes"))
    for folder, (most, used) in zip(_GROUPS, names, strict=True):
        prefix = "memory." if folder.name == "memory" else ""
        try:
            limit = int((folder / f"{prefix}{most}").read_text(encoding="ascii"))
            taken = int((folder / f"{prefix}{used}").read_text(encoding="ascii"))
            found.append(max(0, limit - taken + _reclaimable(folder / "memory.stat")))
        except (OSError, ValueError):  # no such group, or no limit
            continue
    return found


def _reclaimable(path: Path) -> int:
    """Cached files that a group is charged for, such as a checkpoint just downloaded."""
    try:
        fields = dict(line.split() for line in path.read_text(encoding="ascii").splitlines())
        return int(fields["inactive_file"])
    except (OSError, KeyError, ValueError):
        return 0


def _computed_in(dtype: torch.dtype | DtypeName | None) -> torch.dtype:
    return torch.float32 if dtype == "int8" else torch_dtype(dtype)


def _linear_weights(network: nn.Module) -> int:
    """Of the layers that int8 replaces, biases not counted."""
    return sum(
        module.weight.numel()
        for module in network.modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv1d) and module.kernel_size == (1,))
    )

"""Low-rank adapters, found among a checkpoint's tensors and added to the weights they adapt.

Source: LoRA, arXiv 2106.09685; names are those of `peft`.
"""

import re
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

from nemo_lite.errors import CheckpointError

Adapter = tuple[Tensor, Tensor]
"""A (r, in) and B (out, r)."""

_NAME = re.compile(r"(.+)\.lora_([AB])\.(?:default\.)?weight")


def take_adapters(state: dict[str, Tensor], *, rank: int) -> dict[str, Adapter]:
    """Remove the adapters from the state.

    Args:
        state: names of adapters are those of the adapted module and `lora_A.default.weight`, or
            B; changed in place.
        rank: what the configuration says.

    Returns:
        The name of each adapted weight and what adapts it. Empty for a checkpoint that never had
        adapters, or whose weights have them merged.

    Raises:
        CheckpointError: one has no counterpart or weight, or another shape.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    for name in list(state):
        if match := _NAME.fullmatch(name):
            halves.setdefault(f"{match[1]}.weight", {})[match[2]] = state.pop(name)
    return {name: _checked(name, half, state, rank) for name, half in halves.items()}


def require_complete(
    adapters: Collection[str],
    weights: Iterable[str],
    *,
    wrapped: Collection[str],
    modules: Collection[str],
) -> None:
    """Refuse a checkpoint that lost adapters: it would be read as another model.

    Args:
        adapters: names of the adapted weights.
        weights: names of all.
        wrapped: names of those that were saved beside an adapter.
        modules: what the configuration says is adapted in every layer; empty = not said.

    Raises:
        CheckpointError: adapters are missing, or there are more than the configuration says.
    """
    kinds = set(modules) or {name.split(".")[-2] for name in adapters}
    endings = tuple(f".{kind}.weight" for kind in kinds)
    named = {name for name in weights if f".{name}".endswith(endings)} if adapters else set[str]()
    missing = sorted((named | set(wrapped)) - set(adapters))
    if missing:
        raise CheckpointError(f"{len(missing)} adapters are missing, such as that of {missing[0]}")
    others = sorted(set(adapters) - named)
    if others:
        raise CheckpointError(f"{others[0]} has an adapter, which the configuration does not say")


def merged(weight: Tensor, adapter: Adapter, scale: float) -> Tensor:
    """W + scale B A in float32, on the weight's device."""
    a, b = (half.to(weight.device, torch.float32) for half in adapter)
    return torch.addmm(weight.float(), b, a, alpha=scale)


def _checked(
    name: str, half: Mapping[str, Tensor], state: Mapping[str, Tensor], rank: int
) -> Adapter:
    if name not in state or len(half) < 2:
        raise CheckpointError(f"the adapter of {name} lacks a part, or what it adapts")
    a, b, weight = half["A"], half["B"], state[name]
    fits = a.dim() == b.dim() == weight.dim() == 2
    if not fits or (b.shape[0], a.shape[1]) != weight.shape or {a.shape[0], b.shape[1]} != {rank}:
        raise CheckpointError(
            f"the adapter of {name} {list(weight.shape)} has the shapes {list(a.shape)} and "
            f"{list(b.shape)}; the configuration's rank is {rank}"
        )
    return a, b

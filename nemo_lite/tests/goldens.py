"""Reads the reference cases that NeMo itself wrote, in `../shared/goldens` beside the checkout."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

SHARED = Path(__file__).resolve().parents[3] / "shared"
GOLDENS = SHARED / "goldens"

needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="../shared/goldens is absent")
needs_models = pytest.mark.skipif(
    not (SHARED / "models").is_dir(), reason="../shared/models is absent"
)


@dataclass(frozen=True)
class Case:
    """One case: its JSON, its tensors `in.*` and `out.*`, its weights where it has any."""

    name: str
    config: dict[str, Any]
    inputs: dict[str, Any]
    expected: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]


def case_names(kind: str) -> list[str]:
    """The cases of a kind; empty where the goldens are absent, so that collection works."""
    return sorted(path.stem for path in (GOLDENS / kind).glob("*.json"))


def load_case(kind: str, name: str) -> Case:
    """Read one case."""
    folder = GOLDENS / kind
    meta = json.loads((folder / f"{name}.json").read_text())
    weights = folder / f"{meta['inputs'].get('weights_from', name)}.weights.safetensors"
    return Case(
        name=name,
        config=meta["config"],
        inputs=meta["inputs"],
        expected=meta["expected"],
        tensors=load_file(folder / f"{name}.safetensors"),
        weights=load_file(weights) if weights.is_file() else {},
    )

"""Strict loading: all fits and nothing is copied, or nothing is changed."""

import pytest
import torch
from torch import nn

from nemo_lite.checkpoints import load_strictly
from nemo_lite.errors import CheckpointError


def module() -> nn.Sequential:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False))


def state() -> dict[str, torch.Tensor]:
    return {
        "0.weight": torch.ones(2, 3),
        "0.bias": torch.zeros(2),
        "1.running_mean": torch.zeros(2),
        "1.running_var": torch.ones(2),
        "1.num_batches_tracked": torch.tensor(0),
    }


def test_tensors_become_the_modules_own_without_a_copy() -> None:
    loaded, tensors = module().eval(), state()
    load_strictly(loaded, tensors, source="here")
    assert loaded.state_dict()["0.weight"].data_ptr() == tensors["0.weight"].data_ptr()
    assert loaded(torch.ones(1, 3)).tolist() == [pytest.approx([3.0, 3.0], abs=1e-4)]


def test_everything_that_does_not_fit_is_listed() -> None:
    tensors = state()
    del tensors["0.bias"]
    tensors["0.weight"] = torch.ones(3, 2)
    tensors["1.running_mean"] = torch.zeros(2, dtype=torch.int32)
    tensors["extra"] = torch.ones(1)
    loaded = module()
    with pytest.raises(CheckpointError) as caught:
        load_strictly(loaded, tensors, source="here")
    assert str(caught.value) == (
        "here: weights do not fit: 1 missing: 0.bias; 1 unexpected: extra; 2 of another shape: "
        "0.weight float32 [3, 2] instead of float32 [2, 3], "
        "1.running_mean int32 [2] instead of float32 [2]"
    )
    assert all(tensor.is_meta for tensor in loaded.state_dict().values())


def test_long_lists_are_cut() -> None:
    extra = {f"extra{number}": torch.ones(1) for number in range(1_000)}
    with pytest.raises(
        CheckpointError, match=r"1000 unexpected: extra0, .* and 992 more"
    ) as caught:
        load_strictly(module(), state() | extra, source="here")
    assert len(str(caught.value)) < 300


def test_optional_tensors_stay_as_the_module_made_them() -> None:
    loaded = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False))
    tensors = {name: tensor for name, tensor in state().items() if name.startswith("0.")}
    with pytest.raises(CheckpointError, match="3 missing"):
        load_strictly(loaded, tensors, source="here")
    load_strictly(loaded, tensors, source="here", optional=("1.",))
    assert loaded.state_dict()["1.running_var"].tolist() == [1.0, 1.0]

"""Files of `torch.save` as mapped tensors: the same values as `torch.load` reads."""

import io
from pathlib import Path

import pytest
import torch

from nemo_lite.checkpoints.torch_file import FileRange, read_tensors
from nemo_lite.errors import CheckpointError


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def read(path: Path, content: bytes, *, before: int = 0) -> dict[str, torch.Tensor]:
    path.write_bytes(b"x" * before + content + b"after")
    with path.open("rb", buffering=0) as file:
        return read_tensors(FileRange(file, before, len(content)), name="weights")


@pytest.mark.parametrize("before", [0, 512, 4_097])
def test_values_are_those_that_were_saved(tmp_path: Path, before: int) -> None:
    state = {
        "matrix": torch.randn(300, 70),
        "transposed": torch.randn(5, 7).T,
        "narrow": torch.randn(9).to(torch.bfloat16),
        "counter": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
    }
    found = read(tmp_path / "weights", saved(state), before=before)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_tensors_of_one_storage_go_on_sharing_it(tmp_path: Path) -> None:
    whole = torch.arange(10.0)
    found = read(tmp_path / "weights", saved({"whole": whole, "end": whole[6:]}))
    found["whole"][7] = -1.0
    assert found["end"].tolist() == [6.0, -1.0, 8.0, 9.0]


def test_changes_stay_in_memory(tmp_path: Path) -> None:
    content = saved({"x": torch.ones(3)})
    read(tmp_path / "weights", content)["x"].zero_()
    assert (tmp_path / "weights").read_bytes().startswith(content)


def test_parameters_and_the_metadata_of_modules_are_understood(tmp_path: Path) -> None:
    module = torch.nn.BatchNorm1d(3)
    found = read(tmp_path / "weights", saved(module.state_dict(keep_vars=True)))
    assert torch.equal(found["weight"], module.weight)


@pytest.mark.parametrize("cut", [1, 100, 1_000])
def test_a_range_that_ends_too_early_is_refused(tmp_path: Path, cut: int) -> None:
    content = saved({"x": torch.ones(3_000)})
    with pytest.raises(CheckpointError, match="weights cannot be loaded"):
        read(tmp_path / "weights", content[:-cut])


def test_nothing_outside_the_range_can_be_mapped(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    with path.open("rb", buffering=0) as file:
        part = FileRange(file, 10, 20)
        assert part.map(5, 15).tolist() == list(range(15, 30))
        for offset, size in ((0, 21), (20, 1), (-1, 2)):
            with pytest.raises(ValueError, match="bytes"):
                part.map(offset, size)

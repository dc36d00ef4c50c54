"""Memory: what is said beforehand, and what is taken."""

import gc
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nemo_lite.number_formats import DtypeName
from nemo_lite.salm import memory
from nemo_lite.salm.memory import (
    available_bytes,
    default_slots,
    release_unused,
    required_bytes,
    slot_bytes,
    weight_bytes,
)
from nemo_lite.salm.tests import measure_memory
from nemo_lite.salm.tests.tiny import CONFIG, LLM, tiny_network

CPU = torch.device("cpu")


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_those_of_the_network(tied: bool) -> None:
    llm = replace(LLM, tied=tied)
    network = tiny_network(llm=llm)
    taken = sum(parameter.nbytes for parameter in network.parameters())
    assert weight_bytes(replace(CONFIG, output_width=llm.width), llm, "float32") == taken
    assert weight_bytes(replace(CONFIG, output_width=llm.width), llm, torch.float16) == taken // 2


def test_weights_of_8_bits_take_less_than_those_of_16() -> None:
    config, llm = measure_memory.CONFIG, measure_memory.LLM
    assert weight_bytes(config, llm, "int8") < weight_bytes(config, llm, "bfloat16")


def test_every_slot_takes_its_share() -> None:
    one, five = (required_bytes(CONFIG, LLM, "float32", slots=slots) for slots in (1, 5))
    assert five - one == 4 * slot_bytes(LLM, "float32")
    assert slot_bytes(LLM, "int8") == 2 * slot_bytes(LLM, "bfloat16")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are in other units elsewhere")
@pytest.mark.parametrize(("dtype", "slots"), [("float32", 2), ("bfloat16", 1), ("int8", 2)])
def test_a_process_takes_what_was_said_within_a_fifth(dtype: DtypeName, slots: int) -> None:
    """In bfloat16, which most CPUs emulate, one slot must do."""
    if dtype == "int8":
        pytest.importorskip("nemo_lite_cpu")
    command = [sys.executable, "-m", measure_memory.__name__, dtype, str(slots)]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=root, timeout=250
    )
    taken, said = map(int, done.stdout.split())
    assert said == pytest.approx(taken, rel=0.2)


def test_there_is_memory_on_this_machine() -> None:
    assert 0 < available_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("names", "limit"),
    [
        (("memory.max", "memory.current"), 5_000),
        (("memory.limit_in_bytes", "memory.usage_in_bytes"), 5_000),
    ],
)
def test_a_containers_limit_counts(
    names: tuple[str, str], limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory").mkdir()
    folder = tmp_path if names[0] == "memory.max" else tmp_path / "memory"
    monkeypatch.setattr(memory, "_GROUPS", (tmp_path, tmp_path / "memory"))
    free = available_bytes()
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text("2000\n")
    assert available_bytes() == limit - 2_000
    (folder / "memory.stat").write_text("anon 100\ninactive_file 1500\n")
    assert available_bytes() == limit - 500  # cached files give way
    (folder / names[0]).write_text("max\n")
    assert available_bytes() == pytest.approx(free, rel=0.5)


@pytest.mark.parametrize(("room", "slots"), [(0.0, 1), (1.0, 1), (5.9, 2), (10.0, 5), (1e6, 8)])
def test_slots_by_default_have_room_in_half_of_what_is_free(
    room: float, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = int(room * slot_bytes(LLM, "float32"))
    monkeypatch.setattr(memory, "available_bytes", lambda _: free)
    assert default_slots(LLM, "float32", CPU) == slots


def test_what_is_gone_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(held() is None))
    network = tiny_network()
    network.__dict__["itself"] = network
    held = weakref.ref(network)
    gc.disable()
    try:
        del network
        release_unused()
    finally:
        gc.enable()
    assert emptied == [True]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_freed_memory_of_a_gpu_is_available_again() -> None:
    release_unused()
    free = available_bytes("cuda")
    tensor = torch.zeros(2**30, dtype=torch.uint8, device="cuda")
    del tensor
    assert available_bytes("cuda") < free
    release_unused()
    assert available_bytes("cuda") == pytest.approx(free, rel=0.01)

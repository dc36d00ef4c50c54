"""The GPU benchmark on a tiny model without a GPU: it measures what it says it measures."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import streaming_gpu
from device_limits import Limits, encoder_flops, floor_s
from full_size import CONFIGS
from gpu_rounds import Case, Rounds, attempt
from precision import edits
from streaming_gpu import Row, rows_table, summary_table

from nemo_lite.config import ModelConfig
from nemo_lite.network import Network


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The model is tiny: a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cells(text: str, columns: int) -> list[list[str]]:
    """The rows of all tables with so many columns, without the heads."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    found = [[cell.strip() for cell in row] for row in rows if len(row) == columns]
    return [row for row in found if row[0] in ("float32", "bfloat16")]


def rounds(*milliseconds: float) -> Rounds:
    whole = np.array(milliseconds)
    return Rounds(whole, whole * 0.75, peak_gib=2.0)


def quick(*arguments: str, path: Path) -> str:
    command = ["--model", "tiny", "--device", "cpu", "--quick", "--shared", str(path.parent)]
    streaming_gpu.main([*command, "--write", str(path), *arguments])
    return path.read_text()


def test_tables_of_a_tiny_model(tmp_path: Path) -> None:
    text = quick(path=tmp_path / "benchmarks.md")
    measured = cells(text, 12)
    assert [tuple(row[:3]) for row in measured] == [
        (dtype, chunk, batch)
        for dtype in ("bfloat16", "float32")
        for chunk in ("160",)
        for batch in ("1", "3")
    ]
    for row in measured:
        p50, p95, p99, _, outside, eager = (float(cell.replace(",", "")) for cell in row[3:9])
        assert 0 < outside < p50 <= p95 <= p99
        assert eager > 0
        assert float(row[10].split()[0]) > 0
    (_, rounded, differing, *_), (_, exact, same, digits, *_) = cells(text, 6)
    assert (float(exact), float(same.strip("%"))) == (0, 0)
    assert digits == "no model"
    assert 1e-3 < float(rounded) < 0.03  # eight bits of mantissa
    assert 0 <= float(differing.strip("%")) <= 100
    assert len(cells(text, 3)) == 2
    assert re.search(r"emit\s+0\.\d+ tokens per frame", text)


def test_when_time_is_up_the_other_rows_say_so(tmp_path: Path) -> None:
    arguments = ["--minutes", "0", "--dtypes", "float32"]
    measured = cells(quick(*arguments, path=tmp_path / "benchmarks.md"), 12)
    assert [row[3] for row in measured] == ["not measured"] * 2


def test_streams_follow_from_the_95th_percentile() -> None:
    slow = Row(Case("float32", 160, 32), rounds(*[10.0] * 90, *[200.0] * 10))
    fast = Row(Case("float32", 160, 32), rounds(*[10.0] * 96, *[200.0] * 4))
    assert slow.streams == pytest.approx(32 * 160 / 200)
    assert not slow.in_time
    assert fast.streams == pytest.approx(32 * 160 / 10)
    assert fast.in_time


def test_a_row_that_fails_is_reported_and_the_largest_that_did_not_wins() -> None:
    rows = [
        Row(Case("float32", 160, 1), rounds(4.0), rounds(9.0), 0.5, "memory"),
        Row(Case("float32", 160, 8), rounds(8.0), "out of memory", 0.5, "memory"),
        Row(Case("float32", 160, 32), "out of memory", "out of memory", 0.5, "memory"),
    ]
    table = cells(rows_table(rows), 12)
    assert table[0][3:10] == ["4.00", "4.00", "4.00", "40", "1.00", "9.00", "2.0"]
    assert table[1][8] == "out of memory"
    assert table[2][3] == "out of memory"
    assert cells(summary_table(rows), 3) == [["float32", "8 (160)", "4.00"]]


def test_failures_of_the_device_do_not_end_the_run() -> None:
    def full() -> Rounds:
        raise torch.OutOfMemoryError("tried to allocate")

    def broken() -> Rounds:
        raise RuntimeError("CUDA error: launch failed\nmore")

    def wrong() -> Rounds:
        raise TypeError("a mistake")

    assert attempt(full) == "out of memory"
    assert attempt(broken) == "failed: CUDA error: launch failed"
    with pytest.raises(TypeError):
        attempt(wrong)


def test_the_floor_counts_weights_once_and_caches_by_stream() -> None:
    with torch.device("meta"):
        network = Network(ModelConfig.from_nemo(CONFIGS["parakeet-eou"])).eval()
    (context,) = network.config.encoder.contexts
    products = encoder_flops(network, context)
    weights = sum(weight.numel() for weight in network.encoder.parameters())
    assert 1.0 < products / (2 * weights * context.chunk_frames) < 1.1

    one, kind = floor_s(network, context, 1, Limits(1.0, 1e30))
    nine, _ = floor_s(network, context, 9, Limits(1.0, 1e30))
    assert kind == "memory"
    cache = 17 * (2 * (70 + 2) * 512 + 2 * 8 * 512) * 4  # keys and values, convolution
    assert (nine - one) / 8 == pytest.approx(cache, rel=0.06)  # the subsampling's are small
    assert one == pytest.approx(4 * weights, rel=0.1)
    assert floor_s(network, context, 9, Limits(1e30, 1.0)) == (9 * products, "matrix")


@pytest.mark.parametrize(
    ("expected", "found", "count"),
    [("abc", "abc", 0), ("abc", "axc", 1), ("abc", "ac", 1), ("ab", "abc", 1), ("", "ab", 2)],
)
def test_edits(expected: str, found: str, count: int) -> None:
    assert edits(expected, found) == count

"""The Canary-Qwen benchmark on a tiny model: all write the same, and the tables say so."""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[1]))

from canary import CONTENDERS, Settings, measure
from canary_network import random_salm, request
from canary_runs import Continuous, Generate
from canary_tables import Results, report


@pytest.fixture(scope="module")
def results() -> Results:
    before = torch.get_num_threads()
    try:
        settings = Settings("tiny", "cpu", 1, batches=(1, 3), seconds=2.0, staggered=3, attempts=1)
        return measure(settings)
    finally:
        torch.set_num_threads(before)


def test_transformers_and_nemo_lite_write_the_same_tokens() -> None:
    network = random_salm("tiny", dtype=torch.float32, device="cpu")
    requests = [request(1.0, 0), request(3.0, 1), request(2.0, 2)]
    arrivals = [0.0, 0.0, 0.01]
    ours = Continuous(network, slots=2, seconds=3.0).run(requests, arrivals)
    theirs = Generate(network, most=8).run(requests, arrivals)
    assert ours.tokens == theirs.tokens
    assert [len(tokens) for tokens in ours.tokens] == [3, 9, 6]
    assert min(ours.waits) > 0.0


def test_every_contender_is_measured_or_missing(results: Results) -> None:
    for name in CONTENDERS:
        if name in results.missing:
            continue
        assert results.runs[name, 1].total > 0.0
        assert len(results.runs[name, 3].done) == 3
        assert all(len(tokens) == 6 for tokens in results.staggered[name].tokens)
    assert results.agreement["nemo_lite"].same == 1.0
    assert results.agreement["nemo_lite"].error < 1e-4
    assert results.phases["nemo_lite"].steps >= 5


def test_the_tables_have_a_row_for_every_run(results: Results) -> None:
    text = report("tiny", "here", "float32", results)
    measured = [name for name in CONTENDERS if name not in results.missing]
    for name in measured:
        assert text.count(f"| {name} |") == 4
    reference = next(iter(CONTENDERS))
    row = next(line for line in text.splitlines() if line.startswith(f"| {reference} | 1 "))
    assert row.split("|")[4].strip() == "1.00"

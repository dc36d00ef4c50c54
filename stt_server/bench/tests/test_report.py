"""When a limit is broken, and what is said about it."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stt_server.bench.measured import Measured, Percentiles
from stt_server.bench.picture import draw
from stt_server.bench.report import heading, held, line, markdown, remarks, to_json
from stt_server.bench.stage import Limits, StageResult, broken_limit

LIMITS = Limits(lag_ms=260.0, chunk_ms=160.0)


def result(streams: int, **more: Any) -> StageResult:
    usual: dict[str, Any] = {
        "held": streams,
        "lag": Percentiles(100, 90.0, 150.0, 170.0, 200.0),
        "lag_kinds": {"word": 100},
        "to_onset": None,
        "to_final": Percentiles(9, 1_510.0, 1_520.0, 1_530.0, 1_540.0),
        "own_share": Percentiles(9, 10.0, 20.0, 30.0, 40.0),
        "words_first_in_final": 0,
        "to_end": Percentiles(9, 10.0, 20.0, 30.0, 40.0),
        "refusals": {},
        "errors": {},
        "bench_cores": 0.1,
        "late_p99": 2.0,
        "pace": 10.0,
    }
    return StageResult(streams=streams, **usual | more)


SLOW = Percentiles(100, 100.0, 200.0, 2_061.0, 9_000.0)


@pytest.mark.parametrize(
    ("more", "broken"),
    [
        ({}, None),
        ({"lag": None, "to_end": None}, None),
        ({"lag": SLOW}, "lag"),
        ({"refusals": {"503": 1}}, "refusals"),
        ({"errors": {"1011": 1}}, "errors"),
        ({"step_lag_p95": 99.0}, None),
        ({"lag": None, "step_lag_p95": 101.0}, "step lag"),
        ({"to_end": SLOW}, "time to the end"),
    ],
)
def test_limits(more: dict[str, Any], broken: str | None) -> None:
    assert broken_limit(result(5, **more), LIMITS, is_live=True) == broken


def test_refusals_may_be_allowed_and_lags_of_fast_clients_mean_nothing() -> None:
    refused = result(5, refusals={"503": 2, "1013": 1})

    assert broken_limit(refused, replace(LIMITS, refusals=3), is_live=True) is None
    assert broken_limit(refused, replace(LIMITS, refusals=2), is_live=True) == "refusals"
    assert broken_limit(result(5, to_end=SLOW), LIMITS, is_live=False) is None


def test_what_was_held_is_the_largest_without_a_broken_limit() -> None:
    rows = [result(5), result(20, broken_by="lag"), result(10), result(15, broken_by="refusals")]

    assert held(rows) == 10
    assert held(rows[1:2]) == 0


def test_a_late_load_generator_is_told() -> None:
    rows = [result(5), result(10, late_p99=30.0)]

    said = "\n".join(remarks(rows, LIMITS, is_live=True))
    assert "held within 260 ms of lag (p95): 10 streams" in said
    assert "itself was late with 10 streams" in said
    assert "itself" not in "\n".join(remarks(rows[:1], LIMITS, is_live=True))


def test_refusals_are_told_with_the_servers_limit_where_it_is_known() -> None:
    refused = result(6, held=4, refusals={"503": 2}, server_capacity=4, broken_by="refusals")
    elsewhere = replace(refused, server_capacity=None)
    of_others = replace(refused, server_capacity=9)

    assert "of 6 streams 4 served, 2 refused: the server's limit is 4" in remarks(
        [result(3), refused], LIMITS, is_live=True
    )
    for row in (elsewhere, of_others):
        assert remarks([row], LIMITS, is_live=True) == ["of 6 streams 4 served, 2 refused: 2×503"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"lag_kinds": {"heard": 3}}, "lower bound"),
        ({"lag_kinds": {"tail": 3}}, "before each pause"),
        ({"lag_kinds": {}, "lag": None, "step_lag_p95": 9.0}, "no interims"),
        ({"lag_kinds": {}, "lag": None}, "no lag was measured with 5 streams"),
    ],
)
def test_what_a_lag_is_not_is_told(more: dict[str, Any], words: str) -> None:
    assert words in remarks([result(5, **more)], LIMITS, is_live=True)[-1]


def test_rows_fit_their_heading() -> None:
    rows = [result(5), result(10, held=8, refusals={"503": 2}, lag=None, broken_by="refusals")]

    assert len(line(rows[0])) == len(heading())
    assert "8/10" in line(rows[1])
    assert line(rows[1]).endswith("  refusals")
    table = markdown(rows).splitlines()
    assert len({row.count("|") for row in table}) == 1
    assert "| 90/150/170/200 |" in table[2]


def test_costs_of_the_main_process_alone_are_said_to_be_that() -> None:
    assert "main process alone" in heading(counts_children=False)
    assert "main process alone" not in heading()


def test_json_has_everything() -> None:
    found = to_json([result(5), result(9, broken_by="lag")], LIMITS, {"protocol": "native"})

    assert found["held"] == 5
    assert found["protocol"] == "native"
    assert found["limits"] == {"lag_ms": 260.0, "chunk_ms": 160.0, "refusals": 0}
    assert found["stages"][1]["lag"]["p99"] == 200.0


def test_counts_of_processes_add_up() -> None:
    first = Measured(lags=[0.1], refusals=Counter({"503": 1}), held=2, sent_s=3.0)
    first.add(Measured(lags=[0.2], refusals=Counter({"503": 2, "1013": 1}), held=1))

    assert first.lags == [0.1, 0.2]
    assert first.refusals == {"503": 3, "1013": 1}
    assert (first.held, first.sent_s) == (3, 3.0)


@pytest.mark.parametrize("more", [{}, {"lag": None, "own_share": None, "to_final": None}])
def test_a_picture_is_drawn_of_whatever_was_measured(more: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [result(5, **more), result(10, refusals={"503": 2}, broken_by="refusals", **more)]
    path = tmp_path / "latency.png"
    draw(rows, LIMITS, path, title="native")

    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 5_000

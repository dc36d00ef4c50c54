"""What a server's metrics say about a span of time."""

import os
import socket
from pathlib import Path

import pytest
from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from stt_server.bench.server_costs import Histogram as Counts
from stt_server.bench.server_costs import Reading, ServerCosts, parse_metrics


def test_a_page_of_metrics_is_read() -> None:
    registry = CollectorRegistry()
    step = Histogram("stt_step_seconds", "-", ["model"], buckets=(0.1, 0.2), registry=registry)
    for model, seconds in (("a", 0.05), ("a", 0.15), ("b", 0.15), ("b", 9.0)):
        step.labels(model).observe(seconds)
    Gauge("stt_capacity", "-", registry=registry).set(4)
    ProcessCollector(registry=registry)

    reading = parse_metrics(generate_latest(registry).decode())

    assert reading.step.buckets == {0.1: 1, 0.2: 3, float("inf"): 4}
    assert reading.step_lag.count == 0
    assert reading.capacity == 4
    if Path("/proc/self/stat").exists():
        assert reading.cpu_s is not None
        assert reading.cpu_s > 0
        assert reading.rss_mib is not None
        assert 10 < reading.rss_mib < 10_000


@pytest.mark.parametrize("text", ["", "<html>no</html>", "a b c d", '{"error": 1}'])
def test_another_page_says_nothing(text: str) -> None:
    assert parse_metrics(text) == Reading()


def test_quantiles_lie_within_their_buckets() -> None:
    counts = Counts({0.1: 10, 0.2: 20, 0.4: 20, float("inf"): 20})

    assert counts.quantile(0.25) == pytest.approx(0.05)
    assert counts.quantile(0.75) == pytest.approx(0.15)
    assert counts.quantile(1.0) == pytest.approx(0.2)
    assert Counts({}).quantile(0.5) is None
    assert Counts({0.1: 0, float("inf"): 0}).quantile(0.5) is None
    assert Counts({0.1: 0, float("inf"): 3}).quantile(0.5) == 0.1  # at least


def test_a_span_of_time_is_what_came_since() -> None:
    before = Counts({0.1: 10, float("inf"): 12})
    after = Counts({0.1: 11, float("inf"): 20})

    assert (after - before).buckets == {0.1: 1, float("inf"): 8}
    assert (after - Counts({})).buckets == after.buckets


def test_the_process_is_found_by_its_port() -> None:
    pytest.importorskip("psutil")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = ServerCosts(f"http://127.0.0.1:{port}", api_key=None, pid=None)
        assert found.knows_process
    assert not ServerCosts(f"http://127.0.0.1:{port}", api_key=None, pid=None).knows_process


def test_a_server_without_metrics_still_has_a_process() -> None:
    pytest.importorskip("psutil")
    with socket.create_server(("127.0.0.1", 0)) as unbound:
        port = unbound.getsockname()[1]
    reading = ServerCosts(f"http://127.0.0.1:{port}", api_key=None, pid=os.getpid()).read()

    assert reading.cpu_s is not None
    assert reading.rss_mib is not None
    assert reading.step.count == 0

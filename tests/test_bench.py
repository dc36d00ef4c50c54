"""`stt-bench` against a real server."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server import ROOT, ServerProcess, run_server, wait_until

CAPACITY = 3


@pytest.fixture(scope="module")
def small_server() -> Iterator[ServerProcess]:
    with run_server("--limits-max-sessions", str(CAPACITY)) as process:
        yield process


def start(server: ServerProcess, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stt_server.bench", "--url", server.url, *flags]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def bench(server: ServerProcess, tmp_path: Path, *flags: str) -> dict[str, Any]:
    """What a run saved as JSON."""
    path = tmp_path / "found.json"
    process = start(server, "--json", str(path), *flags)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err
    assert err == ""
    return json.loads(path.read_text())


def test_a_ramp_ends_at_the_first_refusal(small_server: ServerProcess, tmp_path: Path) -> None:
    png = tmp_path / "latency.png"
    flags = ("--ramp", "2:4:2", "--stage-s", "4", "--processes", "2", "--png", str(png))
    found = bench(small_server, tmp_path, *flags, "--max-lag-ms", "5000")

    first, second = found["stages"]
    assert found["held"] == 2
    assert (first["streams"], first["held"], first["broken_by"]) == (2, 2, None)
    assert (second["streams"], second["held"], second["broken_by"]) == (4, CAPACITY, "refusals")
    assert second["refusals"] == {"503": 1}
    assert first["errors"] == second["errors"] == {}
    # Two people speak most of the time, a word in 0.3 s.
    assert 3 <= first["lag"]["count"] <= 2 * 4 / 0.3 + 2
    assert first["lag"]["p50"] > 0
    assert 0 < first["server_mib"] < 2_000
    assert first["server_cores"] > 0
    assert first["bench_cores"] > 0
    assert png.read_bytes().startswith(b"\x89PNG")
    assert small_server.open_sessions() == 0


def test_finals_are_timed(server: ServerProcess, tmp_path: Path) -> None:
    yes = ROOT / "tests/audio/yes.flac"
    flags = ("--streams", "2", "--stage-s", "4", "--audio", str(yes), "--pause-s", "0.8")
    url = f"{server.url}?silence_ms=300"
    found = bench(server, tmp_path, *flags, "--max-lag-ms", "5000", "--url", url)

    (row,) = found["stages"]
    assert row["to_final"]["p50"] > 300
    shares = zip(row["to_final"].items(), row["own_share"].values(), strict=True)
    assert all(
        whole - own == pytest.approx(300) for (name, whole), own in shares if name != "count"
    )
    assert row["to_onset"]["count"] >= row["to_final"]["count"] > 2
    assert "token" not in json.dumps(found)


@pytest.mark.parametrize("protocol", ["parakeet", "fastconformer"])
def test_the_other_protocols_are_spoken(
    protocol: str, small_server: ServerProcess, tmp_path: Path
) -> None:
    flags = ("--protocol", protocol, "--streams", "4", "--stage-s", "1", "--max-refusals", "1")
    url = small_server.http.replace("http", "ws")
    found = bench(small_server, tmp_path, *flags, "--url", url, "--max-lag-ms", "5000")

    (row,) = found["stages"]
    assert row["held"] == CAPACITY
    assert sum(row["refusals"].values()) == 1
    assert row["errors"] == {}
    assert row["broken_by"] is None
    assert row["to_end"]["count"] == CAPACITY
    assert set(row["lag_kinds"]) <= {"tail"}


def test_fast_clients_measure_throughput(server: ServerProcess, tmp_path: Path) -> None:
    found = bench(server, tmp_path, "--fast", "--streams", "2", "--stage-s", "20")

    (row,) = found["stages"]
    assert row["held"] == 2
    assert row["lag"] is None
    assert row["pace"] > 2  # two streams in real time make 2


def test_ctrl_c_prints_and_saves_what_there_is(server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    process = start(server, "--streams", "2", "--stage-s", "600", "--json", str(path))
    assert process.stdout is not None
    process.stdout.readline()  # the heading: the stage begins
    wait_until(lambda: server.open_sessions() == 2, what="two clients")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert err == ""
    assert "held within" in out
    found = json.loads(path.read_text())
    assert found["interrupted"]
    assert found["stages"][0]["errors"] == {}

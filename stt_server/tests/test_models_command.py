"""`stt-server models`, against a hub on loopback."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_lite.registry import REGISTRY
from nemo_lite.tests.fake_hub import COMMIT, FakeHub, Fault, running
from stt_server.cli import main

MIB = 2**20
ARCHIVE = bytes(range(256)) * (3 * 4_096)
HEAVY = {"torch", "numpy", "onnxruntime", "starlette", "uvicorn"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting, cache or proxy of the machine that runs the tests."""
    for name in list(os.environ):  # noqa: TID251
        if name.startswith("STT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def fake() -> Iterator[FakeHub]:
    with running(FakeHub(files={"tiny.nemo": ARCHIVE})) as running_hub:
        yield running_hub


@pytest.fixture
def flags(fake: FakeHub, tmp_path: Path) -> list[str]:
    """Where to download from and to."""
    return [f"--endpoint={fake.url}", f"--cache-dir={tmp_path / 'cache'}"]


def place(cache: Path, name: str) -> Path:
    """Put a stand-in for a registry's checkpoint where a download would."""
    entry = REGISTRY[name]
    folder = cache / entry.repo.replace("/", "--") / entry.revision
    folder.mkdir(parents=True)
    path = folder / entry.files[0].name
    path.touch()
    return path


def test_list_has_a_line_for_every_model_and_says_which_is_here(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    place(tmp_path, "parakeet-eou")

    assert main(["models", "list", f"--cache-dir={tmp_path}"]) == 0

    told = capsys.readouterr().out
    lines = {line.split()[0]: line for line in told.splitlines() if line.strip()}
    assert set(REGISTRY) <= set(lines)
    assert lines["parakeet-eou"].split()[1:4] == ["yes", "0.5", "GB"]
    assert lines["nemotron-en"].split()[1] == "no"
    assert lines["smart-turn"].split()[1:4] == ["no", "9", "MB"]
    assert lines["sortformer"].split()[1] == "–"
    assert all(REGISTRY[name].licence in lines[name] for name in REGISTRY)


def test_pull_prints_the_path_and_nothing_else_on_stdout(
    fake: FakeHub, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "pull", "acme/tiny", *flags]) == 0

    told = capsys.readouterr()
    assert Path(told.out.rstrip("\n")).read_bytes() == ARCHIVE
    assert "acme/tiny ready" in told.err
    assert "3.1/3.1 MB" in told.err


def test_path_is_told_after_a_pull_and_missing_before(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "path", "acme/tiny", *flags]) == 1
    assert "stt-server models pull acme/tiny" in capsys.readouterr().err

    main(["models", "pull", "acme/tiny", *flags])
    pulled = capsys.readouterr().out
    assert main(["models", "path", "acme/tiny", *flags]) == 0
    assert capsys.readouterr().out == pulled


def test_variables_of_the_environment_are_heard(
    fake: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake.gated = True
    monkeypatch.setenv("STT_MODELS__ENDPOINT", fake.url)
    monkeypatch.setenv("STT_MODELS__CACHE_DIR", "~/models")
    monkeypatch.setenv("STT_MODELS__TOKEN", "good")

    assert main(["models", "pull", "acme/tiny"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.is_relative_to(tmp_path / "home" / "models")

    monkeypatch.setenv("STT_MODELS__OFFLINE", "true")
    asked = len(fake.requests)
    assert main(["models", "pull", "acme/tiny"]) == 0
    assert len(fake.requests) == asked


def test_file_of_settings_is_heard(
    fake: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f'[models]\nendpoint = "{fake.url}"\ncache_dir = "{tmp_path}/here"\n')

    assert main(["models", "pull", "acme/tiny", "--config", str(file)]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/here/")


def test_one_failure_does_not_keep_the_others(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "pull", "acme/none", "acme/tiny", *flags]) == 1

    told = capsys.readouterr()
    assert told.out.endswith("tiny.nemo\n")
    assert "stt-server: " in told.err
    assert "no such repository" in told.err


@pytest.mark.parametrize(
    ("name", "why"),
    [("parakeet-eo", "did you mean parakeet-eou"), ("sortformer", "cannot be loaded")],
)
def test_name_that_cannot_be_had_is_told_before_anything_is_fetched(
    fake: FakeHub, flags: list[str], capsys: pytest.CaptureFixture[str], name: str, why: str
) -> None:
    assert main(["models", "pull", "acme/tiny", name, *flags]) == 2
    assert why in capsys.readouterr().err
    assert fake.requests == []


def test_offline_pull_of_what_is_not_here_fails(
    fake: FakeHub, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "pull", "acme/tiny", "--offline", *flags]) == 1
    assert "switched off" in capsys.readouterr().err
    assert fake.requests == []


@pytest.mark.parametrize(
    "arguments", [[], ["list", "extra"], ["pull"], ["path"], ["drop", "x"], ["list", "--port=1"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["models", *arguments])

    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stt-server models")


def test_bad_setting_is_told_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "--endpoint=hub.example"]) == 2
    assert "setting models.endpoint: " in capsys.readouterr().err


def test_token_is_not_shown(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["models", "pull", "acme/none", "--token=s3cret", *flags])

    told = capsys.readouterr()
    assert "s3cret" not in told.out + told.err


def test_interrupt_leaves_what_the_next_pull_goes_on_with(
    fake: FakeHub, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hold = threading.Event()
    fake.faults = [Fault(cut_after=2 * MIB, hold=hold)]
    part = tmp_path / "cache" / "acme--tiny" / f"{COMMIT}.partial" / "tiny.nemo.part"
    command = [sys.executable, "-m", "stt_server", "models", "pull", "acme/tiny", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (part.exists() and part.stat().st_size >= MIB):
            threading.Event().wait(0.01)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1]
    hold.set()

    assert process.returncode == 130
    assert "stopped; the same command goes on with it" in told
    assert "Traceback" not in told
    there = part.stat().st_size
    assert main(["models", "pull", "acme/tiny", *flags]) == 0
    assert fake.contents[-1].range == f"bytes={there}-"
    assert Path(capsys.readouterr().out.strip()).read_bytes() == ARCHIVE


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["pull", "--help"], ["pull", "none"]])
def test_models_command_needs_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "stt_server", "models", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "stt_server.cli" in imported
    assert not imported & HEAVY

"""The command line of `stt-bench`, as far as no server is needed."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stt_server.bench.cli import main
from stt_server.clients.tests.fake_server import FakeServer, refusal


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The last line for a command line that is wrong."""
    with pytest.raises(SystemExit) as exit_of:
        main(flags)
    assert exit_of.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--streams", "0"], "'0': use a whole number from 1 to 10000"),
        (["--streams", "many"], "'many': use a whole number"),
        (["--stage-s", "nan"], "'nan': use a number from 1 to 86400"),
        (["--ramp", "5:x"], "'5:x': use START:MAX or START:MAX:STEP"),
        (["--ramp", "9:5"], "'9:5': use 1 <= START <= MAX"),
        (["--ramp", "1:5", "--streams", "3"], "not allowed with"),
        (["--protocol", "sip"], "invalid choice"),
        (["--json", "/no/such/folder/a.json"], "there is no folder /no/such/folder"),
        (["--png", "a.png", "--fast"], "--fast does not measure"),
        (["--tempo", "5"], "no such flag: --tempo"),
    ],
)
def test_wrong_flags_are_one_sentence(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, *flags)


def test_an_absent_server_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unbound:
        port = unbound.getsockname()[1]
    assert main(["--url", f"127.0.0.1:{port}"]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("stt-bench: cannot reach")
    assert len(shown.err.splitlines()) == 1


async def test_a_wrong_key_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    async with FakeServer(refuse=refusal(401, "no")) as server:
        flags = ["--url", server.url, "--api-key", "wrong"]
        assert await asyncio.to_thread(main, flags) == 3
    assert server.headers["Authorization"] == "Bearer wrong"
    shown = capsys.readouterr()
    assert (shown.out, len(shown.err.splitlines())) == ("", 1)
    assert "the API key is missing or wrong" in shown.err


async def test_a_wrong_option_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    async with FakeServer(on_config=[], close_with=(4400, "bad URL parameter")) as server:
        url = f"{server.url}/ws/transcribe?silence_ms=x"
        assert await asyncio.to_thread(main, ["--url", url]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "stt-bench: the connection was lost (4400: bad URL parameter)\n"
    assert server.path == "/ws/transcribe?silence_ms=x"


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--url", "ftp://here"], 2, "unknown scheme"),
        (["--audio", "/no/such/file.wav"], 5, "cannot read /no/such/file.wav"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    flags: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == code
    shown = capsys.readouterr().err
    assert words in shown
    assert len(shown.splitlines()) == 1


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "stt_server.bench", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
        timeout=60,
    )
    imported = {row.rpartition("|")[2].strip() for row in done.stderr.splitlines()}
    assert "stt-bench" in done.stdout
    assert "stt_server.bench.cli" in imported
    assert not imported & {"numpy", "websockets", "pydantic", "psutil", "matplotlib", "soundfile"}

"""The whole program: flags in; exit code, stdout, stderr and files out."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stt_server.clients.cli import SAVE_SUFFIXES, main
from stt_server.clients.tests.fake_server import FINAL, INTERIM, FakeServer, refusal
from stt_server.clients.transcript import Transcript
from stt_server.settings import DEFAULT_PORT


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    soundfile.write(path, np.zeros(16_000, dtype=np.int16), 16_000)
    return path


async def run(*arguments: object) -> int:
    return await asyncio.to_thread(main, [str(argument) for argument in arguments])


async def test_a_file_is_shown_line_by_line(
    speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with FakeServer() as server:
        assert await run(speech, "--fast", "--url", server.url) == 0
    shown = capsys.readouterr()
    assert shown.out == "… please send\n✓ please send the report  (0.50–2.25 s)\n"
    assert shown.err == ""
    assert len(server.audio) == 32_000


async def test_json_is_every_message_and_nothing_else(
    speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with FakeServer() as server:
        assert await run(speech, "--fast", "--json", "--url", server.url) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    finished = {"type": "finished", "audioSeconds": 1.0, "turns": 1}
    assert rows == [*server.on_config, INTERIM, FINAL, finished]


async def test_flags_become_options(speech: Path) -> None:
    flags = "--language en --silence-ms 700 --stall-ms 0 --detector eou --endpointing none"
    more = "--no-interim --segment-finals --model digits --lookahead-ms 80 --api-key k"
    async with FakeServer() as server:
        await run(
            speech, "--fast", "--url", server.url, *flags.split(), *more.split(),
            "--vocabulary", "Erlangen, push to talk", "--vocabulary", "x",
        )  # fmt: skip
    assert server.headers["Authorization"] == "Bearer k"
    assert server.texts[0] == {
        "type": "config",
        "sampleRate": 16_000,
        "channels": 1,
        "encoding": "pcm16",
        "features": ["all"],
        "interimResults": False,
        "segmentFinals": True,
        "language": "en",
        "vocabulary": ["Erlangen", "push to talk", "x"],
        "model": "digits",
        "lookaheadMs": 80,
        "endpointing": {"mode": "none", "detector": "eou", "silenceMs": 700, "stallMs": 0},
    }


@pytest.mark.parametrize(("flag", "resume"), [("--json", True), ("--no-resume", None)])
async def test_live_audio_survives_lost_connections(
    flag: str, resume: bool | None, tmp_path: Path
) -> None:
    path = tmp_path / "short.wav"
    soundfile.write(path, np.zeros(800, dtype=np.int16), 16_000)
    async with FakeServer() as server:
        await run(path, flag, "--url", server.url)
    assert server.texts[0].get("resume") is resume


async def test_the_key_comes_from_the_environment(
    speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STT_API_KEY", "from-env")
    async with FakeServer() as server:
        await run(speech, "--fast", "--quiet", "--url", server.url)
    assert server.headers["Authorization"] == "Bearer from-env"


async def test_a_lost_connection_keeps_and_saves_what_came(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "out.txt"
    server = FakeServer(on_audio=[FINAL, INTERIM], close_with=(1012, "restarting"))
    async with server:
        assert await run(speech, "--fast", "--url", server.url, "--save", saved) == 1
    shown = capsys.readouterr()
    assert "✓ please send the report" in shown.out
    assert shown.err == "stt-client: the connection was lost (1012: restarting)\n"
    assert saved.read_text() == "please send the report\n… please send\n"


async def test_an_error_of_the_server_is_exit_code_1(
    speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"error": "a turn was lost", "code": "TRANSCRIPTION_ERROR"}
    async with FakeServer(on_audio=[error]) as server:
        assert await run(speech, "--fast", "--quiet", "--url", server.url) == 1
    shown = capsys.readouterr()
    assert shown.out == "please send the report\n"
    assert shown.err == "! a turn was lost (TRANSCRIPTION_ERROR)\n"


@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--expect-text"], 6)])
async def test_silence_is_an_error_only_when_text_is_expected(
    flags: list[str], code: int, speech: Path
) -> None:
    async with FakeServer(on_audio=[], on_end=[]) as server:
        assert await run(speech, "--fast", "--url", server.url, *flags) == code


async def test_a_damaged_file_is_transcribed_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "half.flac"
    noise = np.random.default_rng(0).integers(-9_000, 9_000, 64_000, dtype=np.int16)
    soundfile.write(path, noise, 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    async with FakeServer() as server:
        assert await run(path, "--fast", "--quiet", "--url", server.url) == 5
    shown = capsys.readouterr()
    assert shown.out == "please send the report\n"
    assert "the file is damaged" in shown.err


@pytest.mark.parametrize(
    ("status", "words"), [(401, "--api-key or in the variable STT_API_KEY"), (503, "still loading")]
)
async def test_a_refusal_is_exit_code_3(
    status: int, words: str, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "out.txt"
    async with FakeServer(refuse=refusal(status, "")) as server:
        assert await run(speech, "--url", server.url, "--save", saved) == 3
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not saved.exists()


async def test_a_missing_key_is_told_with_where_to_put_it(
    speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = FakeServer(on_config=[], close_with=(4401, "send your API key first"))
    async with server:
        assert await run(speech, "--url", server.url) == 3
    error = capsys.readouterr().err
    assert "the API key is missing or wrong (4401: send your API key first)" in error
    assert "STT_API_KEY" in error


async def test_a_server_without_tls_is_told(
    speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with FakeServer() as server:
        address = server.url.replace("ws:", "https:")
        assert await run(speech, "--url", address) == 3
    error = capsys.readouterr().err
    assert "no TLS" in error
    assert "ws:// or http://" in error
    assert "SSL" not in error


def test_nobody_listens(speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(speech), "--url", "127.0.0.1:1"]) == 3
    assert capsys.readouterr().err.startswith("stt-client: cannot reach ws://127.0.0.1:1/")


def test_a_bad_address_is_a_mistake_in_usage(speech: Path) -> None:
    assert main([str(speech), "--url", "ftp://host"]) == 2


def test_an_unreadable_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "missing.wav")]) == 5
    error = capsys.readouterr().err
    assert error == f"stt-client: cannot read {tmp_path}/missing.wav: No such file or directory\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fast"],
        ["--expect-text"],
        ["a.wav", "--device", "1"],
        ["a.wav", "--list-devices"],
        ["a.wav", "--save", "out.doc"],
        ["a.wav", "--save", "/no/such/folder/out.txt"],
        ["a.wav", "--silence-ms", "soon"],
        ["--no-such-flag"],
        ["a.wav", "--url", "tcp://127.0.0.1:1"],
    ],
)
def test_mistakes_in_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stt-client: ")
    assert line.endswith("(see stt-client --help)")


async def test_a_transcript_that_cannot_be_written(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken.txt"
    taken.mkdir()
    async with FakeServer() as server:
        assert await run(speech, "--fast", "--url", server.url, "--save", taken) == 1
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", SAVE_SUFFIXES)
def test_every_suffix_that_the_flag_takes_can_be_written(suffix: str, tmp_path: Path) -> None:
    Transcript().save(tmp_path / f"a{suffix}")


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys\nfrom stt_server.clients.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'rich', 'soundfile', 'sounddevice', 'pydantic', 'websockets'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert f"127.0.0.1:{DEFAULT_PORT}" in done.stdout
    assert "exit codes:" in done.stdout


async def test_ctrl_c_ends_a_file_at_once_and_saves(tmp_path: Path) -> None:
    path, saved = tmp_path / "long.wav", tmp_path / "out.txt"
    soundfile.write(path, np.zeros(16_000 * 600, dtype=np.int16), 16_000)
    command = ["-m", "stt_server.scripts.stt_client", path, "--save", saved]
    async with FakeServer(on_audio=[FINAL]) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, "--url", server.url,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        assert "✓ please send the report" in (await process.stdout.readline()).decode()
        process.send_signal(signal.SIGINT)
        _, stderr = await process.communicate()
        await server.gone.wait()
    assert process.returncode == 130
    assert stderr == b""
    assert saved.read_text() == "please send the report\n"
    assert server.close_code == 1000


async def test_a_closed_pipe_is_no_stack_trace(speech: Path) -> None:
    command = ["-m", "stt_server.scripts.stt_client", speech, "--fast", "--quiet"]
    reader, writer = os.pipe()
    os.close(reader)
    async with FakeServer() as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, "--url", server.url, stdout=writer, stderr=subprocess.PIPE
        )
        os.close(writer)
        _, stderr = await process.communicate()
    assert (process.returncode, stderr) == (1, b"")

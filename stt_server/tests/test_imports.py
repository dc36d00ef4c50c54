"""What must not be imported to answer quickly."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "onnxruntime", "soxr", "starlette", "uvicorn", "silero_vad")


def imported_by(code: str) -> set[str]:
    """Top-level names of the modules in a fresh interpreter after `code`."""
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split())


def run_module(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m module`, with a list of what it imported on stderr."""
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def heavy_in(importtime: str) -> set[str]:
    names = {line.rpartition("|")[2].strip() for line in importtime.splitlines()}
    return names & set(HEAVY)


def test_the_package_alone_imports_nothing_heavy() -> None:
    modules = imported_by("import stt_server")

    assert "stt_server" in modules
    assert not modules & {*HEAVY, "pydantic", "asyncio"}


def test_public_types_of_messages_need_no_audio_libraries() -> None:
    modules = imported_by("from stt_server import AudioFrame, TranscriptionSegment, Settings")

    assert not modules & {"torch", "onnxruntime", "starlette", "uvicorn"}


def test_the_server_never_imports_torch() -> None:
    modules = imported_by(
        "from stt_server.app import create_app\n"
        "from stt_server.settings import EngineName, Settings\n"
        "from stt_server.engine.silero import load_silero\n"
        "create_app(Settings(model=EngineName.SCRIPTED))\n"
        "load_silero()"
    )

    assert not modules & {"torch", "silero_vad", "torchaudio"}


def test_torch_is_imported_no_sooner_than_its_model_is_loaded() -> None:
    modules = imported_by(
        "from stt_server.app import create_app\n"
        "from stt_server.settings import Settings\n"
        "create_app(Settings(model='canary-qwen'))\n"
        "create_app(Settings(model='scripted', final_model='canary-qwen'))"
    )

    assert "nemo_lite" in modules
    assert not modules & {"torch", "transformers", "safetensors", "tokenizers"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_answers_of_the_server_command_import_nothing_heavy(arguments: list[str]) -> None:
    done = run_module("stt_server", *arguments)

    assert done.returncode == 0
    assert "stt-server" in done.stdout
    assert "stt_server.cli" in done.stderr
    assert heavy_in(done.stderr) == set()


def test_usage_error_imports_nothing_heavy() -> None:
    done = run_module("stt_server", "--port=x")

    assert done.returncode == 2
    assert heavy_in(done.stderr) == set()

"""The examples of docs/openai.md."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stt_server.files.tests.media import KINDS, encoded
from tests.server import ROOT, ServerProcess
from tests.speech import clip

ADDRESS = "http://127.0.0.1:15751"
DOCUMENT = (ROOT / "docs" / "openai.md").read_text(encoding="utf-8")
TEXT = "the quick brown fox jumps over the lazy dog the quick brown fox jumps over"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples find their file."""
    made = tmp_path_factory.mktemp("talk")
    sound = encoded(clip("conversation-doctor")[: 5 * 16_000], KINDS["wav"])
    (made / "talk.wav").write_bytes(sound)
    return made


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    (found,) = (text for text in blocks if containing in text)
    return found


def run(command: list[str], folder: Path) -> str:
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "NO_PROXY": "*"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("package", "containing"),
    [
        ("openai", "client = OpenAI("),
        ("openai", "AsyncOpenAI"),
        ("livekit", "livekit"),
        ("pipecat", "pipecat"),
    ],
)
def test_a_python_example_prints_the_text(
    server: ServerProcess, folder: Path, package: str, containing: str
) -> None:
    pytest.importorskip(package)
    program = block("python", containing).replace(ADDRESS, server.http)

    assert run([sys.executable, "-c", program], folder).strip() == TEXT


def test_the_curl_examples_print_the_text(server: ServerProcess, folder: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    lines = block("bash", "curl").replace(ADDRESS, server.http).replace("curl ", "curl -sS ")
    plain, srt, events = (run(["sh", "-c", line], folder) for line in lines.splitlines())

    assert TEXT in plain
    assert srt.startswith("1\n00:00:00,")
    assert events.endswith("data: [DONE]\n\n")

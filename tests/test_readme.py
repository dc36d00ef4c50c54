"""What the documents tell a newcomer to type works."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_lite.tests.goldens import SHARED, needs_goldens, needs_models
from tests.server import ROOT, ServerProcess

PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
DOCUMENTS = [path for path in (ROOT / "docs").rglob("*.md") if "node_modules" not in path.parts]


def python_blocks(document: str) -> list[str]:
    return PYTHON.findall((ROOT / document).read_text(encoding="utf-8"))


def test_the_python_client_of_the_readme_prints_the_text(server: ServerProcess) -> None:
    (program,) = (block for block in python_blocks("README.md") if "Client" in block)
    lines = run(program.replace("ws://127.0.0.1:15751", server.url))
    assert len(lines) == 3


@needs_models
@needs_goldens
def test_the_library_blocks_of_the_documents_work_with_a_real_model() -> None:
    (short,) = (block for block in python_blocks("README.md") if "nemo_lite" in block)
    whole, live, canary = python_blocks("docs/nemo_lite.md")
    spoken = str(SHARED / "audio" / "digits" / "p01_turn_george.flac")
    program = f"import soundfile\nsamples, _ = soundfile.read({spoken!r}, dtype='float32')\n"
    program += short + whole + live
    program = program.replace("parakeet-eou", str(SHARED / "models" / "digits-streaming.nemo"))
    for name in ("talk.wav", "one.wav", "two.flac"):
        program = program.replace(name, spoken)

    lines = run(program)

    assert lines.count("six three three") == 4
    salm = SHARED / "goldens" / "salm"
    program = f"import soundfile\nsamples, _ = soundfile.read({str(salm)!r} + '/canary_qwen_2.wav',"
    program += " dtype='float32')\nimport nemo_lite\n" + canary
    program = program.replace('"canary-qwen", device="cuda", dtype="bfloat16"', "FOLDER")
    program = program.replace("FOLDER", repr(str(salm / "canary_qwen_model")))
    program = program.replace("one.wav", str(salm / "canary_qwen_0.wav"))
    program = program.replace("two.flac", str(salm / "canary_qwen_1.wav"))
    assert run(program) == [
        "The captain opened a wooden door.",
        "My neighbour waited for the morning train last winter?",
        "1 Nobody.",
    ]


def run(program: str) -> list[str]:
    """The lines a program prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "document",
    [*ROOT.glob("*.md"), *DOCUMENTS],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (document.parent / link).exists(), link

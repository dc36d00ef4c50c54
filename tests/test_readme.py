"""What the documents tell a newcomer to type works."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import ROOT, ServerProcess

PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def python_blocks(document: str) -> list[str]:
    return PYTHON.findall((ROOT / document).read_text(encoding="utf-8"))


def test_the_python_client_of_the_readme_prints_the_text(server: ServerProcess) -> None:
    (program,) = python_blocks("README.md")
    program = program.replace("ws://127.0.0.1:15751", server.url)

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
    assert len(done.stdout.splitlines()) == 3


@pytest.mark.parametrize(
    "document",
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (document.parent / link).exists(), link

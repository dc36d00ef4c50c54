"""The programs of docs/examples."""

import asyncio
import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Origin, Subprotocol

from stt_server.files.tests.media import KINDS, encoded
from tests.server import ROOT, ServerProcess, free_port, run_server, wait_until
from tests.speech import at_rate, clip, encode, silence

EXAMPLES = ROOT / "docs" / "examples"
ADDRESS = "127.0.0.1:15751"
SOUND = clip("conversation-doctor")[: 5 * 16_000]
TEXT = "the quick brown fox jumps over the lazy dog the quick brown fox jumps over"
KEY = "sk-example"
COMPLETED = "conversation.item.input_audio_transcription.completed"
PIPECAT = "loguru"
"""What Pipecat does nothing without: its own files may be there for smart-turn alone."""
PROGRAMS = {".sh", ".py", ".mjs", ".html"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, server: ServerProcess) -> Path:
    """The examples and what they are about; they find the server of the tests."""
    return copied(tmp_path_factory.mktemp("examples"), server)


def copied(made: Path, server: ServerProcess) -> Path:
    address = server.http.removeprefix("http://")
    for path in EXAMPLES.iterdir():
        if path.is_file():
            (made / path.name).write_text(path.read_text().replace(ADDRESS, address))
    if (EXAMPLES / "node_modules").is_dir():
        (made / "node_modules").symlink_to(EXAMPLES / "node_modules")
    (made / "talk.wav").write_bytes(encoded(SOUND, KINDS["wav"]))
    (made / "talk.pcm").write_bytes(encode(at_rate(SOUND, 24_000), "pcm16"))
    return made


def run(folder: Path, *command: str) -> str:
    """What a program prints."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment(folder: Path) -> dict[str, str]:
    return {"HOME": str(folder), "PATH": "/usr/local/bin:/usr/bin:/bin", "NO_PROXY": "*"}


def run_python(folder: Path, name: str, *, package: str = "openai") -> list[str]:
    if not is_installed(package):
        pytest.skip(f"{package} is not installed")
    return run(folder, sys.executable, name, "talk.wav").splitlines()


def is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # not even what it would be in
        return False


def run_node(folder: Path, name: str, sound: str) -> list[str]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (folder / "node_modules").is_dir():
        pytest.skip("docs/examples/node_modules is absent: npm install there")
    return run(folder, node, name, sound).splitlines()


def finals(lines: list[str]) -> list[str]:
    """Of what the live examples print."""
    return [line.removeprefix("= ") for line in lines if line.startswith("= ")]


def test_curl(folder: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    told = run(folder, "sh", "transcribe.sh", "talk.wav")
    plain, _, rest = told.partition("\n")

    assert json.loads(plain)["text"] == TEXT
    assert rest.startswith("1\n00:00:00,")
    assert rest.endswith("data: [DONE]\n\n")


def test_python_with_times(folder: Path) -> None:
    text, *words = run_python(folder, "transcribe.py")

    assert text == TEXT
    assert [line.split()[2] for line in words] == TEXT.split()


def test_python_with_events(folder: Path) -> None:
    assert run_python(folder, "stream.py") == [TEXT]


def test_python_live(folder: Path) -> None:
    check_live(run_python(folder, "realtime.py"))


def check_live(lines: list[str]) -> None:
    """Every turn's text grew before it was told whole."""
    told = finals(lines)
    assert told[0].startswith("the quick brown fox")
    growing = [line for line in lines if line and not line.startswith("= ")]
    assert [line.strip() for line in growing] == told


def test_javascript(folder: Path) -> None:
    assert run_node(folder, "transcribe.mjs", "talk.wav") == [TEXT, TEXT]


def test_javascript_live(folder: Path) -> None:
    check_live(run_node(folder, "realtime.mjs", "talk.pcm"))


def test_livekit(folder: Path) -> None:
    assert run_python(folder, "livekit_transcribe.py", package="livekit.plugins.openai") == [TEXT]


def test_livekit_live(folder: Path) -> None:
    lines = run_python(folder, "livekit_realtime.py", package="livekit.plugins.openai")

    assert finals(lines)[0].startswith("the quick brown fox")
    assert any(line.startswith("… the quick") for line in lines)


def test_pipecat(folder: Path) -> None:
    assert run_python(folder, "pipecat_transcribe.py", package=PIPECAT) == [TEXT]


def test_pipecat_live(folder: Path) -> None:
    lines = run_python(folder, "pipecat_realtime.py", package=PIPECAT)

    assert finals(lines)[0].startswith("the quick brown fox")


# The page: what its server gives it, and what it does with that


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    """Where the page's server listens; the speech server has a key."""
    port = free_port()
    with run_server(f"--auth-api-keys={KEY}", "--host=127.0.0.1") as server:
        folder = copied(tmp_path, server)
        program = folder / "browser.py"
        program.write_text(program.read_text().replace("PORT = 8000", f"PORT = {port}"))
        process = subprocess.Popen(
            [sys.executable, str(program), KEY], env=environment(folder), stderr=subprocess.DEVNULL
        )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: answers(url), what="the page's server")
            yield url
        finally:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    try:
        return "openai-insecure-api-key" in httpx.get(url, trust_env=False).text
    except httpx.ConnectError:
        return False


async def test_a_page_transcribes_with_a_secret(page: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        told = (await http.post(f"{page}/secret?rate=16000")).json()
    offered = [Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{told['secret']}")]
    sound = encode(np.concatenate((SOUND, silence(1.0))), "pcm16")
    address, origin = told["address"], Origin(page)
    async with connect(address, subprotocols=offered, origin=origin, proxy=None) as socket:
        assert socket.subprotocol == "realtime"
        for at in range(0, len(sound), 3_200):
            audio = base64.b64encode(sound[at : at + 3_200]).decode()
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        async with asyncio.timeout(30):
            while (event := json.loads(await socket.recv()))["type"] != COMPLETED:
                assert event["type"] != "error"
    assert event["transcript"].startswith("the quick brown fox")


def test_the_document_names_every_example() -> None:
    text = (ROOT / "docs" / "openai.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\(examples/([^)]+)\)", text))

    assert named == {path.name for path in EXAMPLES.iterdir() if path.suffix in PROGRAMS}

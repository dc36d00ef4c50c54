"""A streaming FastConformer through a real server, with a small model that really recognises."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.faces import PARAKEET, open_face
from tests.server import MODULE, OFF, ROOT, ServerProcess, run_server
from tests.test_conversations import word_errors
from tests.wire import is_final, transcribe

SHARED = ROOT / "../shared"
MODEL = SHARED / "models/digits-streaming.nemo"
AUDIO = SHARED / "audio/digits"
BASE = (*MODULE, "--port", "0", *OFF, "--log-format", "json")
LOOKAHEAD_MS = 80

pytestmark = pytest.mark.skipif(not MODEL.is_file(), reason="../shared/models is absent")


@pytest.fixture(scope="module")
def digits() -> Iterator[ServerProcess]:
    pytest.importorskip("torch")
    flags = ("--model=parakeet-eou", f"--nemo-checkpoint={MODEL}", "--device=cpu")
    with run_server(*flags, f"--lookahead-ms={LOOKAHEAD_MS}", command=BASE) as process:
        yield process


@pytest.fixture(scope="module")
def ungated() -> Iterator[ServerProcess]:
    pytest.importorskip("torch")
    flags = ("--model=parakeet-eou", f"--nemo-checkpoint={MODEL}", "--device=cpu")
    exact = ("--dtype=float32", "--no-nemo-gating", "--nemo-threads=1", "--max-streams=6")
    with run_server(*flags, *exact, f"--lookahead-ms={LOOKAHEAD_MS}", command=BASE) as process:
        yield process


async def words_and_ids(server: ServerProcess, pcm: bytes, packet: int) -> tuple[str, list[int]]:
    """What the parakeet protocol, which gives token ids, says of a recording."""
    async with open_face(PARAKEET, server, 0) as client:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(client.receive_all())
            await client.send(pcm, packet)
            await client.wire.send(PARAKEET.end)
        results = [message for message in reading.result() if message["type"] == "result"]
    return results[-1]["text"], [id for result in results for id in result["token_ids"]]


def sound(path: Path) -> bytes:
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == 16_000
    return np.asarray(samples).tobytes()


async def test_as_many_words_are_right_as_in_whole_files(digits: ServerProcess) -> None:
    """Cutting silence away changes what the model hears, but not how well."""
    manifest = [json.loads(line) for line in (AUDIO / "manifest.jsonl").read_text().splitlines()]
    offline = json.loads((MODEL.parent / "digits-expected.json").read_text())["files"]
    # What was measured is less on a busy machine.
    places = asyncio.Semaphore(min(4, digits.get("/health").json()["max_sessions"]))

    async def heard(name: str) -> str:
        async with places:
            messages = await transcribe(digits.url, sound(AUDIO / name))
        return " ".join(message["text"] for message in messages if is_final(message))

    found = await asyncio.gather(*(heard(entry["file"]) for entry in manifest))
    words = live = whole = 0
    for entry, text in zip(manifest, found, strict=True):
        reference = entry["text"].split()
        expected = offline[entry["file"]]["offline"]["1"]["rnnt"]["text"]
        words += len(reference)
        live += word_errors(reference, text.split())
        whole += word_errors(reference, expected.replace("<EOU>", " ").split())
    assert words > 250
    assert live <= whole + 1


async def test_capacity_is_measured_and_lookaheads_are_told(digits: ServerProcess) -> None:
    ready = digits.wait_for_event("engine.ready")
    assert ready["streams"] == digits.get("/health").json()["max_sessions"]
    assert ready["lookahead_ms"] == LOOKAHEAD_MS


async def test_packets_do_not_change_the_words(digits: ServerProcess) -> None:
    audio = sound(AUDIO / "p08_turn_lucas.flac")
    texts = [
        [m["text"] for m in await transcribe(digits.url, audio, packet_bytes=size) if is_final(m)]
        for size in (320, 6_414, 200_000)
    ]
    assert texts[0]
    assert texts[0] == texts[1] == texts[2]


async def test_without_gating_words_and_token_ids_are_those_of_whole_files(
    ungated: ServerProcess,
) -> None:
    expected = json.loads((MODEL.parent / "digits-expected.json").read_text())["files"]
    places = asyncio.Semaphore(4)

    async def heard(name: str, packet: int) -> tuple[str, list[int]]:
        async with places:
            return await words_and_ids(ungated, sound(AUDIO / name), packet)

    packets = [320 * (1 + index % 7) for index in range(len(expected))]
    found = await asyncio.gather(*map(heard, expected, packets))
    for name, (text, ids) in zip(expected, found, strict=True):
        offline = expected[name]["offline"]["1"]["rnnt"]
        assert (name, ids) == (name, offline["ids"])
        assert text.split() == offline["text"].replace("<EOU>", " ").split()

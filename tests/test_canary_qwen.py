"""Canary-Qwen through a real server: alone, and for the finals beside a streaming recogniser.

The checkpoint is a tiny one that NeMo wrote. What it makes of other speech than it was trained on
is arbitrary, but it is always the same.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from tests.server import MODULE, ROOT, SCRIPTED, ServerProcess, run_server
from tests.speech import clip, encode, pcm, silence, yes_and_pause
from tests.wire import Json, is_final, open_client, transcribe

SENTENCES = (
    "The captain opened a wooden door.",
    "My neighbour waited for the morning train last winter?",
    "Nobody.",
)
"""All that the tiny model was taught to say; which one of them, a little more audio decides."""
TINY = ROOT / "../shared/goldens/salm/canary_qwen_model"
CANARY = (
    f"--canary-qwen-checkpoint={TINY}",
    "--device=cpu",
    "--dtype=float32",
    "--canary-qwen-slots=2",
)
BASE = (*MODULE, "--port", "0", "--log-format", "json")
needs_checkpoint = pytest.mark.skipif(not TINY.exists(), reason="shared goldens are not here")


@pytest.fixture(scope="module")
def alone() -> Iterator[ServerProcess]:
    pytest.importorskip("torch")
    pytest.importorskip("strops")
    with run_server("--model=canary-qwen", *CANARY, command=BASE) as process:
        yield process


@pytest.fixture(scope="module")
def two_pass() -> Iterator[ServerProcess]:
    pytest.importorskip("torch")
    flags = ("--final-model=canary-qwen", "--final-timeout-ms=10000")
    with run_server(*flags, *CANARY, command=(*MODULE, *SCRIPTED)) as process:
        yield process


def texts(messages: list[Json]) -> list[str]:
    return [message["text"] for message in messages if is_final(message)]


@needs_checkpoint
async def test_turns_are_recognised_and_a_packets_length_does_not_matter(
    alone: ServerProcess,
) -> None:
    whole = texts(await transcribe(alone.url, pcm("demo")))
    pieces = texts(await transcribe(alone.url, pcm("demo"), packet_bytes=6_414))

    assert len(whole) == 3
    assert all(whole)
    assert pieces == whole


@needs_checkpoint
async def test_last_turn_is_transcribed_when_the_client_finishes(alone: ServerProcess) -> None:
    speech = encode(clip("yes"), "pcm16")
    async with open_client(f"{alone.url}?features=words") as client:
        await client.send_binary(speech)
        messages = await client.finish()

    (final,) = [message for message in messages if is_final(message)]
    assert final["text"]
    assert final["wordTimes"] == "estimated"
    assert " ".join(word["word"] for word in final["words"]) == final["text"]
    assert messages[-1]["type"] == "finished"


@needs_checkpoint
async def test_server_says_what_it_serves(alone: ServerProcess) -> None:
    health = alone.get("/health").json()
    assert (health["model"], health["max_sessions"]) == ("canary-qwen", 8)
    assert alone.get("/ready").status_code == 200


@needs_checkpoint
async def test_finals_are_those_of_the_second_recogniser(two_pass: ServerProcess) -> None:
    speech = yes_and_pause()
    messages = await transcribe(two_pass.url, speech)

    interims = [message["text"] for message in messages if message.get("isFinal") is False]
    (final,) = texts(messages)
    assert final in SENTENCES
    assert interims[-1].startswith("the quick")


@needs_checkpoint
async def test_second_recogniser_is_named_in_ready_and_counted(two_pass: ServerProcess) -> None:
    async with open_client(two_pass.url) as client:
        (ready,) = await client.ask({"type": "config", "finalModel": "canary-qwen"}, "ready")
        await client.send_binary(yes_and_pause())
        await client.receive_until(is_final)

    assert (ready["config"]["model"], ready["config"]["finalModel"]) == ("scripted", "canary-qwen")
    assert 'stt_second_passes_total{outcome="ready"}' in two_pass.get("/metrics").text


def with_second_engine(behaviour: str) -> tuple[str, ...]:
    """A command that serves the scripted engine beside a second one that does `behaviour`."""
    code = f"""
import asyncio, sys
from stt_server import app
from stt_server.cli import main
from stt_server.engine.fake import ScriptedSegmentEngine
from stt_server.errors import TranscriptionError
class Second(ScriptedSegmentEngine):
    async def transcribe(self, audio, options):
        {behaviour}
app.make_final_engine = lambda settings: Second()
sys.exit(main())
"""
    return (*MODULE[:1], "-c", code, *SCRIPTED)


@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [
        ("await asyncio.sleep(3600)", "late"),
        ("raise TranscriptionError('broken')", "failed"),
    ],
)
async def test_slow_or_failing_second_recogniser_leaves_the_first_ones_final(
    behaviour: str, outcome: str
) -> None:
    speech = encode(np.concatenate((clip("demo"), silence(2.0))), "pcm16")
    with run_server(command=with_second_engine(behaviour)) as server:
        messages = await transcribe(server.url, speech)
        metrics = server.get("/metrics").text

    finals = texts(messages)
    assert len(finals) == 3
    assert all(text.startswith("the quick") for text in finals)
    assert not any("error" in message for message in messages)
    assert f'stt_second_passes_total{{outcome="{outcome}"}}' in metrics


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--model=canary-qwen", "--canary-qwen-checkpoint=/no/where"), "/no/where"),
        (("--model=scripted", "--final-model=canary-qwen", "--device=cuda:99"), "--device cuda:99"),
    ],
)
def test_model_that_cannot_run_ends_the_server_with_its_reason(
    flags: tuple[str, ...], said: str
) -> None:
    pytest.importorskip("torch")
    with run_server(*flags, command=BASE, wait=False) as server:
        assert server.wait(60.0) == 1
        errors = [event for event in server.events if event["level"] == "ERROR"]
    assert len(errors) == 1
    assert said in str(errors[0])
    assert "Traceback" not in server.stderr

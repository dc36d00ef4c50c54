"""How turns end, as clients see it: detectors, eager ends, withdrawals, flushes.

The scripted engine says "yes" every 0.3 s and is sure behind each of them that the turn is over; so
with the detector `eou` each pause of the clip ends a turn, and without it only the long ones do.
"""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.faces import FACES, Face, open_face
from tests.server import ROOT, ServerProcess, free_port, run_server, with_engine
from tests.speech import clip, encode, pcm, silence, spans, yes_and_pause
from tests.wire import Json, is_error, is_type, open_client, transcribe

CLIP = "conversation-delivery"
TURNS, UTTERANCES = 3, 6
"""Of the clip; within its turns there are pauses of 0.4 to 0.8 s."""
SURE = with_engine('ScriptedEngine(Script(("yes",), turn_ends={"yes": 0.9}))')
EVENTS = "features=events,ids"


@pytest.fixture(scope="module")
def sure() -> Iterator[ServerProcess]:
    with run_server(command=SURE) as process:
        yield process


def kinds(messages: list[Json]) -> list[str]:
    """What each message is, without interims."""
    names = [m.get("type") or ("final" if m["isFinal"] else "interim") for m in messages]
    return [name for name in names if name not in ("interim", "warning")]


def ends(messages: list[Json]) -> list[tuple[str, float | None]]:
    return [(m["reason"], m.get("confidence")) for m in filter(is_type("endOfTurn"), messages)]


def finals(messages: list[Json]) -> list[str]:
    return [message["text"] for message in messages if message.get("isFinal")]


# Detectors


async def test_silence_alone_ends_turns_by_default(sure: ServerProcess) -> None:
    messages = await transcribe(f"{sure.url}?{EVENTS}", pcm(CLIP))

    assert [reason for reason, _ in ends(messages)] == ["silence"] * TURNS


async def test_detector_of_the_session_ends_turns_in_their_pauses(sure: ServerProcess) -> None:
    messages = await transcribe(f"{sure.url}?{EVENTS}&detector=eou", pcm(CLIP))

    assert ends(messages) == [("model_eou", 0.9)] * UTTERANCES
    assert all(finals(messages))


async def test_turns_by_a_detector_do_not_depend_on_packets(sure: ServerProcess) -> None:
    url = f"{sure.url}?features=events,times,words&detector=eou&eager=true"
    samples = clip(CLIP)[: 16_000 * 8]
    sizes = (640, 6_414, 1_000_000)
    results = await asyncio.gather(
        *(transcribe(url, encode(samples, "pcm16"), packet_bytes=size) for size in sizes)
    )

    settled = [
        [m for m in messages if m.get("isFinal") or m.get("type") not in (None, "warning")]
        for messages in results
    ]
    assert len(finals(settled[0])) > 1
    assert settled[0] == settled[1] == settled[2]


async def test_detector_may_be_switched_in_mid_stream(sure: ServerProcess) -> None:
    samples = clip(CLIP)
    middle = round((spans(CLIP)[0][1] + 1.8) * 16_000)
    async with open_client(f"{sure.url}?{EVENTS}") as client:
        await client.send_binary(encode(samples[:middle], "pcm16"))
        ready = (await client.ask(_turn_settings(detector="eou", turnThreshold=0.4), "ready"))[-1]
        assert ready["config"]["endpointing"]["detector"] == "eou"
        assert ready["config"]["endpointing"]["turnThreshold"] == 0.4
        await client.send_binary(encode(samples[middle:], "pcm16"))
        await client.finish()
    reasons = [reason for reason, _ in ends(client.seen)]
    assert reasons[0] == "silence"
    assert "model_eou" in reasons[1:]


async def test_threshold_above_what_the_detector_says_leaves_turns_to_silence(
    sure: ServerProcess,
) -> None:
    async with open_client(f"{sure.url}?{EVENTS}") as client:
        await client.ask(_turn_settings(detector="eou", turnThreshold=0.95), "ready")
        await client.send_binary(pcm(CLIP))
        await client.finish()
    assert [reason for reason, _ in ends(client.seen)] == ["silence"] * TURNS


@pytest.mark.parametrize("name", ["eou", "smart", ""])
async def test_detector_that_the_server_does_not_have_is_refused(
    server: ServerProcess, name: str
) -> None:
    async with open_client(server.url) as client:
        await client.send(_turn_settings(detector=name))
        refusal = (await client.receive_until(is_error))[-1]
        assert refusal["code"] == "INVALID_CONFIG"
        # The session goes on as it was.
        await client.send_binary(yes_and_pause())
        assert len(finals(await client.finish())) == 1
    async with open_client(f"{server.url}?detector={name}") as client:
        assert [message["code"] for message in await client.receive_all()] == ["INVALID_CONFIG"]
    assert client.close_code == 4400


def test_server_whose_own_detector_is_absent_does_not_start() -> None:
    with run_server("--endpointing-detector=eou", wait=False) as process:
        assert process.wait() == 1
    failures = [event for event in process.events if event["event"] == "model.failed"]
    assert len(failures) == 1
    assert "--eou-model parakeet-eou" in failures[0]["error"]
    assert "Traceback" not in process.stderr


def _turn_settings(**endpointing: object) -> Json:
    return {"type": "config", "endpointing": endpointing}


# Eager ends


async def test_eager_ends_are_withdrawn_or_followed_by_the_end_of_their_turn(
    sure: ServerProcess,
) -> None:
    everything = await transcribe(f"{sure.url}?{EVENTS}&eager=true", pcm(CLIP))
    messages = [message for message in everything if message.get("type") != "warning"]

    seen = kinds(messages)
    assert seen.count("eagerEndOfTurn") >= UTTERANCES - 1
    assert seen.count("turnResumed") == UTTERANCES - TURNS
    after = {
        kind for kind, before in zip(seen[1:], seen, strict=False) if before == "eagerEndOfTurn"
    }
    assert after == {"turnResumed", "speechStopped"}
    eager: Json | None = None
    for message, following in itertools.pairwise(messages):
        if message.get("type") == "eagerEndOfTurn":
            eager = message
            assert message["text"]
            assert following.get("type") in ("turnResumed", "speechStopped"), "text after it"
        if message.get("type") == "turnResumed":
            assert eager is not None
            assert message["turnId"] == eager["turnId"]
            eager = None
        if message.get("isFinal") and eager is not None:
            assert (message["text"], message["turnId"]) == (eager["text"], eager["turnId"])
            eager = None


async def test_interim_before_an_eager_end_has_its_text(sure: ServerProcess) -> None:
    messages = await transcribe(f"{sure.url}?{EVENTS}&eager=true", pcm(CLIP))

    shown = ""
    for message in messages:
        if message.get("type") == "eagerEndOfTurn":
            assert message["text"] == shown
        shown = message.get("text", shown)


async def test_a_short_yes_arrives_whatever_ends_turns(sure: ServerProcess) -> None:
    for detector, eager in itertools.product(("silence", "eou"), ("true", "false")):
        url = f"{sure.url}?{EVENTS}&detector={detector}&eager={eager}"
        messages = await transcribe(url, yes_and_pause())
        assert len(finals(messages)) == 1
        assert finals(messages)[0].startswith("yes")


# Who is told


@pytest.fixture(scope="module")
def eager_by_default() -> Iterator[tuple[ServerProcess, int]]:
    port = free_port()
    flags = ("--endpointing-detector=eou", "--endpointing-eager", f"--parakeet-port={port}")
    with run_server(*flags, command=SURE) as process:
        yield process, port


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
async def test_turns_of_every_protocol_end_as_the_server_says_and_no_event_is_shown(
    eager_by_default: tuple[ServerProcess, int], face: Face
) -> None:
    server, port = eager_by_default
    async with open_face(face, server, port) as client:
        await client.send(pcm(CLIP)[: 32_000 * 5])
        seen = await client.finish()
    known = {"interim", "final", "last", "finished", "hello", "event"}
    assert set(client.kinds) <= known
    assert not [message for message in seen if "eager" in str(message).lower()]
    if face.name == "fastconformer":
        assert client.kinds.count("final") > 1


# Flush


@pytest.mark.parametrize("query", ["", "&eager=true", "&detector=eou&eager=true"])
async def test_flush_gives_the_final_at_once_and_the_session_goes_on(
    sure: ServerProcess, query: str
) -> None:
    """In mid-word, in a pause and in silence."""
    yes = clip("yes")
    async with open_client(f"{sure.url}?{EVENTS}{query}") as client:
        await client.send_binary(encode(yes[: len(yes) * 2 // 3], "pcm16"))
        first = await client.ask({"type": "flush"}, "flushed")
        await client.send_binary(encode(np.concatenate((silence(1.0), yes, silence(0.5))), "pcm16"))
        second = await client.ask({"type": "flush"}, "flushed")
        third = await client.ask({"type": "flush"}, "flushed")
        await client.finish()
    assert kinds(first)[-4:] == ["speechStopped", "final", "endOfTurn", "flushed"]
    assert len(finals(second)) >= 1
    assert kinds(third) == ["flushed"]
    assert client.seen[-1]["turns"] == len(finals(client.seen))


async def test_answer_to_a_flush_bears_its_id(sure: ServerProcess) -> None:
    async with open_client(sure.url) as client:
        for given in ("a" * 256, "é", 7, 10**100, 0.5, True, False):
            answer = (await client.ask({"type": "flush", "id": given}, "flushed"))[-1]
            assert answer == {"type": "flushed", "id": given}
        for absent in ({}, {"id": None}):
            answer = (await client.ask({"type": "flush", **absent}, "flushed"))[-1]
            assert answer == {"type": "flushed"}
        for wrong in ("a" * 257, 10**300, [1], {"a": 1}):
            await client.send({"type": "flush", "id": wrong})
            assert (await client.receive())["code"] == "INVALID_MESSAGE"


# A side model that really hears

MODEL = ROOT / "../shared/models/digits-streaming.nemo"
SPOKEN = ROOT / "../shared/audio/digits/p08_turn_lucas.flac"


@pytest.mark.skipif(not MODEL.is_file(), reason="../shared/models is absent")
async def test_side_model_ends_turns_of_an_engine_without_marks() -> None:
    pytest.importorskip("torch")
    side = ("--eou-model=parakeet-eou", f"--eou-checkpoint={MODEL}", "--device=cpu")
    with run_server(*side, "--max-streams=2", "--nemo-threads=1") as server:
        samples, _ = soundfile.read(Path(SPOKEN), dtype="float32")
        data = encode(np.concatenate((samples, silence(3.0))), "pcm16")
        plain = await transcribe(f"{server.url}?{EVENTS}", data)
        judged = await transcribe(f"{server.url}?{EVENTS}&detector=eou", data)
    assert {reason for reason, _ in ends(plain)} <= {"silence", "finish"}
    assert "model_eou" in {reason for reason, _ in ends(judged)}

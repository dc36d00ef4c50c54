"""The native protocol as clients see it, `docs/protocols/native.md`."""

import asyncio
import itertools
import time
from typing import Any

import pytest

from stt_server import AudioFrame, TranscriptionSegment
from tests.server import ServerProcess
from tests.speech import encode, pcm, silence, spans, yes_and_pause
from tests.wire import Json, audio_frame, is_final, is_type, open_client, transcribe

SEGMENT_KEYS = ["text", "isFinal", "isEndOfTurn"]


def kinds(messages: list[Json]) -> list[str]:
    """What each message is; interims run together and warnings left out: both depend on pace."""
    names: list[str] = []
    for message in messages:
        kind = message.get("type") or ("final" if message["isFinal"] else "interim")
        if kind != "warning" and not (kind == "interim" and names[-1:] == ["interim"]):
            names.append(kind)
    return names


# A client that knows nothing but AudioFrame and TranscriptionSegment


async def test_plain_client_gets_three_keys_in_every_message(server: ServerProcess) -> None:
    async with open_client(server.url) as client:
        await client.send_frames(pcm("demo"))
        await client.send_frames(encode(silence(2.0), "pcm16"))
        while len(client.finals) < 3:
            await client.receive()
    assert {tuple(message) for message in client.seen} == {tuple(SEGMENT_KEYS)}


async def test_plain_client_gets_one_final_per_turn_and_no_segment_twice(
    server: ServerProcess,
) -> None:
    async with open_client(server.url) as client:
        await client.send_frames(pcm("demo"))
        await client.send_frames(encode(silence(2.0), "pcm16"))
        while len(client.finals) < 3:
            await client.receive()
        # Whatever came after the last final would come before this answer.
        trailing = await client.ask({"type": "flush"}, "flushed")
    assert trailing == [{"type": "flushed"}]
    segments = [message for message in client.seen if "text" in message]
    assert all(a != b for a, b in itertools.pairwise(segments))
    assert all(segment["text"] for segment in segments)
    assert all(segment["isEndOfTurn"] == segment["isFinal"] for segment in segments)
    assert kinds(segments) == ["interim", "final"] * 3


async def test_interims_grow_into_the_final(server: ServerProcess) -> None:
    async with open_client(server.url) as client:
        await client.send_frames(pcm("demo"))
        messages = await client.receive_until(is_final)
    final = messages[-1]["text"]
    assert len(messages) > 2
    assert all(final.startswith(message["text"]) for message in messages)


async def test_published_models_are_enough_to_talk_to_the_server(server: ServerProcess) -> None:
    frame = AudioFrame(
        samples=audio_frame(yes_and_pause())["samples"], sample_rate=16_000, channels=1
    )
    wire_fields = {"samples", "sample_rate", "channels"}
    async with open_client(server.url) as client:
        await client.send(frame.model_dump_json(by_alias=True, include=wire_fields))
        messages = await client.receive_until(is_final)
    segments = [TranscriptionSegment.model_validate(message) for message in messages]
    assert segments[-1].is_final
    assert segments[-1].is_end_of_turn


@pytest.mark.parametrize(
    "extra",
    [
        {"type": "audio"},
        {"unknown": {"deep": [1]}},
        {"encoding": "pcm16"},
    ],
)
async def test_extra_fields_of_a_frame_change_nothing(
    server: ServerProcess, extra: dict[str, Any]
) -> None:
    async with open_client(server.url) as client:
        await client.send(audio_frame(yes_and_pause(), **extra))
        await client.receive_until(is_final)
    assert all(list(message) == SEGMENT_KEYS for message in client.seen)


async def test_snake_case_rate_and_whitespace_in_base64_are_accepted(
    server: ServerProcess,
) -> None:
    frame = audio_frame(yes_and_pause())
    frame["sample_rate"] = frame.pop("sampleRate")
    text = frame["samples"]
    frame["samples"] = "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76)) + " \t\n"
    async with open_client(server.url) as client:
        await client.send(frame)
        await client.receive_until(is_final)


async def test_empty_packets_are_absorbed(server: ServerProcess) -> None:
    async with open_client(server.url) as client:
        await client.send(audio_frame(b""))
        await client.send(b"")
        await client.send_frames(yes_and_pause())
        await client.send(b"")
        messages = await client.finish()
    assert kinds(messages) == ["interim", "final", "finished"]


# Turns


async def test_turns_end_by_silence_alone(server: ServerProcess) -> None:
    async with open_client(server.url + "?features=events,times&stall_ms=0") as client:
        await client.send_binary(pcm("conversation-doctor"))
        await client.send_binary(encode(silence(2.0), "pcm16"))
        while len(client.finals) < 4:
            await client.receive()
        messages = await client.receive_until(is_type("endOfTurn"))
        assert [m["reason"] for m in client.seen if m.get("type") == "endOfTurn"] == ["silence"] * 4
        assert messages[-1]["turnId"] == 3
    for kind, times in zip(
        ("speechStarted", "speechStopped"),
        zip(*spans("conversation-doctor"), strict=True),
        strict=True,
    ):
        found = [message["time"] for message in client.seen if message.get("type") == kind]
        # Windows of 32 ms round outwards; the detector hears on for up to two of them.
        assert found == pytest.approx(list(times), abs=0.1)


async def test_silence_setting_of_a_session_moves_its_turns(server: ServerProcess) -> None:
    # The pauses inside the sentences (0.4-0.8 s) end turns now.
    async with open_client(server.url + "?silence_ms=350") as client:
        await client.send_binary(pcm("conversation-delivery"))
        messages = await client.finish()
    assert messages[-1]["turns"] == 6


async def test_without_endpointing_only_flush_and_finish_end_turns(server: ServerProcess) -> None:
    async with open_client(server.url + "?endpointing=none&features=events") as client:
        await client.send_binary(pcm("demo"))
        await client.ask({"type": "flush"}, "flushed")
        await client.send_binary(pcm("demo"))
        await client.finish()
    reasons = [m["reason"] for m in client.seen if m.get("type") == "endOfTurn"]
    assert reasons == ["flush", "finish"]


async def test_final_of_a_clip_without_trailing_silence_comes_within_two_seconds(
    server: ServerProcess,
) -> None:
    async with open_client(server.url) as client:
        await client.send_frames(pcm("yes"))
        sent_at = time.monotonic()
        await client.receive_until(is_final)
        elapsed = time.monotonic() - sent_at
    assert elapsed < 2.0


async def test_stall_rule_can_be_switched_off(server: ServerProcess) -> None:
    async with open_client(server.url + "?stall_ms=0") as client:
        await client.send_frames(pcm("yes"))
        with pytest.raises(TimeoutError):
            await client.receive_until(is_final, timeout_s=2.5)
        assert kinds(await client.finish())[-2:] == ["final", "finished"]


async def test_stalled_turn_is_followed_by_more_turns(server: ServerProcess) -> None:
    async with open_client(server.url + "?stall_ms=200&features=ids,events,times") as client:
        for turn in range(2):
            await client.send_binary(pcm("yes"))
            messages = await client.receive_until(is_type("endOfTurn"))
            assert messages[-1] == {"type": "endOfTurn", "turnId": turn, "reason": "stall"}
        messages = await client.finish()
    assert messages == [{"type": "finished", "audioSeconds": 1.88, "turns": 2}]
    ends = [m["end"] for m in client.seen if m.get("isFinal")]
    # Stream time goes on; it is not reset by a turn.
    assert ends == pytest.approx([0.94, 1.88], abs=0.05)


async def test_silence_after_a_stalled_turn_is_no_turn(server: ServerProcess) -> None:
    async with open_client(server.url + "?stall_ms=200") as client:
        await client.send_binary(pcm("yes"))
        await client.receive_until(is_final)
        await client.send_binary(encode(silence(3.0), "pcm16"))
        assert kinds(await client.finish()) == ["finished"]


@pytest.mark.parametrize(
    ("packet_s", "pause_s"),
    [(0.3, 0.03), (0.5, 0.55)],
    ids=["ten times real time", "slower than real time"],
)
async def test_pace_changes_nothing(server: ServerProcess, packet_s: float, pause_s: float) -> None:
    """The same packets sent at once and slowly: every message is the same, interims too."""
    url = server.url + "?features=ids,times,words,confidence"
    packet_bytes = round(packet_s * 32_000)
    audio = yes_and_pause() if pause_s > packet_s else pcm("demo")
    burst = await transcribe(url, audio, packet_bytes)
    async with open_client(url) as client, asyncio.TaskGroup() as group:
        reading = group.create_task(client.receive_all())
        for begin in range(0, len(audio), packet_bytes):
            await client.send(audio[begin : begin + packet_bytes])
            await asyncio.sleep(pause_s)
        await client.send({"type": "finish"})
    assert reading.result() == burst


async def test_concurrent_sessions_do_not_mix(server: ServerProcess) -> None:
    names = ["demo", "conversation-doctor", "conversation-restaurant", "yes"]
    url = server.url + "?features=ids,times,words,confidence"
    alone = [await transcribe(url, pcm(name)) for name in names]
    async with asyncio.TaskGroup() as group:
        together = [group.create_task(transcribe(url, pcm(name))) for name in names]
    assert [task.result() for task in together] == alone


# Features and events


async def test_events_and_segments_come_in_the_documented_order(server: ServerProcess) -> None:
    messages = await transcribe(server.url + "?features=ids,events", pcm("demo"))
    turn = ["speechStarted", "interim", "speechStopped", "final", "endOfTurn"]
    assert kinds(messages) == [*turn * 3, "finished"]


async def test_all_features_fill_the_documented_fields(server: ServerProcess) -> None:
    messages = await transcribe(server.url + "?features=all", pcm("demo"))
    segments = [message for message in messages if "text" in message]
    assert [segment["sequence"] for segment in segments] == list(range(len(segments)))
    finals = [segment for segment in segments if segment["isFinal"]]
    assert [final["turnId"] for final in finals] == [0, 1, 2]
    assert [final["segmentId"] for final in finals] == ["t0s0", "t1s0", "t2s0"]
    previous_end = 0.0
    for final in finals:
        assert previous_end <= final["start"] <= final["end"]
        assert " ".join(word["word"] for word in final["words"]) == final["text"]
        assert 0 <= final["confidence"] <= 1
        previous_end = final["end"]
    for segment in segments:
        assert segment["segmentId"] == f"t{segment['turnId']}s0"


async def test_finals_only_when_interims_are_off(server: ServerProcess) -> None:
    messages = await transcribe(server.url + "?interim=false", pcm("demo"))
    assert kinds(messages) == ["final"] * 3 + ["finished"]


# Control messages


async def test_flush_ends_the_turn_and_the_session_goes_on(server: ServerProcess) -> None:
    async with open_client(server.url) as client:
        await client.send_binary(pcm("yes"))
        first = await client.ask({"type": "flush"}, "flushed")
        nothing_open = await client.ask({"type": "flush"}, "flushed")
        await client.send_binary(pcm("yes"))
        second = await client.ask({"type": "flush"}, "flushed")
    assert kinds(first) == kinds(second) == ["interim", "final", "flushed"]
    assert nothing_open == [{"type": "flushed"}]


@pytest.mark.parametrize("kind", ["finish", "close"])
async def test_finish_ends_the_turn_and_closes_normally(server: ServerProcess, kind: str) -> None:
    async with open_client(server.url) as client:
        await client.send_binary(pcm("yes"))
        await client.send({"type": kind})
        # Ignored, as is whatever it might do.
        await client.send_binary(pcm("demo"))
        await client.send("not JSON")
        messages = await client.receive_all()
    assert kinds(messages) == ["interim", "final", "finished"]
    assert messages[-1] == {"type": "finished", "audioSeconds": 0.94, "turns": 1}
    assert client.close_code == 1000


async def test_finish_without_audio(server: ServerProcess) -> None:
    async with open_client(server.url) as client:
        assert await client.finish() == [{"type": "finished", "audioSeconds": 0.0, "turns": 0}]
    assert client.close_code == 1000


@pytest.mark.parametrize("identity", [None, 7, "a\u00e9\U0001f600", 1.5, [1, {"b": None}], ""])
async def test_pong_carries_the_id_of_its_ping(server: ServerProcess, identity: object) -> None:
    async with open_client(server.url) as client:
        ping = {"type": "ping"} if identity is None else {"type": "ping", "id": identity}
        await client.send(ping)
        pong = {**ping, "type": "pong"}
        assert await client.receive() == pong


async def test_pong_does_not_wait_for_audio(server: ServerProcess) -> None:
    seconds_sent = 120
    audio = pcm("demo") * (seconds_sent * 32_000 // len(pcm("demo")))
    async with open_client(server.url) as client:
        await client.send_binary(audio, 2**20)
        asked_at = time.monotonic()
        messages = await client.ask({"type": "ping", "id": 1}, "pong")
        waited = time.monotonic() - asked_at
        heard = sum(is_final(message) for message in messages)
        after = await client.finish(60.0)
    assert waited < 1.0
    assert heard < sum(is_final(message) for message in after)


async def test_protocol_pings_are_answered_while_audio_is_processed(server: ServerProcess) -> None:
    audio = pcm("demo") * 12
    async with open_client(server.url) as client:
        await client.send_binary(audio, 2**20)
        async with asyncio.timeout(2.0):
            await (await client.socket.ping())
        await client.finish(60.0)


async def test_config_is_answered_with_what_is_in_force(server: ServerProcess) -> None:
    async with open_client(server.url + "?silence_ms=900&sample_rate=8000") as client:
        config = {"features": ["events", "ids"], "endpointing": {"silenceMs": 700}, "channels": 2}
        ready = (await client.ask({"type": "config", **config}, "ready"))[-1]
        again = (await client.ask({"type": "config", "interimResults": False}, "ready"))[-1]
    assert set(ready) == {"type", "sessionId", "config"}
    effective = ready["config"]
    assert effective["sampleRate"] == 8_000
    assert effective["channels"] == 2
    assert effective["encoding"] == "pcm16"
    assert effective["features"] == ["ids", "events"]
    assert effective["endpointing"]["silenceMs"] == 700
    assert effective["interimResults"] is True
    assert again["sessionId"] == ready["sessionId"]
    assert again["config"] == {**effective, "interimResults": False}


async def test_ready_comes_after_the_output_of_earlier_audio(server: ServerProcess) -> None:
    async with open_client(server.url) as client:
        await client.send_binary(yes_and_pause())
        messages = await client.ask({"type": "config", "features": ["ids"]}, "ready")
        await client.send_binary(yes_and_pause())
        later = await client.receive_until(is_final)
    assert kinds(messages) == ["interim", "final", "ready"]
    assert all(list(message) == SEGMENT_KEYS for message in messages[:-1])
    assert later[-1]["turnId"] == 1


async def test_format_is_fixed_by_the_first_audio(server: ServerProcess) -> None:
    async with open_client(server.url) as client:
        await client.send_binary(pcm("yes"))
        await client.send({"type": "config", "sampleRate": 8_000})
        messages = await client.receive_until(lambda message: "error" in message)
        assert messages[-1]["code"] == "INVALID_MESSAGE"
        # The same format again is no change.
        await client.ask({"type": "config", "sampleRate": 16_000, "silence": 1}, "ready")


@pytest.mark.parametrize(
    "query",
    [
        "sample_rate=fast",
        "sample_rate=7999",
        "sample_rate=48001",
        "sample_rate=",
        "channels=3",
        "encoding=mp3",
        "features=ids,nonsense",
        "silence_ms=99",
        "stall_ms=-1",
        "endpointing=sometimes",
        "detector=crystal-ball",
        "model=whisper-1",
        "interim=perhaps",
    ],
)
async def test_bad_query_is_explained_and_closed(server: ServerProcess, query: str) -> None:
    async with open_client(f"{server.url}?{query}") as client:
        messages = await client.receive_all()
    assert [message["code"] for message in messages] == ["INVALID_CONFIG"]
    assert list(messages[0]) == ["error", "code"]
    assert client.close_code == 4400


async def test_unknown_query_and_config_fields_are_ignored(server: ServerProcess) -> None:
    async with open_client(server.url + "?utm=1&Features=ids") as client:
        await client.ask({"type": "config", "colour": "blue", "endpointing": {"x": 1}}, "ready")


# HTTP beside it


def test_health_ready_status_and_metrics(server: ServerProcess) -> None:
    health = server.get("/health")
    assert health.status_code == 200
    assert set(health.json()) == {
        "status",
        "model_loaded",
        "model",
        "version",
        "active_sessions",
        "max_sessions",
    }
    assert health.json()["status"] == "healthy"
    assert health.json()["model_loaded"] is True
    assert server.get("/ready").json()["model"] == "scripted"
    status = server.get("/status")
    assert (status.status_code, status.content) == (200, b"")
    metrics = server.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "stt_sessions_total" in metrics.text


async def test_open_sessions_are_counted(server: ServerProcess) -> None:
    before = server.active_sessions()
    async with open_client(server.url) as client:
        await client.ask({"type": "flush"}, "flushed")
        assert server.active_sessions() == before + 1

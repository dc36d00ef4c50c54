"""What reaches the pipeline of what a client sends."""

import base64
import contextlib
import json
import time
from typing import Any

import pytest

from stt_server.deadlines import Deadlines
from stt_server.events import Audio, Clear, Configure, Flush, TurnEndReason
from stt_server.intake import LAST_MESSAGES, Intake
from stt_server.metrics import Metrics
from stt_server.pipeline import Channel, Progress
from stt_server.protocols.base import Codec
from stt_server.protocols.native import NativeCodec
from stt_server.protocols.native_config import Abilities
from stt_server.protocols.realtime import Identity, RealtimeCodec
from stt_server.protocols.realtime_session import Terms
from stt_server.settings import EndpointingSettings, LimitSettings, SessionOptions


def realtime() -> Codec:
    terms = Terms("scripted", EndpointingSettings())
    return RealtimeCodec(Identity("abc", 0, 0), terms, max_append_bytes=2**20)


def new_intake(codec: Codec | None = None) -> Intake:
    limits, progress = LimitSettings(), Progress()
    return Intake(
        codec or realtime(),
        Channel(60.0),
        progress,
        Deadlines(limits, progress, 0.0),
        authenticate=None,
        limits=limits,
        metrics=Metrics(),
        clock=time.monotonic,
    )


@pytest.mark.parametrize(
    ("kind", "mark"), [("commit", Flush(reason=TurnEndReason.COMMIT)), ("clear", Clear())]
)
async def test_what_a_client_marks_ends_with_its_last_sample(kind: str, mark: Any) -> None:
    """At 24 kHz some are still being resampled when the mark comes."""
    intake = new_intake()
    for samples in (1, 300, 4_801):
        audio = base64.b64encode(bytes(2 * samples)).decode()
        await intake.take(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        await intake.take(json.dumps({"type": f"input_audio_buffer.{kind}"}))
    intake.finish()
    events = [event async for event in intake.audio]

    ends = [0]
    for event in events:
        if isinstance(event, Audio):
            ends[-1] += len(event.samples)
        elif event == mark:
            ends.append(0)
    assert ends == [1, 200, 3_201, 0]
    spans = [event for event in events if isinstance(event, Audio)]
    assert [span.start for span in spans[1:]] == [span.end for span in spans[:-1]]


async def test_flush_of_a_client_that_marks_turns_ends_with_its_last_sample() -> None:
    intake = new_intake(native("sample_rate=24000&endpointing=manual"))
    await intake.take(bytes(2 * 4_800))
    await intake.take('{"type":"flush"}')
    intake.finish()

    before = 0
    async for event in intake.audio:
        if isinstance(event, Flush):
            break
        before += len(event.samples) if isinstance(event, Audio) else 0
    assert before == 3_200


async def test_what_a_client_says_behind_its_end_is_bounded() -> None:
    codec = native("")
    intake = new_intake(codec)
    intake.finish()
    for _ in range(LAST_MESSAGES + 10):
        await intake.take('{"type":"config","silenceMs":700}')

    answers = 0
    with contextlib.suppress(IndexError):
        while True:
            codec.encode(Configure(SessionOptions()))
            answers += 1
    assert answers <= LAST_MESSAGES


def native(query: str) -> Codec:
    return NativeCodec(
        session_id="s",
        defaults=SessionOptions(),
        abilities=Abilities(frozenset({"scripted"})),
        max_audio_bytes=2**20,
        query=dict(part.split("=") for part in query.split("&") if part),
    )

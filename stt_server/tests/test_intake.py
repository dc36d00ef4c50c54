"""What reaches the pipeline of what a client sends."""

import base64
import json
import time
from typing import Any

import pytest

from stt_server.deadlines import Deadlines
from stt_server.events import Audio, Clear, Flush, TurnEndReason
from stt_server.intake import Intake
from stt_server.metrics import Metrics
from stt_server.pipeline import Channel, Progress
from stt_server.protocols.realtime import Identity, RealtimeCodec
from stt_server.protocols.realtime_session import Terms
from stt_server.settings import EndpointingSettings, LimitSettings


def new_intake() -> Intake:
    limits, progress = LimitSettings(), Progress()
    codec = RealtimeCodec(
        Identity("abc", 0, 0), Terms("scripted", EndpointingSettings()), max_append_bytes=2**20
    )
    return Intake(
        codec,
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

"""The ASR stage around a segment engine."""

from collections.abc import AsyncIterator, Iterable

import numpy as np

from stt_server.engine.fake import ScriptedSegmentEngine
from stt_server.events import (
    SAMPLE_RATE,
    Audio,
    Hypothesis,
    SegmentEnded,
    SpeechStarted,
    StreamError,
    StreamEvent,
    TurnEnded,
    TurnEndReason,
)
from stt_server.pipeline import Progress
from stt_server.settings import SessionOptions
from stt_server.stages.segment_asr import SegmentAsrStage

SECOND = SAMPLE_RATE


async def feed(events: Iterable[StreamEvent]) -> AsyncIterator[StreamEvent]:
    for event in events:
        yield event


def speech(start_s: int, end_s: int) -> Audio:
    samples = np.zeros((end_s - start_s) * SECOND, dtype=np.float32)
    return Audio(start_s * SECOND, samples, speech=True)


async def run(engine: ScriptedSegmentEngine, events: list[StreamEvent]) -> list[StreamEvent]:
    stage = SegmentAsrStage(engine, SessionOptions(), Progress(), clock=lambda: 0.0)
    return [event async for event in stage.run(feed(events))]


def turn(*middle: StreamEvent, end_s: int) -> list[StreamEvent]:
    return [
        SpeechStarted(at=0, opens_turn=True),
        *middle,
        TurnEnded(at=end_s * SECOND, reason=TurnEndReason.SILENCE),
    ]


def texts(events: list[StreamEvent]) -> list[tuple[str, bool]]:
    return [(event.text, event.is_final) for event in events if isinstance(event, Hypothesis)]


async def test_segments_grow_the_interim_and_the_final_is_one_recognition() -> None:
    engine = ScriptedSegmentEngine()
    events = turn(
        speech(0, 2),
        SegmentEnded(at=2 * SECOND),
        speech(2, 4),
        SegmentEnded(at=4 * SECOND),
        end_s=4,
    )
    out = await run(engine, events)
    assert texts(out) == [("s0 s1", False), ("s0 s1 s2 s3", False), ("s0 s1 s2 s3", True)]
    assert engine.heard == [(0, 2), (0, 4), (0, 4)]


async def test_a_turn_longer_than_the_window_is_stitched() -> None:
    engine = ScriptedSegmentEngine(max_segment_s=10)
    events = turn(speech(0, 8), SegmentEnded(at=8 * SECOND), speech(8, 14), end_s=14)
    out = await run(engine, events)
    assert texts(out)[-1] == (" ".join(f"s{second}" for second in range(14)), True)
    assert engine.heard == [(0, 8), (3, 14)]


async def test_a_failed_segment_is_told_and_nothing_is_lost() -> None:
    engine = ScriptedSegmentEngine(failing_calls=frozenset({0, 2}))
    events = turn(
        speech(0, 2),
        SegmentEnded(at=2 * SECOND),
        speech(2, 4),
        SegmentEnded(at=4 * SECOND),
        end_s=4,
    )
    out = await run(engine, events)
    assert sum(isinstance(event, StreamError) for event in out) == 2
    assert texts(out) == [("s0 s1 s2 s3", False), ("s0 s1 s2 s3", True)]


async def test_turn_end_is_passed_on_before_its_final() -> None:
    out = await run(ScriptedSegmentEngine(), turn(speech(0, 1), end_s=1))
    assert [type(event) for event in out] == [SpeechStarted, TurnEnded, Hypothesis]

"""The sink stage: events in, messages of a protocol out, and what is counted on the way."""

import logging
from collections.abc import AsyncGenerator, Sequence

import pytest

from stt_server.events import (
    Flush,
    Hypothesis,
    SpeechStarted,
    StreamEvent,
    TurnEnded,
    TurnEndReason,
)
from stt_server.metrics import Metrics
from stt_server.protocols.base import ClientEvent, Message
from stt_server.settings import SessionOptions
from stt_server.stages.sink import SinkStage

FINAL = Hypothesis(0, "please send the report", "", (), 0, 16_000, is_final=True)
INTERIM = Hypothesis(0, "please", " send", (), 0, 16_000)
ENDED = TurnEnded(16_000, TurnEndReason.SILENCE)


class NamingCodec:
    """Says the name of each event, and of a final twice. A `Codec`."""

    @property
    def options(self) -> SessionOptions:
        return SessionOptions()

    def decode(self, message: Message) -> Sequence[ClientEvent]:
        return []

    def encode(self, event: StreamEvent) -> Sequence[Message]:
        if isinstance(event, SpeechStarted):
            return []
        return [type(event).__name__] * (2 if event is FINAL else 1)


async def stream(*events: StreamEvent) -> AsyncGenerator[StreamEvent]:
    for event in events:
        yield event


async def outcome(
    *events: StreamEvent,
    metrics: Metrics | None = None,
    times: Sequence[float] = (),
    log_transcripts: bool = False,
) -> list[Message]:
    moments = list(times) or [0.0] * 100
    stage = SinkStage(
        NamingCodec(),
        metrics or Metrics(),
        clock=lambda: moments.pop(0),
        log_transcripts=log_transcripts,
    )
    return [message async for message in stage.run(stream(*events))]


async def test_messages_of_the_protocol_leave_in_the_order_of_events() -> None:
    out = await outcome(SpeechStarted(0, opens_turn=True), INTERIM, ENDED, FINAL, Flush())

    assert out == ["Hypothesis", "TurnEnded", "Hypothesis", "Hypothesis", "Flush"]


async def test_turns_are_counted_by_the_reason_of_their_end() -> None:
    metrics = Metrics()
    flushed = TurnEnded(16_000, TurnEndReason.FLUSH)

    await outcome(ENDED, FINAL, ENDED, FINAL, flushed, FINAL, metrics=metrics)

    registry = metrics.registry
    assert registry.get_sample_value("stt_turns_total", {"reason": "silence"}) == 2
    assert registry.get_sample_value("stt_turns_total", {"reason": "flush"}) == 1


async def test_time_to_final_runs_from_the_end_of_the_turn() -> None:
    metrics = Metrics()

    await outcome(ENDED, INTERIM, FINAL, metrics=metrics, times=(10.0, 10.25))

    registry = metrics.registry
    assert registry.get_sample_value("stt_time_to_final_seconds_sum") == 0.25
    assert registry.get_sample_value("stt_time_to_final_seconds_count") == 1


async def test_text_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    await outcome(ENDED, INTERIM, FINAL)

    assert caplog.records == []


async def test_finals_are_logged_when_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    await outcome(ENDED, INTERIM, FINAL, log_transcripts=True)

    assert [(record.message, vars(record)["text"]) for record in caplog.records] == [
        ("turn.final", "please send the report")
    ]

"""The ASR stage: a list of events in, with a scripted engine, and the list that comes out."""

import asyncio
from collections.abc import AsyncGenerator

import numpy as np
import pytest
from anyio import wait_all_tasks_blocked

from stt_server.engine.base import RecognitionStream, StreamOptions
from stt_server.engine.fake import WORD_SAMPLES, Script, ScriptedEngine
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import (
    Audio,
    Configure,
    Flush,
    Hypothesis,
    SegmentEnded,
    SpeechPaused,
    SpeechStarted,
    StreamError,
    StreamEvent,
    Transcript,
    TurnEnded,
    TurnEndReason,
    Word,
)
from stt_server.pipeline import Progress
from stt_server.settings import SessionOptions
from stt_server.stages.asr import StreamingAsrStage

NOW = 123.0


async def stream(*events: StreamEvent) -> AsyncGenerator[StreamEvent]:
    for event in events:
        yield event


def audio(*, words: float, start: float = 0, speech: bool = True) -> Audio:
    """Audio in which the scripted engine hears so many words."""
    samples = np.zeros(round(words * WORD_SAMPLES), dtype=np.float32)
    return Audio(round(start * WORD_SAMPLES), samples, speech)


def turn(*, words: int, start: int = 0) -> list[StreamEvent]:
    """A turn in packets of one word each."""
    at = start * WORD_SAMPLES
    return [
        SpeechStarted(at, opens_turn=True),
        *(audio(words=1, start=start + n) for n in range(words)),
        TurnEnded(at + words * WORD_SAMPLES, TurnEndReason.SILENCE),
    ]


def stage_with(
    engine: ScriptedEngine,
    progress: Progress | None = None,
    options: SessionOptions | None = None,
) -> StreamingAsrStage:
    return StreamingAsrStage(
        engine.open, options or SessionOptions(), progress or Progress(), clock=lambda: NOW
    )


async def outcome(*events: StreamEvent, script: Script | None = None) -> list[StreamEvent]:
    stage = stage_with(ScriptedEngine(script))
    return [event async for event in stage.run(stream(*events))]


def texts(events: list[StreamEvent]) -> list[tuple[str, bool]]:
    return [(event.text, event.is_final) for event in events if isinstance(event, Hypothesis)]


async def test_turn_gives_interims_and_one_final() -> None:
    out = await outcome(*turn(words=3))

    assert texts(out) == [
        ("the", False),
        ("the quick", False),
        ("the quick brown", False),
        ("the quick brown", True),
    ]


async def test_events_keep_their_order_around_the_text() -> None:
    out = await outcome(*turn(words=1))

    assert [type(event) for event in out] == [SpeechStarted, Hypothesis, TurnEnded, Hypothesis]


async def test_final_spans_the_turn() -> None:
    out = await outcome(*turn(words=2, start=5))

    final = out[-1]
    assert isinstance(final, Hypothesis)
    assert (final.start, final.end) == (5 * WORD_SAMPLES, 7 * WORD_SAMPLES)


async def test_turns_are_numbered() -> None:
    out = await outcome(*turn(words=1), *turn(words=1, start=10))

    finals = [event for event in out if isinstance(event, Hypothesis) and event.is_final]
    assert [final.turn for final in finals] == [0, 1]


async def test_turn_without_words_has_an_empty_final() -> None:
    out = await outcome(*turn(words=0))

    assert texts(out) == [("", True)]


async def test_interim_that_repeats_the_one_before_is_left_out() -> None:
    parts = [audio(words=0.5, start=n / 2) for n in range(4)]
    out = await outcome(SpeechStarted(0, opens_turn=True), *parts)

    assert texts(out) == [("the", False), ("the quick", False)]


async def test_audio_outside_turns_is_not_recognised() -> None:
    engine = ScriptedEngine()
    events = [audio(words=5, speech=False), audio(words=5, start=5, speech=False)]
    stage = stage_with(engine)

    assert [event async for event in stage.run(stream(*events))] == []


async def test_session_without_speech_takes_no_place_in_the_engine() -> None:
    stage = stage_with(ScriptedEngine(capacity=0))

    assert [event async for event in stage.run(stream(audio(words=5, speech=False)))] == []


@pytest.mark.parametrize(
    "event", [SpeechPaused(5), SegmentEnded(5), SpeechStarted(5, opens_turn=False), Flush()]
)
async def test_other_events_are_passed_on(event: StreamEvent) -> None:
    assert await outcome(event) == [event]


# Options


class OptionsEngine(ScriptedEngine):
    """Notes what its streams were opened with."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[StreamOptions] = []

    async def open(self, options: StreamOptions) -> RecognitionStream:
        self.opened.append(options)
        return await super().open(options)


async def test_options_set_before_the_first_turn_reach_the_engine() -> None:
    engine = OptionsEngine()
    options = SessionOptions(language="de", vocabulary=("Riesa",), lookahead_ms=480)
    events = [Configure(options), *turn(words=1)]

    out = [event async for event in stage_with(engine).run(stream(*events))]

    assert engine.opened == [StreamOptions("de", ("Riesa",), 480)]
    assert out[0] == Configure(options)


async def test_all_turns_share_one_stream_of_the_engine() -> None:
    engine = OptionsEngine()
    events = [*turn(words=1), *turn(words=1, start=5), *turn(words=1, start=9)]

    assert [event async for event in stage_with(engine).run(stream(*events))]

    assert engine.opened == [StreamOptions()]


# Failures


async def test_engine_failure_is_told_and_the_turn_goes_on() -> None:
    script = Script(failing_turns=frozenset({0}))

    out = await outcome(*turn(words=6), script=script)

    # The fourth word completes the second that fails; the engine begins anew behind it.
    assert [type(event).__name__ for event in out] == [
        "SpeechStarted",
        *["Hypothesis"] * 3,
        "StreamError",
        *["Hypothesis"] * 2,
        "TurnEnded",
        "Hypothesis",
    ]
    assert StreamError("TRANSCRIPTION_ERROR", "the script says that this turn fails") in out


async def test_words_found_before_a_failure_stay_in_front_of_the_final() -> None:
    out = await outcome(*turn(words=6), script=Script(failing_turns=frozenset({0})))

    assert texts(out)[-1] == ("the quick brown the quick", True)


async def test_failure_of_one_turn_does_not_touch_the_next() -> None:
    events = [*turn(words=5), *turn(words=2, start=8)]

    out = await outcome(*events, script=Script(failing_turns=frozenset({0})))

    assert texts(out)[-1] == ("the quick", True)


class FailingAtTurnEnd:
    """Hears one word, then cannot finish. A `RecognitionStream`."""

    def __init__(self) -> None:
        self.closed = False

    async def push(self, audio: Audio) -> Transcript | None:
        return Transcript((Word("hello", audio.start, audio.end),))

    async def end_turn(self) -> Transcript:
        raise TranscriptionError("cannot finish")

    async def close(self) -> None:
        self.closed = True


async def test_failure_at_the_end_of_a_turn_still_gives_its_final() -> None:
    async def open_stream(_: StreamOptions) -> RecognitionStream:
        return FailingAtTurnEnd()

    stage = StreamingAsrStage(open_stream, SessionOptions(), Progress(), clock=lambda: NOW)
    out = [event async for event in stage.run(stream(*turn(words=1)))]

    assert out[2:4] == [
        TurnEnded(WORD_SAMPLES, TurnEndReason.SILENCE),
        StreamError("TRANSCRIPTION_ERROR", "cannot finish"),
    ]
    assert texts(out)[-1] == ("hello", True)


async def test_full_engine_ends_the_stage() -> None:
    stage = stage_with(ScriptedEngine(capacity=0))

    with pytest.raises(Overloaded):
        [event async for event in stage.run(stream(*turn(words=1)))]


# Progress


async def test_progress_counts_audio_of_every_kind_as_done() -> None:
    progress = Progress()
    events = [
        audio(words=2, speech=False),
        SpeechStarted(2 * WORD_SAMPLES, opens_turn=True),
        audio(words=3, start=2),
    ]
    stage = stage_with(ScriptedEngine(), progress)
    assert [event async for event in stage.run(stream(*events))]

    assert (progress.done, progress.done_at) == (5 * WORD_SAMPLES, NOW)


async def test_audio_counts_as_done_also_when_the_engine_failed_on_it() -> None:
    progress = Progress()
    stage = stage_with(ScriptedEngine(Script(failing_turns=frozenset({0}))), progress)
    assert [event async for event in stage.run(stream(*turn(words=4)))]

    assert progress.done == 4 * WORD_SAMPLES


# The engine's stream


async def test_stream_is_given_back_at_the_end_of_input() -> None:
    engine = ScriptedEngine()
    assert [event async for event in stage_with(engine).run(stream(*turn(words=1)))]

    assert engine.open_streams == 0


async def test_stream_is_given_back_when_the_stage_is_closed_early() -> None:
    engine = ScriptedEngine()
    out = stage_with(engine).run(stream(*turn(words=3)))
    await anext(out)
    await anext(out)
    assert engine.open_streams == 1

    await out.aclose()

    assert engine.open_streams == 0


async def test_stream_is_given_back_when_the_session_is_cancelled() -> None:
    engine = ScriptedEngine(Script(step_s=3_600))

    async def consume() -> list[StreamEvent]:
        return [event async for event in stage_with(engine).run(stream(*turn(words=3)))]

    running = asyncio.create_task(consume())
    await wait_all_tasks_blocked()
    assert engine.open_streams == 1

    running.cancel()
    await asyncio.wait([running])

    assert engine.open_streams == 0


async def test_options_of_a_later_turn_reach_the_engine() -> None:
    opened: list[StreamOptions] = []
    engine = ScriptedEngine()

    async def open_stream(options: StreamOptions) -> RecognitionStream:
        opened.append(options)
        return await engine.open(options)

    german = SessionOptions(language="de")
    turn = [
        SpeechStarted(0, opens_turn=True),
        Audio(0, np.zeros(WORD_SAMPLES, dtype=np.float32), speech=True),
        TurnEnded(WORD_SAMPLES, TurnEndReason.SILENCE),
    ]
    stage = StreamingAsrStage(open_stream, SessionOptions(), Progress(), clock=lambda: 0.0)
    [event async for event in stage.run(stream(*turn, *turn, Configure(german), *turn))]

    assert [options.language for options in opened] == [None, "de"]
    assert engine.open_streams == 0

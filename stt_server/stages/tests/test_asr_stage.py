"""The ASR stage: a list of events in, with a scripted engine, and the list that comes out."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import numpy as np
import pytest
from anyio import wait_all_tasks_blocked

from stt_server.engine.base import RecognitionStream, SpeculativeStream, StreamOptions
from stt_server.engine.fake import WORD_SAMPLES, Script, ScriptedEngine
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import (
    Audio,
    Clear,
    Configure,
    Flush,
    Hypothesis,
    SegmentEnded,
    SpeechPaused,
    SpeechStarted,
    StreamError,
    StreamEvent,
    Token,
    Transcript,
    TurnCheck,
    TurnEagerEnd,
    TurnEnded,
    TurnEndReason,
    TurnResumed,
    Word,
)
from stt_server.pipeline import Progress
from stt_server.settings import DetectorName, EndpointingSettings, SessionOptions
from stt_server.stages.asr import StreamingAsrStage
from stt_server.stages.verdict import Verdict

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


async def test_cleared_turn_has_no_final_and_leaves_nothing_to_the_next() -> None:
    out = await outcome(*turn(words=2)[:-1], Clear(), *turn(words=1, start=10))

    assert texts(out) == [
        ("the", False),
        ("the quick", False),
        ("the", False),
        ("the", True),
    ]


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


async def test_clear_without_a_turn_leaves_the_engine_alone() -> None:
    engine = OptionsEngine()
    stage = stage_with(engine)

    assert [event async for event in stage.run(stream(Clear()))] == [Clear()]
    assert not engine.opened


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


# Pauses


def at(words: float) -> int:
    return round(words * WORD_SAMPLES)


def speech(*, words: int, start: int = 0, opens_turn: bool = True) -> list[StreamEvent]:
    """Speech, and a word's time of silence up to where the pause is told."""
    heard = [audio(words=1, start=start + n) for n in range(words + 1)]
    started = SpeechStarted(at(start), opens_turn=opens_turn)
    return [started, *heard, SpeechPaused(at(start + words))]


ENDED = TurnEnded(at(2), TurnEndReason.SILENCE)
RESUMED = SpeechStarted(at(5), opens_turn=False)
LATE = Script(late_words=2)
"""The last two words are heard only when speech pauses."""


async def test_words_of_the_tail_are_shown_when_speech_pauses() -> None:
    out = await outcome(*speech(words=3), script=LATE)

    assert texts(out) == [("the", False), ("the quick", False), ("the quick brown fox", False)]


async def test_words_of_a_pause_are_not_stable_for_speech_may_go_on() -> None:
    out = await outcome(*speech(words=3), script=LATE)

    last = out[-1]
    assert isinstance(last, Hypothesis)
    assert (last.stable, last.unstable) == ("the", " quick brown fox")


async def test_final_of_a_turn_that_ends_in_a_pause_is_the_text_of_the_pause() -> None:
    silence = [audio(words=1, start=n) for n in range(4, 8)]
    out = await outcome(*speech(words=3), *silence, ENDED, script=LATE)

    assert texts(out)[-2:] == [("the quick brown fox", False), ("the quick brown fox", True)]
    assert [type(event) for event in out[-2:]] == [TurnEnded, Hypothesis]


async def test_nothing_is_told_of_a_pause_while_it_lasts() -> None:
    silence = [audio(words=1, start=n) for n in range(4, 8)]

    assert await outcome(*speech(words=3), *silence) == await outcome(*speech(words=3))


async def test_speech_that_goes_on_is_heard_as_if_there_had_been_no_pause() -> None:
    rest = [RESUMED, audio(words=1, start=4), ENDED]
    events = [*speech(words=3), *rest]
    paused = await outcome(*events)
    plain = await outcome(*(event for event in events if not isinstance(event, SpeechPaused)))

    assert texts(paused) == texts(plain)


async def test_each_turn_pauses_on_its_own() -> None:
    out = await outcome(
        *speech(words=1), ENDED, *speech(words=2, start=9), ENDED, *turn(words=1, start=20)
    )

    finals = [text for text, is_final in texts(out) if is_final]
    assert finals == ["the quick", "the quick brown", "the"]


# Eager ends

EAGER = TurnEagerEnd(at(3), 0.4)


async def test_eager_end_has_the_text_that_was_just_shown_and_that_becomes_the_final() -> None:
    out = await outcome(*speech(words=3), EAGER, ENDED, script=LATE)

    assert [type(event) for event in out[-5:]] == [
        SpeechPaused,
        Hypothesis,
        TurnEagerEnd,
        TurnEnded,
        Hypothesis,
    ]
    assert out[-3] == TurnEagerEnd(at(3), 0.4, "the quick brown fox")
    assert texts(out)[-2:] == [("the quick brown fox", False), ("the quick brown fox", True)]


async def test_speech_that_goes_on_behind_an_eager_end_withdraws_it_first() -> None:
    out = await outcome(*speech(words=3), EAGER, RESUMED, audio(words=1, start=4))

    assert out[-3:-1] == [TurnResumed(RESUMED.at), RESUMED]


async def test_nothing_is_withdrawn_that_was_not_told() -> None:
    silent = [SpeechStarted(0, opens_turn=True), audio(words=0.5), SpeechPaused(at(0.5))]
    out = await outcome(*silent, EAGER, RESUMED, *speech(words=1, opens_turn=False), RESUMED)

    assert not [event for event in out if isinstance(event, TurnEagerEnd | TurnResumed)]


async def test_turn_that_ended_withdraws_nothing_in_the_next() -> None:
    out = await outcome(*speech(words=1), EAGER, ENDED, *speech(words=1, start=9), RESUMED)

    assert not [event for event in out if isinstance(event, TurnResumed)]


# What pauses ask of the engine


class Recorder:
    """Hears one word per piece of audio. A `SpeculativeStream` that fails at calls such as
    `push 2`, its second push."""

    def __init__(self, *failing: str) -> None:
        self.calls: list[str] = []
        self._failing = failing
        self._words: tuple[Word, ...] = ()
        self.ends_turn: float | None = None

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if f"{call} {self.calls.count(call)}" in self._failing:
            self._words = ()
            raise TranscriptionError(f"cannot {call}")

    def _heard(self) -> Transcript:
        tokens = tuple(Token(word.start, 1.0) for word in self._words)
        return Transcript(self._words, tokens=tokens, ends_turn=self.ends_turn)

    async def push(self, audio: Audio) -> Transcript | None:
        self._note("push")
        self._words += (Word(f"w{audio.start // WORD_SAMPLES}", audio.start, audio.end),)
        return self._heard()

    async def pause(self) -> Transcript:
        self._note("pause")
        return self._heard()

    async def resume(self) -> None:
        self._note("resume")

    async def end_turn(self) -> Transcript:
        self._note("end_turn")
        heard, self._words = self._heard(), ()
        return heard

    async def close(self) -> None:
        self._note("close")


async def outcome_of(
    recorder: Recorder,
    *events: StreamEvent,
    options: SessionOptions | None = None,
    verdict: Verdict | None = None,
    hears_silence: bool = False,
) -> list[StreamEvent]:
    async def open_stream(_: StreamOptions) -> SpeculativeStream:
        return recorder

    stage = StreamingAsrStage(
        open_stream,
        options or SessionOptions(),
        Progress(),
        clock=lambda: NOW,
        verdict=verdict,
        hears_silence=hears_silence,
    )
    return [event async for event in stage.run(stream(*events))]


def errors(events: list[StreamEvent]) -> list[str]:
    return [event.message for event in events if isinstance(event, StreamError)]


PAUSED = [SpeechStarted(0, opens_turn=True), audio(words=1), SpeechPaused(at(1))]


async def test_final_is_told_before_the_engine_has_closed_the_turn() -> None:
    recorder = Recorder()
    calls_at_final: list[str] = []

    async def open_stream(_: StreamOptions) -> SpeculativeStream:
        return recorder

    stage = StreamingAsrStage(open_stream, SessionOptions(), Progress(), clock=lambda: NOW)
    async for event in stage.run(stream(*PAUSED, ENDED)):
        if isinstance(event, Hypothesis) and event.is_final:
            calls_at_final = list(recorder.calls)

    assert calls_at_final == ["push", "pause"]
    assert recorder.calls == ["push", "pause", "end_turn", "close"]


PUSHED = audio(words=1, start=1)
WENT_ON = [SpeechStarted(at(2), opens_turn=False), audio(words=1, start=2)]


async def test_failure_to_end_a_turn_whose_final_was_told_is_not_told() -> None:
    out = await outcome_of(Recorder("end_turn 1"), *PAUSED, ENDED, *turn(words=1, start=9))

    assert errors(out) == []
    assert [text for text, is_final in texts(out) if is_final] == ["w0", "w9"]


async def test_failure_during_a_pause_loses_no_word_of_the_final() -> None:
    out = await outcome_of(Recorder("push 2"), *PAUSED, EAGER, PUSHED, ENDED)

    assert errors(out) == ["cannot push"]
    assert TurnEagerEnd(at(3), 0.4, "w0") in out
    assert texts(out) == [("w0", False), ("w0", True)]


async def test_failure_to_pause_is_told_and_the_turn_goes_on() -> None:
    out = await outcome_of(Recorder("pause 1"), *PAUSED, EAGER, *WENT_ON, ENDED)

    assert errors(out) == ["cannot pause"]
    assert not [event for event in out if isinstance(event, TurnEagerEnd | TurnResumed)]
    assert texts(out) == [("w0", False), ("w0 w2", False), ("w0 w2", True)]


async def test_failure_to_resume_is_told_behind_the_withdrawal_and_the_turn_goes_on() -> None:
    out = await outcome_of(Recorder("resume 1"), *PAUSED, EAGER, *WENT_ON, ENDED)

    assert errors(out) == ["cannot resume"]
    assert [type(event) for event in out[4:7]] == [TurnResumed, StreamError, SpeechStarted]
    assert texts(out)[-1] == ("w0 w2", True)


async def test_streams_that_cannot_speculate_pause_without_a_word_and_have_no_eager_end() -> None:
    async def open_stream(_: StreamOptions) -> RecognitionStream:
        return FailingAtTurnEnd()

    stage = StreamingAsrStage(open_stream, SessionOptions(), Progress(), clock=lambda: NOW)
    out = [event async for event in stage.run(stream(*PAUSED, EAGER, *WENT_ON))]

    assert [type(event) for event in out] == [
        SpeechStarted,
        Hypothesis,
        SpeechPaused,
        SpeechStarted,
    ]


# What the model itself thinks of a pause

ASKS_MODEL = SessionOptions(endpointing=EndpointingSettings(detector=DetectorName.EOU))


async def judged(recorder: Recorder, *events: StreamEvent, asked_at: float) -> float | None:
    verdict = Verdict()
    await verdict.hear(audio(words=asked_at))
    await outcome_of(recorder, *events, options=ASKS_MODEL, verdict=verdict)
    async with asyncio.timeout(1.0):
        return await verdict.judge()


async def test_pause_is_answered_with_what_the_model_says() -> None:
    recorder = Recorder()
    recorder.ends_turn = 0.7

    assert await judged(recorder, *PAUSED, asked_at=1) == 0.7


async def test_check_asks_the_model_again() -> None:
    recorder = Recorder()
    recorder.ends_turn = 0.7

    assert await judged(recorder, *PAUSED, PUSHED, TurnCheck(at(2)), asked_at=2) == 0.7
    assert recorder.calls.count("pause") == 2


async def test_check_for_another_detector_costs_the_model_nothing() -> None:
    recorder = Recorder()
    await outcome_of(recorder, *PAUSED, PUSHED, TurnCheck(at(2)), verdict=Verdict())

    assert recorder.calls.count("pause") == 1


@pytest.mark.parametrize(
    ("failing", "text"), [("pause 1", "w0 w1"), ("pause 2", "w0"), ("push 2", "w0")]
)
async def test_every_question_is_answered_whatever_fails(failing: str, text: str) -> None:
    verdict = Verdict()
    events = [*PAUSED, EAGER, PUSHED, TurnCheck(at(2)), ENDED]
    await verdict.hear(audio(words=2))
    out = await outcome_of(Recorder(failing), *events, options=ASKS_MODEL, verdict=verdict)

    async with asyncio.timeout(1.0):
        assert await verdict.judge() is None
    assert len(errors(out)) == 1
    assert texts(out)[-1] == (text, True)


# Streams that hear silence


def quiet(*, words: float, start: float = 0) -> Audio:
    return audio(words=words, start=start, speech=False)


async def test_stream_that_hears_silence_gets_everything_from_the_first_sample_on() -> None:
    recorder = Recorder()
    events = [quiet(words=1), *turn(words=1, start=1), quiet(words=1, start=2)]

    out = await outcome_of(recorder, *events, hears_silence=True)

    assert recorder.calls == ["push", "push", "end_turn", "push", "close"]
    # What came before the turn belongs to it; nothing is told outside turns.
    assert texts(out) == [("w0 w1", False), ("w0 w1", True)]


async def test_final_of_what_hears_silence_holds_words_behind_the_pause_and_is_not_promised() -> (
    None
):
    out = await outcome_of(Recorder(), *PAUSED, EAGER, PUSHED, ENDED, hears_silence=True)

    assert not [event for event in out if isinstance(event, TurnEagerEnd)]
    assert texts(out) == [("w0", False), ("w0 w1", True)]


async def test_failure_on_silence_between_turns_is_no_news_for_the_client() -> None:
    out = await outcome_of(
        Recorder("push 1"), quiet(words=1), *turn(words=1, start=1), hears_silence=True
    )

    assert errors(out) == []
    assert texts(out)[-1] == ("w1", True)


# What finals carry


async def test_final_tells_how_much_of_the_turn_was_heard() -> None:
    out = await outcome(quiet(words=4), *turn(words=3, start=4), *turn(words=1, start=9))

    heard = [event.audio_samples for event in out if isinstance(event, Hypothesis)]
    assert [samples for samples in heard if samples] == [at(3), at(1)]


async def test_final_carries_the_tokens_also_those_from_before_a_failure() -> None:
    out = await outcome_of(
        Recorder("push 3"), SpeechStarted(0, opens_turn=True), *turn(words=4)[1:-1], ENDED
    )

    final = out[-1]
    assert isinstance(final, Hypothesis)
    assert final.text == "w0 w1 w3"
    assert [token.id for token in final.tokens] == [at(0), at(1), at(3)]


class SlowStream:
    """A stream that finds its words a while after the audio with them was pushed."""

    def __init__(self) -> None:
        self.on_news: Callable[[], None] | None = None
        self.found: Transcript | None = None

    def find(self, text: str) -> None:
        words = tuple(Word(word, 0, 1) for word in text.split())
        self.found = Transcript(words, stable=len(words))
        if self.on_news is not None:
            self.on_news()

    def take_news(self) -> Transcript | None:
        found, self.found = self.found, None
        return found

    async def push(self, audio: Audio) -> Transcript | None:
        return self.take_news()

    async def end_turn(self) -> Transcript:
        return Transcript((Word("one", 0, 1), Word("two", 0, 1)))

    async def close(self) -> None: ...


async def test_words_found_between_two_packets_are_told_at_once() -> None:
    slow = SlowStream()
    more = asyncio.Event()

    async def open_slow(options: StreamOptions) -> RecognitionStream:
        return slow

    async def events() -> AsyncGenerator[StreamEvent]:
        yield SpeechStarted(0, opens_turn=True)
        yield audio(words=1)
        await more.wait()
        yield TurnEnded(1, TurnEndReason.SILENCE)

    stage = StreamingAsrStage(open_slow, SessionOptions(), Progress(), clock=lambda: NOW)
    out: list[StreamEvent] = []

    async def collect() -> None:
        async for event in stage.run(events()):
            out.append(event)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(collect())
        for text in ("one", "one two"):
            await wait_all_tasks_blocked()
            slow.find(text)
        await wait_all_tasks_blocked()
        assert texts(out) == [("one", False), ("one two", False)]
        more.set()

    assert texts(out)[2:] == [("one two", True)]
    assert slow.on_news is None


async def test_words_found_while_others_were_passed_on_are_told_before_the_next_packet() -> None:
    slow = SlowStream()
    more = asyncio.Event()

    async def open_slow(options: StreamOptions) -> RecognitionStream:
        return slow

    async def events() -> AsyncGenerator[StreamEvent]:
        yield SpeechStarted(0, opens_turn=True)
        slow.find("one")
        yield audio(words=1)
        await more.wait()

    stage = StreamingAsrStage(open_slow, SessionOptions(), Progress(), clock=lambda: NOW)
    out: list[StreamEvent] = []
    async with asyncio.timeout(10):
        async for event in stage.run(events()):
            out.append(event)
            if texts(out) == [("one", False)]:
                slow.find("one two")  # nobody listens at this moment
            elif len(texts(out)) == 2:
                more.set()

    assert texts(out) == [("one", False), ("one two", False)]


# A model that is gone


async def test_turn_without_an_engine_is_told_once_and_goes_on_when_it_serves_again() -> None:
    progress = Progress()
    recorder = Recorder("push 2", "push 3", "push 4")

    async def open_stream(_: StreamOptions) -> RecognitionStream:
        return recorder

    stage = StreamingAsrStage(open_stream, SessionOptions(), progress, clock=lambda: NOW)
    out = [event async for event in stage.run(stream(*turn(words=5)))]

    assert errors(out) == ["cannot push"]
    assert texts(out)[-1] == ("w0 w4", True)
    assert progress.done == at(5)


async def test_each_turn_without_an_engine_is_told() -> None:
    recorder = Recorder("push 1", "push 2", "push 3", "push 4", "end_turn 1")

    out = await outcome_of(recorder, *turn(words=2), *turn(words=2, start=5))

    assert errors(out) == ["cannot push"] * 2


async def test_silence_that_an_engine_cannot_hear_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await outcome_of(
        Recorder(*(f"push {n}" for n in range(1, 9))),
        *(quiet(words=1, start=n) for n in range(8)),
        hears_silence=True,
    )

    assert [record.msg for record in caplog.records] == ["asr.silence_failed"]

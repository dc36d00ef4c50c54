"""Two passes over each turn: what the second one hears, and which text becomes the final."""

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt_server.engine.base import (
    EngineInfo,
    RecognitionStream,
    SpeculativeStream,
    StreamOptions,
)
from stt_server.engine.fake import WORD_SAMPLES, Script, ScriptedEngine
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import (
    SAMPLE_RATE,
    Audio,
    Clear,
    Configure,
    Flush,
    Hypothesis,
    Samples,
    SegmentEnded,
    SpeechPaused,
    SpeechStarted,
    StreamError,
    StreamEvent,
    Transcript,
    TurnEagerEnd,
    TurnEnded,
    TurnEndReason,
    TurnResumed,
    Word,
)
from stt_server.metrics import Metrics
from stt_server.pipeline import Progress, Stage
from stt_server.settings import SessionOptions
from stt_server.stages.asr import StreamingAsrStage
from stt_server.stages.tests.virtual_time import run as run_virtually
from stt_server.stages.two_pass import TwoPassStage

TIMEOUT_S = 0.7
Timed = tuple[float, StreamEvent]


@dataclass
class Calls:
    """What a call of the second engine does: takes so long, then fails or hears."""

    seconds: Sequence[float] = (0.1,)
    failing: frozenset[int] = frozenset()
    words: str | None = None
    """None = how much audio was heard, in words of the scripted engine."""


@dataclass
class SecondEngine:
    """A `SegmentEngine` on a script."""

    calls: Calls
    max_segment_samples: int = 40 * SAMPLE_RATE
    heard: list[tuple[float, float]] = field(default_factory=list)
    """Span of each call in words of the scripted engine."""
    running: int = 0
    info: EngineInfo = field(default_factory=lambda: EngineInfo("second", "for tests", capacity=1))

    async def start(self) -> None: ...
    async def check(self) -> None: ...
    async def stop(self) -> None: ...

    async def transcribe(self, audio: Audio, options: StreamOptions) -> Transcript:
        number = len(self.heard)
        self.heard.append((audio.start / WORD_SAMPLES, audio.end / WORD_SAMPLES))
        self.running += 1
        try:
            await asyncio.sleep(self.calls.seconds[min(number, len(self.calls.seconds) - 1)])
        finally:
            self.running -= 1
        if number in self.calls.failing:
            raise TranscriptionError("the script says so")
        text = self.calls.words
        if text is None:
            text = f"Heard {len(audio.samples) // WORD_SAMPLES} words."
        words = tuple(Word(word, audio.start, audio.end, 0.9) for word in text.split())
        return Transcript(words, stable=len(words), estimated_times=True)


class PlainStream:
    """A `RecognitionStream` that hears pauses as anything else."""

    def __init__(self, stream: SpeculativeStream) -> None:
        self.push, self.end_turn, self.close = stream.push, stream.end_turn, stream.close


@dataclass
class Outcome:
    out: list[Timed]
    engine: SecondEngine
    metrics: Metrics

    @property
    def events(self) -> list[StreamEvent]:
        return [event for _, event in self.out]

    @property
    def finals(self) -> list[tuple[float, str]]:
        return [
            (round(at, 3), event.text)
            for at, event in self.out
            if isinstance(event, Hypothesis) and event.is_final
        ]

    def count(self, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value(
            "stt_second_passes_total", {"outcome": outcome}
        )


async def in_time(events: Sequence[Timed]) -> AsyncGenerator[StreamEvent]:
    now = asyncio.get_running_loop().time
    for at, event in events:
        await asyncio.sleep(max(0.0, at - now()))
        yield event


def play(
    events: Sequence[Timed],
    calls: Calls | None = None,
    *,
    script: Script | None = None,
    options: SessionOptions | None = None,
    window_words: int = 100,
    speculates: bool = True,
) -> Outcome:
    """Give the stage events at their times (seconds); what came out, and when."""
    engine = SecondEngine(calls or Calls(), max_segment_samples=window_words * WORD_SAMPLES)
    metrics = Metrics()

    async def run() -> list[Timed]:
        clock = asyncio.get_running_loop().time
        chosen = options or SessionOptions()
        first = ScriptedEngine(script)

        async def open_stream(options: StreamOptions) -> RecognitionStream:
            stream = await first.open(options)
            return stream if speculates else PlainStream(stream)

        streaming = StreamingAsrStage(open_stream, chosen, Progress(), clock=clock)
        stage = TwoPassStage(streaming, engine, chosen, metrics, timeout_s=TIMEOUT_S, clock=clock)
        return [(clock(), event) async for event in stage.run(in_time(events))]

    return Outcome(run_virtually(run()), engine, metrics)


def speech(first: int, last: int) -> Audio:
    """Audio of the scripted engine's words `first` to before `last`."""
    samples = np.zeros((last - first) * WORD_SAMPLES, dtype=np.float32)
    return Audio(first * WORD_SAMPLES, samples, speech=True)


def started(word: int, *, opens_turn: bool = True) -> SpeechStarted:
    return SpeechStarted(word * WORD_SAMPLES, opens_turn=opens_turn)


def ended(word: int, reason: TurnEndReason = TurnEndReason.SILENCE) -> TurnEnded:
    return TurnEnded(word * WORD_SAMPLES, reason)


def paused(word: int) -> SpeechPaused:
    return SpeechPaused(word * WORD_SAMPLES)


def silence(word: int) -> Audio:
    """Too little audio for a word, behind the scripted engine's words up to `word`."""
    samples = np.zeros(WORD_SAMPLES - 1, dtype=np.float32)
    return Audio(word * WORD_SAMPLES, samples, speech=True)


def turn(at: float = 0.0, first: int = 0) -> list[Timed]:
    """Three words, a pause at `at` + 1 s and the end of the turn 1.2 s after that."""
    return [
        (at, started(first)),
        (at + 1, speech(first, first + 3)),
        (at + 1, paused(first + 3)),
        (at + 2, silence(first + 3)),
        (at + 2.2, ended(first + 3)),
    ]


FIRST_TEXT = "the quick brown"
"""What the streaming engine hears in a turn."""


def test_second_pass_that_began_at_the_pause_is_the_final_at_once() -> None:
    outcome = play(turn(), Calls(seconds=(1.0,)))

    assert outcome.finals == [(2.2, "Heard 3 words.")]
    assert outcome.engine.heard == [(0, 3)]
    assert outcome.count("ready") == 1


def test_cleared_turn_ends_its_second_pass_and_the_next_turn_is_heard_alone() -> None:
    outcome = play([*turn()[:-1], (2.1, Clear()), *turn(10.0, first=20)], Calls((9.0, 0.1)))

    assert [text for _, text in outcome.finals] == ["Heard 3 words."]
    assert outcome.engine.heard[-1][0] == 20
    assert outcome.engine.running == 0


def test_eager_ends_are_not_told_for_the_second_pass_may_write_something_else() -> None:
    events = turn()
    events.insert(3, (1.0, TurnEagerEnd(3 * WORD_SAMPLES)))
    events.insert(4, (1.5, started(3, opens_turn=False)))

    outcome = play(events)

    assert not [e for e in outcome.events if isinstance(e, TurnEagerEnd | TurnResumed)]


def test_turn_end_waits_for_a_second_pass_that_is_not_ready() -> None:
    outcome = play(turn(), Calls(seconds=(1.5,)))

    assert outcome.finals == [(2.5, "Heard 3 words.")]


def test_slow_second_pass_leaves_the_streaming_final_after_the_time_box() -> None:
    outcome = play(turn(), Calls(seconds=(60.0,)))

    assert outcome.finals == [(2.9, FIRST_TEXT)]
    assert outcome.engine.running == 0
    assert outcome.count("late") == 1


def test_failing_second_pass_leaves_the_streaming_final_at_once_and_no_error() -> None:
    outcome = play(turn(), Calls(seconds=(1.5,), failing=frozenset({0})))

    assert outcome.finals == [(2.5, FIRST_TEXT)]
    assert not any(isinstance(event, StreamError) for event in outcome.events)
    assert outcome.count("failed") == 1


def test_pass_that_failed_before_the_turn_ended_is_tried_again() -> None:
    outcome = play(turn(), Calls(seconds=(0.1,), failing=frozenset({0})))

    assert outcome.finals == [(2.3, "Heard 3 words.")]
    assert (outcome.count("failed"), outcome.count("ready")) == (1, 1)


def test_speech_that_goes_on_drops_the_pass_and_the_next_one_hears_all() -> None:
    events = [
        (0.0, started(0)),
        (1.0, speech(0, 3)),
        (1.0, paused(3)),
        (1.5, started(4, opens_turn=False)),
        (2.0, speech(3, 8)),
        (2.0, paused(8)),
        (3.2, ended(8)),
    ]
    outcome = play(events, Calls(seconds=(0.2, 1.0)))

    assert outcome.finals == [(3.2, "Heard 8 words.")]
    assert outcome.engine.heard == [(0, 3), (0, 8)]
    assert outcome.count("dropped") == 1


def test_turn_that_ends_in_mid_speech_is_heard_whole_afterwards() -> None:
    events = [(0.0, started(0)), (1.0, speech(0, 5)), (1.0, ended(5, TurnEndReason.FLUSH))]
    outcome = play(events, Calls(seconds=(0.4,)))

    assert outcome.finals == [(1.4, "Heard 5 words.")]


def test_turn_longer_than_the_window_keeps_its_streaming_final() -> None:
    outcome = play(turn(), window_words=3)

    # The pass at the pause fitted; at the end of the turn there is only silence more.
    assert outcome.engine.heard == [(0, 3)]
    outcome = play(turn(), window_words=2)

    assert outcome.finals == [(2.2, FIRST_TEXT)]
    assert outcome.engine.heard == []


def test_second_pass_that_hears_nothing_does_not_swallow_words() -> None:
    outcome = play(turn(), Calls(words=""))

    assert outcome.finals == [(2.2, FIRST_TEXT)]
    assert outcome.count("empty") == 1


def test_turn_with_pieces_that_are_final_keeps_its_streaming_final() -> None:
    events = [*turn()[:3], (1.0, SegmentEnded(3 * WORD_SAMPLES)), *turn()[3:]]

    outcome = play(events, options=SessionOptions(segment_finals=True))
    assert outcome.finals == [(2.2, FIRST_TEXT)]

    assert play(events).finals == [(2.2, "Heard 3 words.")]


def test_turn_that_was_cut_before_pieces_were_asked_for_keeps_its_streaming_final() -> None:
    cut = [*turn()[:3], (1.0, SegmentEnded(3 * WORD_SAMPLES))]
    on = (1.5, Configure(SessionOptions(segment_finals=True)))
    off = (1.6, Configure(SessionOptions(segment_finals=False)))

    for asked in ([on], [on, off]):
        assert play([*cut, *asked, *turn()[3:]]).finals == [(2.2, FIRST_TEXT)]
    # And the turn after it is heard again.
    later = play([*cut, on, off, *turn()[3:], *turn(3.0, first=8)])
    assert later.finals[1] == (5.2, "Heard 3 words.")


QUIET_WORD = [*turn()[:3], (2.0, speech(3, 4)), (2.2, ended(3, TurnEndReason.FLUSH))]
"""A streaming engine that hears pauses, too, has a fourth word, behind what the detector calls the
end of speech."""


def test_word_that_only_the_streaming_engine_heard_is_heard_again() -> None:
    outcome = play(QUIET_WORD, Calls(seconds=(0.1, 0.4)), speculates=False)

    assert outcome.engine.heard == [(0, 3), (0, 4)]
    assert outcome.finals == [(2.6, "Heard 4 words.")]


def test_word_that_cannot_be_heard_again_in_time_stays_in_the_streaming_final() -> None:
    late = play(QUIET_WORD, Calls(seconds=(0.1, 9.0)), speculates=False)
    assert late.finals == [(2.9, "the quick brown fox")]
    # All of the turn is longer than the window.
    long = play(QUIET_WORD, window_words=3, speculates=False)
    assert long.finals == [(2.2, "the quick brown fox")]


def test_options_of_the_session_reach_the_stage() -> None:
    events = [
        (0.0, Configure(SessionOptions(segment_finals=True))),
        *turn()[:3],
        (1.0, SegmentEnded(3 * WORD_SAMPLES)),
        *turn()[3:],
    ]
    assert play(events).finals == [(2.2, FIRST_TEXT)]


def test_error_of_the_streaming_engine_is_not_told_when_the_second_pass_has_the_turn() -> None:
    script = Script(failing_turns=frozenset({0}))

    outcome = play(turn(), script=script)
    assert outcome.finals == [(2.2, "Heard 3 words.")]
    assert not any(isinstance(event, StreamError) for event in outcome.events)

    outcome = play(turn(), Calls(failing=frozenset({0, 1})), script=script)
    assert [type(event) for event in outcome.events[-3:]] == [TurnEnded, StreamError, Hypothesis]


def test_interims_of_the_next_turn_wait_for_the_final_no_longer_than_the_time_box() -> None:
    later = [(at, event) for at, event in turn(2.3, first=8)]
    outcome = play([*turn(), *later], Calls(seconds=(60.0, 0.1)))

    assert outcome.finals == [(2.9, FIRST_TEXT), (4.5, "Heard 3 words.")]
    opened = [at for at, event in outcome.out if isinstance(event, SpeechStarted)]
    assert opened == [0.0, pytest.approx(2.9)]


def test_words_of_the_final_have_the_times_of_the_streaming_engine() -> None:
    outcome = play(turn(), Calls(words="The quick Brown,"))

    final = outcome.events[-1]
    assert isinstance(final, Hypothesis)
    assert [word.start // WORD_SAMPLES for word in final.words] == [0, 1, 2]
    assert not final.estimated_times


@pytest.mark.parametrize("leaves_at", [1, 3, 4])
def test_client_that_leaves_ends_the_second_pass(leaves_at: int) -> None:
    engine, metrics = SecondEngine(Calls(seconds=(60.0,))), Metrics()

    async def run() -> None:
        clock = asyncio.get_running_loop().time
        options = SessionOptions()
        first = StreamingAsrStage(ScriptedEngine().open, options, Progress(), clock=clock)
        stage = TwoPassStage(first, engine, options, metrics, timeout_s=TIMEOUT_S, clock=clock)

        async def consume() -> None:
            async for _ in stage.run(in_time([*turn(), (9.0, Flush())])):
                pass

        session = asyncio.create_task(consume())
        await asyncio.sleep(leaves_at * 0.6)
        session.cancel()
        await asyncio.wait([session])
        assert session.cancelled()

    run_virtually(run())
    assert engine.running == 0


class BrokenEngine(SecondEngine):
    """Fails in a way that no engine may, or has no place."""

    def __init__(self, error: Exception) -> None:
        super().__init__(Calls())
        self._error = error

    async def transcribe(self, audio: Audio, options: StreamOptions) -> Transcript:
        raise self._error


async def run_broken(error: Exception) -> list[StreamEvent]:
    clock = asyncio.get_running_loop().time
    options = SessionOptions()
    first = StreamingAsrStage(ScriptedEngine().open, options, Progress(), clock=clock)
    stage = TwoPassStage(
        first, BrokenEngine(error), options, Metrics(), timeout_s=TIMEOUT_S, clock=clock
    )
    return [event async for event in stage.run(in_time(turn()))]


def test_engine_without_a_place_leaves_the_streaming_final() -> None:
    last = run_virtually(run_broken(Overloaded("full")))[-1]

    assert isinstance(last, Hypothesis)
    assert last.text == FIRST_TEXT


def test_fault_of_the_program_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_virtually(run_broken(ZeroDivisionError()))


class Failing(Stage[StreamEvent, StreamEvent]):
    """A streaming stage whose engine fails at every audio."""

    def run(self, inputs: AsyncIterator[StreamEvent]) -> AsyncGenerator[StreamEvent, None]:
        return self._run(inputs)

    async def _run(self, inputs: AsyncIterator[StreamEvent]) -> AsyncGenerator[StreamEvent, None]:
        async for event in inputs:
            if isinstance(event, Audio):
                yield StreamError("TRANSCRIPTION_ERROR", str(event.start))
            else:
                yield event
            if isinstance(event, TurnEnded):
                yield Hypothesis(0, "", "", (), 0, event.at, is_final=True)


async def run_failing(events: Sequence[Timed], calls: Calls, window_words: int) -> list[Timed]:
    clock = asyncio.get_running_loop().time
    engine = SecondEngine(calls, max_segment_samples=window_words * WORD_SAMPLES)
    stage = TwoPassStage(
        Failing(), engine, SessionOptions(), Metrics(), timeout_s=TIMEOUT_S, clock=clock
    )
    return [
        (clock(), event)
        async for event in stage.run(in_time(events))
        if isinstance(event, StreamError | Hypothesis)
    ]


MONOLOGUE = [
    (0.0, started(0)),
    *[(0.3 * word, speech(word, word + 1)) for word in range(6)],
    (2.2, ended(6)),
]


def test_failures_of_the_streaming_engine_are_told_once_if_the_second_pass_fails_too() -> None:
    out = run_virtually(run_failing(MONOLOGUE, Calls(failing=frozenset({0})), 100))

    assert [type(event) for _, event in out] == [StreamError, Hypothesis]


def test_failures_in_a_turn_that_is_too_long_are_told_at_once() -> None:
    out = run_virtually(run_failing(MONOLOGUE, Calls(), 3))

    told = [(round(at, 3), event.message) for at, event in out if isinstance(event, StreamError)]
    samples = [str(word * WORD_SAMPLES) for word in range(6)]
    assert told == [(0.9, samples[0]), (0.9, samples[3]), (1.2, samples[4]), (1.5, samples[5])]


@pytest.mark.parametrize("segment_finals", [False, True])
def test_audio_is_kept_no_longer_than_a_second_pass_may_need_it(segment_finals: bool) -> None:
    kept: list[weakref.ref[Samples]] = []

    def heard(first: int, last: int) -> Audio:
        audio = speech(first, last)
        kept.append(weakref.ref(audio.samples))
        return audio

    async def events() -> AsyncGenerator[StreamEvent]:
        yield started(0)
        yield heard(0, 3)
        yield SegmentEnded(3 * WORD_SAMPLES)
        yield heard(3, 4)
        yield SegmentEnded(4 * WORD_SAMPLES)
        assert [samples() is None for samples in kept] == [segment_finals] * 2
        yield ended(4)
        await asyncio.sleep(60)

    async def run() -> None:
        clock = asyncio.get_running_loop().time
        options = SessionOptions(segment_finals=segment_finals)
        first = StreamingAsrStage(ScriptedEngine().open, options, Progress(), clock=clock)
        engine = SecondEngine(Calls())
        stage = TwoPassStage(first, engine, options, Metrics(), timeout_s=TIMEOUT_S, clock=clock)
        async with aclosing(stage.run(events())) as out:
            async for event in out:
                if isinstance(event, Hypothesis) and event.is_final:
                    break
            assert all(samples() is None for samples in kept)

    run_virtually(run())


# Properties


@st.composite
def conversations(draw: st.DrawFn) -> list[Timed]:
    """Turns of speech and pauses, ended by silence or by force, in real time."""
    events: list[Timed] = []
    at, word = 0.0, 0
    for _ in range(draw(st.integers(1, 4))):
        events.append((at, started(word)))
        for number in range(draw(st.integers(0, 3))):
            if number:
                events.append((at, started(word, opens_turn=False)))
            count = draw(st.integers(1, 6))
            at += 0.3 * count
            events.append((at, speech(word, word + count)))
            word += count
            events.append((at + 0.3, paused(word)))
            at += draw(st.floats(0.3, 1.4))
        if draw(st.booleans()):
            count = draw(st.integers(1, 4))
            events.append((at, started(word, opens_turn=False)))
            at += 0.3 * count
            events.append((at, speech(word, word + count)))
            word += count
        events.append((at, ended(word, draw(st.sampled_from(TurnEndReason)))))
        at += draw(st.floats(0.0, 1.0))
    return events


CALLS = st.builds(
    Calls,
    seconds=st.lists(st.sampled_from([0.0, 0.2, 0.69, 0.71, 1.3, 30.0]), min_size=1, max_size=8),
    failing=st.frozensets(st.integers(0, 8), max_size=4),
    words=st.none() | st.just("") | st.just("some text"),
)


@given(conversations(), CALLS, st.sampled_from([2, 8, 100]))
def test_turns_have_one_final_each_in_order_and_in_time(
    events: list[Timed], calls: Calls, window_words: int
) -> None:
    outcome = play(events, calls, window_words=window_words)

    open_turn: int | None = None
    turns = 0
    ended_at: float | None = None
    for at, event in outcome.out:
        match event:
            case SpeechStarted(opens_turn=True):
                assert ended_at is None
                open_turn, turns = turns, turns + 1
            case TurnEnded():
                ended_at = at
            case Hypothesis(is_final=True):
                assert ended_at is not None
                assert event.turn == open_turn
                assert at - ended_at <= TIMEOUT_S + 1e-6
                open_turn = ended_at = None
            case Hypothesis():
                assert ended_at is None
                assert event.turn == open_turn
            case _:
                pass
    assert ended_at is None
    assert len(outcome.finals) == sum(isinstance(event, TurnEnded) for _, event in events)
    assert outcome.engine.running == 0


@given(conversations(), CALLS)
def test_other_events_come_out_as_they_went_in(events: list[Timed], calls: Calls) -> None:
    outcome = play(events, calls)

    passed = [event for event in outcome.events if not isinstance(event, Hypothesis)]
    assert passed == [event for _, event in events if not isinstance(event, Audio)]


@given(conversations(), CALLS)
def test_final_by_the_second_pass_has_heard_all_speech_of_the_turn(
    events: list[Timed], calls: Calls
) -> None:
    calls.words = None
    outcome = play(events, calls)

    heard = iter(outcome.finals)
    words = 0
    for _, event in events:
        match event:
            case SpeechStarted(opens_turn=True):
                words = 0
            case Audio():
                words += len(event.samples) // WORD_SAMPLES
            case TurnEnded():
                _, text = next(heard)
                if text.startswith("Heard"):
                    assert text == f"Heard {words} words."
            case _:
                pass

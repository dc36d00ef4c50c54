"""The endpointer over scripted probabilities."""

from collections.abc import Iterable
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stt_server.events import (
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    SegmentEnded,
    SpeechPaused,
    SpeechStarted,
    TurnCheck,
    TurnEnded,
    TurnEndReason,
)
from stt_server.settings import EndpointingMode, EndpointingSettings
from stt_server.turns.endpointer import Endpointer, EndpointEvent, largest_gap

SPEECH, UNSURE, SILENCE = 0.9, 0.4, 0.05
ONE_SECOND = 32
"""Windows that hold at least 1.0 s; 31 hold less."""
SMALL_GAP = 10
"""Windows until a silence has lasted 300 ms."""
LARGE_GAP = 47
"""Windows until a silence has lasted 1500 ms."""
TWO_SECONDS = 63
"""Windows until a segment has lasted 2.0 s, the least bound."""


def at(windows: int) -> int:
    return windows * WINDOW_SAMPLES


def speech(windows: int) -> list[float]:
    return [SPEECH] * windows


def silence(windows: int) -> list[float]:
    return [SILENCE] * windows


def push_all(endpointer: Endpointer, probabilities: Iterable[float]) -> list[EndpointEvent]:
    return [event for probability in probabilities for event in endpointer.push(probability)]


def events_of(probabilities: Iterable[float], **settings: object) -> list[EndpointEvent]:
    return push_all(Endpointer(EndpointingSettings.model_validate(settings)), probabilities)


def cuts(events: Iterable[EndpointEvent]) -> list[int]:
    return [event.at for event in events if isinstance(event, SegmentEnded)]


# Speech and pauses


def test_speech_starts_at_the_beginning_of_the_first_window_that_is_sure() -> None:
    assert events_of([0.49, 0.499, 0.75]) == [SpeechStarted(at(2), opens_turn=True)]


def test_a_doubtful_window_opens_speech_with_the_next_one_above_onset() -> None:
    endpointer = Endpointer(EndpointingSettings())

    assert push_all(endpointer, [0.1, 0.5]) == []
    assert endpointer.push(0.5) == [SpeechStarted(at(1), opens_turn=True)]


def test_a_doubtful_window_alone_opens_nothing() -> None:
    assert events_of([0.1, 0.74, 0.49] * 50) == []


def test_a_doubtful_window_resumes_speech_inside_a_turn() -> None:
    events = events_of([SPEECH, *silence(SMALL_GAP), 0.5])

    assert events[-1] == SpeechStarted(at(SMALL_GAP + 1), opens_turn=False)


def test_a_forced_cut_leaves_speech_in_front_of_it() -> None:
    endpointer = Endpointer(EndpointingSettings(mode=EndpointingMode.NONE, max_segment_s=2))
    push_all(endpointer, [*speech(ONE_SECOND), *silence(SMALL_GAP)])
    # The next segment is led by silence that reaches into its second half.
    events = push_all(endpointer, [*silence(40), *speech(30)])

    started = next(event.at for event in events if isinstance(event, SpeechStarted))
    assert [event.at > started for event in events if isinstance(event, SegmentEnded)] == [True]


def test_steady_doubt_after_speech_cuts_nothing() -> None:
    events = events_of(
        [*speech(5), *[UNSURE] * 5, 0.3, *[UNSURE] * 400], mode="none", max_segment_s=2
    )

    assert len(cuts(events)) == 1


def test_probability_between_the_thresholds_does_not_open_speech() -> None:
    assert events_of([UNSURE] * 200) == []


def test_probability_between_the_thresholds_keeps_speech_going() -> None:
    events = events_of([SPEECH, *[UNSURE] * 100, 0.35])

    assert events == [SpeechStarted(0, opens_turn=True)]


def test_probability_between_the_thresholds_does_not_resume_speech() -> None:
    events = events_of([SPEECH, 0.34, *[UNSURE] * SMALL_GAP])

    assert events[1:] == [SpeechPaused(at(1))]


def test_pause_is_told_when_silence_reaches_the_small_gap_and_not_before() -> None:
    endpointer = Endpointer(EndpointingSettings())
    push_all(endpointer, speech(5))

    assert push_all(endpointer, silence(SMALL_GAP - 1)) == []
    assert endpointer.push(SILENCE) == [SpeechPaused(at(5))]


def test_pause_is_told_once_per_gap() -> None:
    gap = silence(2 * SMALL_GAP)

    events = events_of([*speech(5), *gap, *speech(5), *gap])

    assert events == [
        SpeechStarted(0, opens_turn=True),
        SpeechPaused(at(5)),
        SpeechStarted(at(25), opens_turn=False),
        SpeechPaused(at(30)),
    ]


def test_gap_shorter_than_the_small_gap_is_not_told() -> None:
    events = events_of([*speech(3), *silence(SMALL_GAP - 1), *speech(3)])

    assert events == [SpeechStarted(0, opens_turn=True)]


def test_silence_alone_tells_nothing() -> None:
    assert events_of(silence(1_000)) == []


# The end of a turn


def test_turn_ends_when_silence_reaches_silence_ms_and_not_before() -> None:
    endpointer = Endpointer(EndpointingSettings())
    push_all(endpointer, [*speech(5), *silence(LARGE_GAP - 1)])

    assert endpointer.turn_open
    assert endpointer.push(SILENCE) == [TurnEnded(at(5), TurnEndReason.SILENCE)]
    assert not endpointer.turn_open


def test_turn_of_a_single_window_arrives() -> None:
    events = events_of([SPEECH, *silence(LARGE_GAP)])

    assert events == [
        SpeechStarted(0, opens_turn=True),
        SpeechPaused(at(1)),
        TurnEnded(at(1), TurnEndReason.SILENCE),
    ]


def test_speech_after_a_turn_opens_another_one() -> None:
    events = events_of([SPEECH, *silence(LARGE_GAP + 3), SPEECH])

    assert events[-1] == SpeechStarted(at(1 + LARGE_GAP + 3), opens_turn=True)


def test_speech_in_the_last_moment_keeps_the_turn() -> None:
    events = events_of([SPEECH, *silence(LARGE_GAP - 1), SPEECH])

    assert events[-1] == SpeechStarted(at(LARGE_GAP), opens_turn=False)


def test_turn_ends_without_a_pause_when_silence_ms_lies_below_the_small_gap() -> None:
    events = events_of([SPEECH, *silence(4)], silence_ms=100, small_gap_ms=300)

    assert events == [SpeechStarted(0, opens_turn=True), TurnEnded(at(1), TurnEndReason.SILENCE)]


def test_mode_none_never_ends_a_turn_by_silence() -> None:
    events = events_of([SPEECH, *silence(5_000)], mode="none")

    assert not any(isinstance(event, TurnEnded) for event in events)


def test_end_turn_during_speech_ends_it_at_the_position_given() -> None:
    endpointer = Endpointer(EndpointingSettings())
    push_all(endpointer, speech(5))

    assert endpointer.end_turn(TurnEndReason.FLUSH, at=at(5) + 100) == [
        TurnEnded(at(5) + 100, TurnEndReason.FLUSH)
    ]


def test_end_turn_without_a_position_ends_it_after_the_last_window() -> None:
    endpointer = Endpointer(EndpointingSettings())
    push_all(endpointer, speech(5))

    assert endpointer.end_turn(TurnEndReason.FINISH) == [TurnEnded(at(5), TurnEndReason.FINISH)]


def test_end_turn_during_silence_ends_it_where_speech_stopped() -> None:
    endpointer = Endpointer(EndpointingSettings())
    push_all(endpointer, [*speech(5), *silence(3)])

    assert endpointer.end_turn(TurnEndReason.STALL, at=at(8) + 7) == [
        TurnEnded(at(5), TurnEndReason.STALL)
    ]


def test_end_turn_without_an_open_turn_does_nothing() -> None:
    endpointer = Endpointer(EndpointingSettings())
    push_all(endpointer, silence(5))

    assert endpointer.end_turn(TurnEndReason.FLUSH) == []


def test_second_end_turn_does_nothing() -> None:
    endpointer = Endpointer(EndpointingSettings())
    push_all(endpointer, speech(5))
    endpointer.end_turn(TurnEndReason.FLUSH)

    assert endpointer.end_turn(TurnEndReason.FLUSH) == []


def test_speech_that_goes_on_after_a_forced_end_starts_behind_it() -> None:
    endpointer = Endpointer(EndpointingSettings())
    push_all(endpointer, speech(5))
    endpointer.end_turn(TurnEndReason.FLUSH, at=at(5) + 100)

    assert endpointer.push(SPEECH) == [SpeechStarted(at(5) + 100, opens_turn=True)]


def test_forced_end_makes_the_next_turn_need_the_onset_again() -> None:
    endpointer = Endpointer(EndpointingSettings())
    push_all(endpointer, speech(5))
    endpointer.end_turn(TurnEndReason.FLUSH)

    assert endpointer.push(UNSURE) == []


# New settings in the middle of a turn


def test_shorter_silence_counts_for_the_silence_already_heard() -> None:
    endpointer = Endpointer(EndpointingSettings())
    push_all(endpointer, [*speech(5), *silence(20)])

    endpointer.configure(EndpointingSettings(silence_ms=500))

    assert endpointer.push(SILENCE) == [TurnEnded(at(5), TurnEndReason.SILENCE)]


def test_mode_switched_back_to_vad_ends_a_turn_that_has_been_silent_for_long() -> None:
    endpointer = Endpointer(EndpointingSettings(mode=EndpointingMode.NONE))
    push_all(endpointer, [SPEECH, *silence(500)])

    endpointer.configure(EndpointingSettings())

    assert endpointer.push(SILENCE) == [TurnEnded(at(1), TurnEndReason.SILENCE)]


def test_new_thresholds_keep_the_turn_open() -> None:
    endpointer = Endpointer(EndpointingSettings())
    push_all(endpointer, speech(5))

    endpointer.configure(EndpointingSettings(onset=0.95, offset=0.95))

    assert endpointer.push(0.9) == []
    assert endpointer.turn_open


# Segments


def test_small_gap_cuts_after_enough_speech() -> None:
    events = events_of([*speech(ONE_SECOND), *silence(SMALL_GAP)])

    assert events[1:] == [SpeechPaused(at(ONE_SECOND)), SegmentEnded(at(ONE_SECOND + SMALL_GAP))]


def test_small_gap_does_not_cut_after_too_little_speech() -> None:
    events = events_of([*speech(ONE_SECOND - 1), *silence(SMALL_GAP)])

    assert events[1:] == [SpeechPaused(at(ONE_SECOND - 1))]


def test_speech_before_a_gap_that_did_not_cut_counts_for_the_next_one() -> None:
    half = [*speech(ONE_SECOND // 2), *silence(SMALL_GAP)]

    assert cuts(events_of(half * 2)) == [at(2 * len(half))]


def test_speech_before_a_cut_does_not_count_for_the_next_one() -> None:
    cut = [*speech(ONE_SECOND), *silence(SMALL_GAP)]

    assert cuts(events_of([*cut, *speech(5), *silence(SMALL_GAP)])) == [at(len(cut))]


def test_without_a_minimum_every_pause_cuts() -> None:
    pause = [SPEECH, *silence(SMALL_GAP)]

    assert cuts(events_of(pause * 3, min_speech_ms=0)) == [at(11), at(22), at(33)]


def test_long_segment_is_cut_at_the_middle_of_its_largest_gap() -> None:
    # Gaps of 2 windows at 36 and of 4 at 44; the segment reaches its bound at 63.
    probabilities = [*speech(36), *silence(2), *speech(6), *silence(4), *speech(15)]

    assert cuts(events_of(probabilities, max_segment_s=2.0)) == [at(46)]


def test_long_segment_is_cut_only_when_it_reaches_its_bound() -> None:
    assert cuts(events_of(speech(TWO_SECONDS - 1), max_segment_s=2.0)) == []
    assert len(cuts(events_of(speech(TWO_SECONDS), max_segment_s=2.0))) == 1


def test_gap_in_the_first_half_of_a_long_segment_is_not_cut() -> None:
    probabilities = [*speech(10), *silence(8), *speech(22), SILENCE, *speech(22)]

    assert cuts(events_of(probabilities, max_segment_s=2.0)) == [at(41)]


def test_segment_without_a_gap_is_cut_behind_its_least_likely_window() -> None:
    probabilities = [*speech(50), 0.6, *speech(12)]

    assert cuts(events_of(probabilities, max_segment_s=2.0)) == [at(51)]


def test_speech_behind_a_forced_cut_counts_for_the_next_gap() -> None:
    # Cut at 36; 26 windows of speech before the bound and 6 behind it make up the minimum.
    probabilities = [*speech(35), *silence(2), *speech(26 + 6), *silence(SMALL_GAP)]

    assert cuts(events_of(probabilities, max_segment_s=2.0)) == [at(36), at(len(probabilities))]


def test_forced_cut_leaves_the_turn_open() -> None:
    events = events_of([*speech(200), *silence(LARGE_GAP)], max_segment_s=2.0)

    turns = [event for event in events if isinstance(event, SpeechStarted | TurnEnded)]
    assert turns == [SpeechStarted(0, opens_turn=True), TurnEnded(at(200), TurnEndReason.SILENCE)]


def test_segments_of_endless_speech_have_at_most_their_bound() -> None:
    positions = [0, *cuts(events_of(speech(2_000), max_segment_s=2.0))]

    lengths = [after - before for before, after in pairwise(positions)]
    assert len(lengths) > 10
    assert all(0 < length <= at(TWO_SECONDS) for length in lengths)


def test_silence_behind_a_cut_is_no_segment() -> None:
    probabilities = [*speech(ONE_SECOND), *silence(2_000)]

    assert cuts(events_of(probabilities, mode="none", max_segment_s=2.0)) == [
        at(ONE_SECOND + SMALL_GAP)
    ]


def test_largest_gap_takes_the_later_one_of_equals() -> None:
    probabilities = [*speech(10), *silence(2), *speech(3), *silence(2), SPEECH]

    assert largest_gap(probabilities, first=9, below=0.35) == 16


# Properties

LEVELS = st.sampled_from([0.0, 0.2, 0.34, 0.35, 0.4, 0.49, 0.5, 0.7, 1.0])
PROBABILITIES = st.lists(
    st.tuples(LEVELS | st.floats(0, 1), st.integers(1, 60)), min_size=1, max_size=20
).map(lambda runs: [level for level, count in runs for _ in range(count)])


@st.composite
def any_settings(draw: st.DrawFn) -> EndpointingSettings:
    onset = draw(st.sampled_from([0.3, 0.5, 0.7]))
    return EndpointingSettings(
        mode=draw(st.sampled_from(EndpointingMode)),
        onset=onset,
        offset=draw(st.sampled_from([0.1, 0.3, onset])),
        small_gap_ms=draw(st.integers(64, 600)),
        silence_ms=draw(st.integers(100, 1_900)),
        min_speech_ms=draw(st.integers(0, 1_500)),
        max_segment_s=draw(st.floats(2.0, 6.0)),
    )


@st.composite
def any_run(draw: st.DrawFn) -> list[EndpointEvent]:
    """Events of random probabilities with forced ends and new settings in between."""
    endpointer = Endpointer(draw(any_settings()))
    probabilities = draw(PROBABILITIES)
    moments = st.integers(0, len(probabilities) - 1)
    ends = draw(st.dictionaries(moments, st.integers(0, WINDOW_SAMPLES - 1), max_size=4))
    settings = draw(st.dictionaries(moments, any_settings(), max_size=3))
    events: list[EndpointEvent] = []
    for index, probability in enumerate(probabilities):
        if index in settings:
            events += endpointer.configure(settings[index])
        events += endpointer.push(probability)
        if index in ends:
            events += endpointer.end_turn(TurnEndReason.FLUSH, at=endpointer.at + ends[index])
    return events


@settings(max_examples=60)
@given(any_run())
def test_events_come_in_a_legal_order(events: list[EndpointEvent]) -> None:
    turn_open = paused = False
    for event in events:
        match event:
            case SpeechStarted(opens_turn=True):
                assert not turn_open
                turn_open, paused = True, False
            case SpeechStarted():
                assert turn_open
                assert paused
                paused = False
            case SpeechPaused():
                assert turn_open
                assert not paused
                paused = True
            case SegmentEnded():
                assert turn_open
            case TurnEnded():
                assert turn_open
                turn_open = False


@settings(max_examples=60)
@given(any_run())
def test_turns_hold_speech_and_never_overlap(events: list[EndpointEvent]) -> None:
    last_end = start = 0
    for event in events:
        if isinstance(event, SpeechStarted) and event.opens_turn:
            assert event.at >= last_end
            start = event.at
        elif isinstance(event, TurnEnded):
            assert event.at > start
            last_end = event.at


@settings(max_examples=60)
@given(any_run())
def test_cut_positions_strictly_increase(events: list[EndpointEvent]) -> None:
    assert all(before < after for before, after in pairwise(cuts(events)))


@settings(max_examples=60)
@given(any_run())
def test_cuts_lie_inside_their_turn(events: list[EndpointEvent]) -> None:
    start = 0
    for event in events:
        if isinstance(event, SpeechStarted) and event.opens_turn:
            start = event.at
        elif isinstance(event, SegmentEnded):
            assert event.at > start


@settings(max_examples=60)
@given(any_run())
def test_speech_positions_never_go_back(events: list[EndpointEvent]) -> None:
    positions = [event.at for event in events if not isinstance(event, SegmentEnded)]

    assert positions == sorted(positions)


@given(PROBABILITIES, any_settings())
def test_positions_are_borders_of_windows(
    probabilities: list[float], settings: EndpointingSettings
) -> None:
    events = push_all(Endpointer(settings), probabilities)

    assert all(event.at % WINDOW_SAMPLES == 0 for event in events)


@given(PROBABILITIES, any_settings())
def test_every_two_speech_windows_belong_to_a_turn(
    probabilities: list[float], settings: EndpointingSettings
) -> None:
    endpointer = Endpointer(settings)
    before = 0.0
    for probability in probabilities:
        endpointer.push(probability)
        assert endpointer.turn_open or min(before, probability) < settings.onset
        before = probability


@given(PROBABILITIES, any_settings())
def test_turn_ends_at_the_first_window_whose_silence_reaches_silence_ms(
    probabilities: list[float], settings: EndpointingSettings
) -> None:
    endpointer = Endpointer(settings)
    needed = settings.silence_ms * SAMPLE_RATE / 1_000
    for probability in probabilities:
        for event in endpointer.push(probability):
            if isinstance(event, TurnEnded):
                heard = endpointer.at - event.at
                assert heard - WINDOW_SAMPLES < needed <= heard


@given(PROBABILITIES, any_settings())
def test_segment_is_never_longer_than_its_bound(
    probabilities: list[float], settings: EndpointingSettings
) -> None:
    # Without a silent end a turn may pause for longer than any segment.
    endpointer = Endpointer(settings.model_copy(update={"mode": EndpointingMode.VAD}))
    bound = at(ceil(settings.max_segment_s * SAMPLE_RATE / WINDOW_SAMPLES))
    start = 0
    for probability in probabilities:
        for event in endpointer.push(probability):
            if isinstance(event, SegmentEnded):
                assert 0 < event.at - start <= bound
                start = event.at
            elif isinstance(event, SpeechStarted) and event.opens_turn:
                start = event.at
        assert not endpointer.turn_open or endpointer.at - start <= bound


@given(st.lists(st.floats(0, 1), min_size=1, max_size=80), st.floats(0.01, 0.95))
def test_largest_gap_lies_in_the_second_half(probabilities: list[float], below: float) -> None:
    first = len(probabilities) // 2
    cut = largest_gap(probabilities, first=first, below=below)

    assert first < cut <= len(probabilities)


# Checks of whoever may end the turn before silence does


def checks(events: Iterable[EndpointEvent]) -> list[int]:
    return [event.at for event in events if isinstance(event, TurnCheck)]


CHECK = 5
"""Windows in 160 ms, rounded up."""


@pytest.mark.parametrize("detector", ["eou", "smart-turn"])
def test_a_pause_is_told_again_and_again_for_a_detector(detector: str) -> None:
    events = events_of([SPEECH, *silence(LARGE_GAP)], detector=detector)

    expected = range(1 + SMALL_GAP + CHECK, 1 + LARGE_GAP, CHECK)
    assert checks(events) == [at(windows) for windows in expected]
    assert events[-1] == TurnEnded(at(1), TurnEndReason.SILENCE)


@pytest.mark.parametrize("settings", [{}, {"detector": "eou", "mode": "none"}])
def test_a_pause_is_told_once_where_nobody_else_may_end_the_turn(
    settings: dict[str, object],
) -> None:
    assert checks(events_of([SPEECH, *silence(LARGE_GAP - 1)], **settings)) == []


def test_speech_ends_the_checks_and_the_next_pause_starts_them_anew() -> None:
    pause = silence(SMALL_GAP + CHECK)
    events = events_of([SPEECH, *pause, SPEECH, *pause], detector="eou")

    assert checks(events) == [at(1 + len(pause)), at(2 + 2 * len(pause))]


def test_detector_ends_the_turn_where_speech_stopped() -> None:
    endpointer = Endpointer(EndpointingSettings())
    push_all(endpointer, [*speech(3), *silence(SMALL_GAP + 2)])

    ended = endpointer.end_turn(TurnEndReason.TURN_MODEL, confidence=0.7)

    assert ended == [TurnEnded(at(3), TurnEndReason.TURN_MODEL, 0.7)]
    assert push_all(endpointer, [0.9]) == [SpeechStarted(at(5 + SMALL_GAP), opens_turn=True)]

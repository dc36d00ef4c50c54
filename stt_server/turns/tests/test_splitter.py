"""The splitter over numbered samples: each sample's value is its own position."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stt_server.events import (
    WINDOW_SAMPLES,
    Audio,
    Samples,
    SegmentEnded,
    SpeechPaused,
    SpeechStarted,
    TurnCheck,
    TurnEnded,
    TurnEndReason,
)
from stt_server.settings import DetectorName, EndpointingMode, EndpointingSettings
from stt_server.turns.splitter import SplitEvent, TurnSplitter

SPEECH, SILENCE = 0.9, 0.0
PRE_ROLL = 4_800
"""Samples in the default 300 ms."""


def numbered(start: int, end: int) -> Samples:
    return np.arange(start, end, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Span:
    """An `Audio` whose samples have been checked against their positions."""

    start: int
    end: int
    speech: bool


def joined(events: Sequence[SplitEvent]) -> list[object]:
    """The events with neighbouring audio of one kind made one span."""
    out: list[object] = []
    for event in events:
        if not isinstance(event, Audio):
            out.append(event)
            continue
        assert np.array_equal(event.samples, numbered(event.start, event.end))
        last = out[-1] if out else None
        if isinstance(last, Span) and last.speech == event.speech:
            assert last.end == event.start
            out[-1] = Span(last.start, event.end, event.speech)
        else:
            out.append(Span(event.start, event.end, event.speech))
    return out


class Feed:
    """Hands a splitter numbered samples, with a probability for each window they complete."""

    def __init__(
        self,
        probabilities: Sequence[float],
        settings: EndpointingSettings | None = None,
        *,
        is_end: Callable[[SplitEvent], bool] = lambda _: False,
    ) -> None:
        self.splitter = TurnSplitter(settings or EndpointingSettings())
        self.is_end = is_end
        self.events: list[SplitEvent] = []
        self.taken = 0
        self._probabilities = probabilities

    def take(self, until: int) -> None:
        judged = slice(self.taken // WINDOW_SAMPLES, until // WINDOW_SAMPLES)
        samples = numbered(self.taken, until)
        for window in self.splitter.split(samples, self._probabilities[judged]):
            self.events += window
            if any(self.is_end(event) for event in window):
                self.events += self.splitter.yield_floor(TurnEndReason.TURN_MODEL, 0.9)
        self.taken = until

    def flush(self) -> None:
        self.events += self.splitter.end_turn(TurnEndReason.FLUSH)

    def finish(self) -> list[object]:
        self.events += self.splitter.finish()
        return joined(self.events)


def windows(count: int) -> int:
    return count * WINDOW_SAMPLES


def test_turn_takes_its_pre_roll_and_the_silence_that_ended_it() -> None:
    feed = Feed([*[SILENCE] * 20, *[SPEECH] * 5, *[SILENCE] * 60])
    feed.take(windows(85))

    assert feed.finish() == [
        Span(0, windows(20) - PRE_ROLL, False),
        SpeechStarted(windows(20), opens_turn=True),
        Span(windows(20) - PRE_ROLL, windows(35), True),
        SpeechPaused(windows(25)),
        Span(windows(35), windows(72), True),
        TurnEnded(windows(25), TurnEndReason.SILENCE),
        Span(windows(72), windows(85), False),
    ]


def test_pre_roll_of_the_first_turn_stops_at_the_beginning_of_the_stream() -> None:
    feed = Feed([SILENCE, SPEECH])
    feed.take(windows(2))

    assert feed.finish()[:2] == [
        SpeechStarted(windows(1), opens_turn=True),
        Span(0, windows(2), True),
    ]


def test_pre_roll_never_reaches_into_the_turn_before() -> None:
    feed = Feed([*[SPEECH] * 5, *[SILENCE] * 4, *[SPEECH] * 5], EndpointingSettings(silence_ms=100))
    feed.take(windows(14))

    assert feed.finish() == [
        SpeechStarted(0, opens_turn=True),
        Span(0, windows(9), True),
        TurnEnded(windows(5), TurnEndReason.SILENCE),
        SpeechStarted(windows(9), opens_turn=True),
        Span(windows(9), windows(14), True),
        TurnEnded(windows(14), TurnEndReason.FINISH),
    ]


def test_flush_ends_the_turn_with_every_sample_so_far() -> None:
    feed = Feed([SPEECH] * 6)
    feed.take(windows(5) + 100)
    feed.flush()

    assert joined(feed.events)[-2:] == [
        Span(0, windows(5) + 100, True),
        TurnEnded(windows(5) + 100, TurnEndReason.FLUSH),
    ]


def test_flush_without_an_open_turn_gives_nothing() -> None:
    feed = Feed([SILENCE] * 6)
    feed.take(windows(5))
    before = list(feed.events)

    feed.flush()

    assert feed.events == before


def test_speech_that_goes_on_behind_a_flush_opens_a_turn_right_there() -> None:
    feed = Feed([SPEECH] * 6)
    feed.take(windows(5) + 100)
    feed.flush()
    feed.take(windows(6))

    assert feed.finish()[3:] == [
        SpeechStarted(windows(5) + 100, opens_turn=True),
        Span(windows(5) + 100, windows(6), True),
        TurnEnded(windows(6), TurnEndReason.FINISH),
    ]


def test_finish_in_silence_gives_the_held_samples_out() -> None:
    feed = Feed([SILENCE])
    feed.take(700)

    assert feed.finish() == [Span(0, 700, False)]


def test_finish_of_an_empty_stream_gives_nothing() -> None:
    assert Feed([]).finish() == []


def test_finish_before_the_first_whole_window_gives_the_samples_out() -> None:
    feed = Feed([])
    feed.take(100)

    assert feed.finish() == [Span(0, 100, False)]


def test_new_pre_roll_counts_for_the_next_turn() -> None:
    feed = Feed([*[SILENCE] * 20, SPEECH])
    feed.splitter.configure(EndpointingSettings(pre_roll_ms=0))
    feed.take(windows(21))

    assert feed.finish()[0] == Span(0, windows(20), False)


def test_new_thresholds_count_from_the_next_window_on() -> None:
    feed = Feed([0.8, 0.8])
    feed.splitter.configure(EndpointingSettings(onset=0.9))
    feed.take(windows(1))
    feed.splitter.configure(EndpointingSettings(onset=0.5))
    feed.take(windows(2))

    assert SpeechStarted(windows(1), opens_turn=True) in feed.events


def test_turn_that_a_detector_ends_leaves_the_rest_of_the_packet_to_the_next_one() -> None:
    probabilities = [*[SPEECH] * 5, *[SILENCE] * 12, *[SPEECH] * 5]
    splitter = TurnSplitter(EndpointingSettings())
    events: list[SplitEvent] = []
    for window in splitter.split(numbered(0, windows(22)), probabilities):
        events += window
        if any(isinstance(event, SpeechPaused) for event in window):
            events += splitter.yield_floor(TurnEndReason.TURN_MODEL, 0.8)

    assert joined(events) == [
        SpeechStarted(0, opens_turn=True),
        Span(0, windows(15), True),
        SpeechPaused(windows(5)),
        TurnEnded(windows(5), TurnEndReason.TURN_MODEL, 0.8),
        SpeechStarted(windows(17), opens_turn=True),
        Span(windows(15), windows(22), True),
    ]


def test_floor_is_yielded_once() -> None:
    feed = Feed([SPEECH] * 6)
    feed.take(windows(6))

    assert feed.splitter.yield_floor(TurnEndReason.MODEL_EOU, None)
    assert feed.splitter.yield_floor(TurnEndReason.MODEL_EOU, None) == []


MANUAL = EndpointingSettings(mode=EndpointingMode.MANUAL, small_gap_ms=64, silence_ms=100)


def test_client_that_marks_turns_gets_all_it_sent_since_the_last_flush() -> None:
    feed = Feed([*[SILENCE] * 10, *[SPEECH] * 3, *[SILENCE] * 20], MANUAL)
    feed.take(windows(30) + 7)
    feed.flush()
    feed.take(windows(31))
    feed.flush()

    assert joined(feed.events) == [
        SpeechStarted(0, opens_turn=True),
        Span(0, windows(30) + 7, True),
        TurnEnded(windows(30) + 7, TurnEndReason.FLUSH),
        SpeechStarted(windows(30) + 7, opens_turn=True),
        Span(windows(30) + 7, windows(31), True),
        TurnEnded(windows(31), TurnEndReason.FLUSH),
    ]


def test_turn_of_a_single_sample_can_be_flushed() -> None:
    feed = Feed([], MANUAL)
    feed.take(1)
    feed.flush()

    assert feed.events[0] == SpeechStarted(0, opens_turn=True)
    assert isinstance(feed.events[-1], TurnEnded)


def test_flush_with_nothing_sent_since_the_last_one_gives_nothing() -> None:
    feed = Feed([SPEECH], MANUAL)
    feed.take(windows(1))
    feed.flush()
    before = list(feed.events)

    feed.flush()

    assert feed.events == before


def test_long_turn_that_the_client_marks_is_cut_where_speech_pauses() -> None:
    feed = Feed([*[SPEECH] * 40, *[SILENCE] * 10, *[SPEECH] * 5], MANUAL)
    feed.take(windows(55))

    cuts = [event for event in feed.events if isinstance(event, SegmentEnded)]
    assert [cut.at for cut in cuts] == [windows(42)]


def test_client_that_begins_to_mark_turns_in_a_pause_is_heard_from_there_on() -> None:
    """The stages behind would leave out what they take for a pause."""
    feed = Feed([*[SPEECH] * 5, *[SILENCE] * 20], EndpointingSettings(small_gap_ms=64))
    feed.take(windows(10))
    feed.events += feed.splitter.configure(MANUAL)
    feed.take(windows(20))

    assert joined(feed.events)[2:] == [
        SpeechPaused(windows(5)),
        Span(windows(7), windows(10), True),
        SpeechStarted(windows(10), opens_turn=False),
        Span(windows(10), windows(20), True),
    ]


def test_dropped_turn_has_no_end_and_what_is_held_belongs_to_none() -> None:
    feed = Feed([SPEECH] * 3)
    feed.take(windows(2) + 5)
    feed.events += feed.splitter.drop_turn()

    assert not feed.splitter.turn_open
    assert joined(feed.events)[1:] == [
        Span(0, windows(2), True),
        Span(windows(2), windows(2) + 5, False),
    ]


def test_speech_that_goes_on_behind_a_dropped_turn_opens_the_next() -> None:
    feed = Feed([SPEECH] * 4)
    feed.take(windows(2) + 5)
    feed.events += feed.splitter.drop_turn()
    feed.events.clear()
    feed.take(windows(4))

    opening = next(event for event in feed.events if isinstance(event, SpeechStarted))
    assert opening.opens_turn
    assert all(event.start >= windows(2) + 5 for event in feed.events if isinstance(event, Audio))


# Properties

LEVELS = st.sampled_from([0.0, 0.34, 0.4, 0.5, 0.9])
MAX_WINDOWS = 250


@st.composite
def any_settings(draw: st.DrawFn) -> EndpointingSettings:
    return EndpointingSettings(
        mode=draw(st.sampled_from(EndpointingMode)),
        detector=draw(st.sampled_from(DetectorName)),
        check_ms=draw(st.integers(32, 200)),
        small_gap_ms=draw(st.integers(64, 400)),
        silence_ms=draw(st.integers(100, 900)),
        min_speech_ms=draw(st.integers(0, 500)),
        max_segment_s=draw(st.floats(2.0, 4.0)),
        pre_roll_ms=draw(st.integers(0, 600)),
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """One stream: what is heard, and what the client asks for at which sample."""

    probabilities: Sequence[float]
    length: int
    flushes: frozenset[int]
    settings: dict[int, EndpointingSettings]
    patience: int
    """The higher, the fewer turns a detector ends."""

    def run(self, packet_ends: set[int]) -> list[SplitEvent]:
        """All events when the stream comes in packets that end at `packet_ends`."""
        feed = Feed(self.probabilities, self.settings[0], is_end=self._is_end)
        moments = packet_ends | self.flushes | set(self.settings) | {self.length}
        for moment in sorted(moments):
            feed.take(moment)
            if moment in self.settings:
                feed.events += feed.splitter.configure(self.settings[moment])
            if moment in self.flushes:
                feed.flush()
        feed.finish()
        return feed.events

    def _is_end(self, event: SplitEvent) -> bool:
        """What a detector thinks depends on where the stream is, and on nothing else."""
        if not isinstance(event, SpeechPaused | TurnCheck):
            return False
        return event.at // WINDOW_SAMPLES % self.patience == 0


@st.composite
def any_plan(draw: st.DrawFn, *, reconfigured: bool = True) -> Plan:
    runs = draw(st.lists(st.tuples(LEVELS, st.integers(1, 40)), max_size=14))
    probabilities = [level for level, count in runs for _ in range(count)][:MAX_WINDOWS]
    length = windows(len(probabilities)) + draw(st.integers(0, WINDOW_SAMPLES - 1))
    moments = st.integers(1, max(length, 1))
    changes = draw(st.dictionaries(moments, any_settings(), max_size=2 if reconfigured else 0))
    return Plan(
        probabilities,
        length,
        frozenset(moment for moment in draw(st.sets(moments, max_size=3)) if moment <= length),
        {0: draw(any_settings())}
        | {moment: change for moment, change in changes.items() if moment <= length},
        draw(st.integers(1, 6)),
    )


PACKET_SIZES = st.lists(
    st.integers(1, 3 * WINDOW_SAMPLES) | st.just(WINDOW_SAMPLES) | st.just(40 * WINDOW_SAMPLES),
    max_size=15,
).map(lambda sizes: [*sizes, 2_000])
"""Ends with a large one, so that no stream comes in 100,000 packets."""


def packet_ends(sizes: Sequence[int], length: int) -> set[int]:
    """Borders of packets of these sizes, over and over."""
    ends: set[int] = set()
    end = 0
    while end < length:
        end += sizes[len(ends) % len(sizes)]
        ends.add(min(end, length))
    return ends


@settings(max_examples=50)
@given(any_plan(), PACKET_SIZES)
def test_every_sample_comes_out_exactly_once_and_in_order(plan: Plan, sizes: list[int]) -> None:
    events = plan.run(packet_ends(sizes, plan.length))

    audio = [event for event in events if isinstance(event, Audio)]
    out = np.concatenate([event.samples for event in audio] or [numbered(0, 0)])
    assert np.array_equal(out, numbered(0, plan.length))
    assert all(event.samples[0] == event.start for event in audio)


@settings(max_examples=50)
@given(any_plan(), PACKET_SIZES)
def test_outcome_does_not_depend_on_how_audio_was_cut_into_packets(
    plan: Plan, sizes: list[int]
) -> None:
    assert joined(plan.run(packet_ends(sizes, plan.length))) == joined(plan.run(set()))


@settings(max_examples=50)
@given(any_plan(reconfigured=False), PACKET_SIZES)
def test_speech_audio_of_a_turn_runs_from_its_pre_roll_to_its_end(
    plan: Plan, sizes: list[int]
) -> None:
    pre_roll = plan.settings[0].pre_roll_ms * 16
    free_from = 0
    turn: SpeechStarted | None = None
    spans: list[Span] = []
    for event in joined(plan.run(packet_ends(sizes, plan.length))):
        match event:
            case Span(speech=True):
                assert turn is not None, "speech outside a turn"
                spans.append(event)
            case Span():
                assert turn is None, "other audio inside a turn"
            case SpeechStarted(opens_turn=True):
                turn, spans = event, []
            case TurnEnded():
                assert turn is not None
                assert spans[0].start == max(free_from, turn.at - pre_roll)
                assert spans[-1].end >= event.at
                free_from, turn = spans[-1].end, None


@settings(max_examples=50)
@given(any_plan(reconfigured=False), PACKET_SIZES)
def test_client_that_marks_turns_gets_one_for_each_flush_and_no_pause(
    plan: Plan, sizes: list[int]
) -> None:
    manual = plan.settings[0].model_copy(update={"mode": EndpointingMode.MANUAL})
    found = replace(plan, settings={0: manual}).run(packet_ends(sizes, plan.length))
    events = joined([event for event in found if not isinstance(event, SegmentEnded)])

    borders = sorted({0, *plan.flushes, plan.length})
    spans = [event for event in events if isinstance(event, Span)]
    assert spans == [Span(*span, True) for span in pairwise(borders)]
    assert sum(isinstance(event, TurnEnded) for event in events) == len(spans)
    assert sum(isinstance(event, SpeechStarted) for event in events) == len(spans)
    assert not any(isinstance(event, SpeechPaused | TurnCheck) for event in events)


@settings(max_examples=50)
@given(any_plan(), PACKET_SIZES)
def test_a_cut_comes_when_all_audio_before_it_is_out(plan: Plan, sizes: list[int]) -> None:
    out = 0
    for event in plan.run(packet_ends(sizes, plan.length)):
        if isinstance(event, Audio):
            out = event.end
        elif isinstance(event, SegmentEnded | SpeechPaused | TurnEnded):
            assert event.at <= out


@settings(max_examples=50)
@given(any_plan(reconfigured=False), PACKET_SIZES)
def test_held_audio_is_bounded_by_the_pre_roll_and_three_windows(
    plan: Plan, sizes: list[int]
) -> None:
    settings = plan.settings[0]
    feed = Feed(plan.probabilities, settings)
    for end in sorted(packet_ends(sizes, plan.length)):
        feed.take(end)
        bound = 0 if feed.splitter.turn_open else settings.pre_roll_ms * 16 + 2 * WINDOW_SAMPLES
        assert feed.splitter.held_samples < bound + WINDOW_SAMPLES


@settings(max_examples=50)
@given(any_plan(), PACKET_SIZES)
def test_held_audio_is_what_went_in_and_has_not_come_out(plan: Plan, sizes: list[int]) -> None:
    feed = Feed(plan.probabilities, plan.settings[0])
    out = 0
    for end in sorted(packet_ends(sizes, plan.length)):
        feed.take(end)
        out += sum(len(event.samples) for event in feed.events if isinstance(event, Audio))
        feed.events.clear()
        assert feed.splitter.held_samples == feed.taken - out

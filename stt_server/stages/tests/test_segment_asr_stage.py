"""The ASR stage around a segment engine: what must hold for any speech, pace, engine and failure.

Sessions run in virtual time through the VAD stage, with scripted probabilities, and an engine that
knows when each word is said.
"""

import asyncio
import json
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stt_server.engine.base import EngineInfo, StreamOptions
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import (
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    Audio,
    Clear,
    Configure,
    Flush,
    Hypothesis,
    Samples,
    SegmentEnded,
    SpeechPaused,
    SpeechStarted,
    Stall,
    StreamError,
    StreamEvent,
    Transcript,
    TurnCheck,
    TurnEagerEnd,
    TurnEnded,
    TurnEndReason,
    Word,
)
from stt_server.pipeline import Progress
from stt_server.protocols.native import NativeCodec
from stt_server.protocols.native_config import Abilities
from stt_server.settings import DetectorName, EndpointingMode, EndpointingSettings, SessionOptions
from stt_server.stages.segment_asr import RECOGNITION_S, SegmentAsrStage
from stt_server.stages.tests.virtual_time import run
from stt_server.stages.vad import VadStage

SECOND = SAMPLE_RATE
WORD_WINDOWS = 10
"""A word takes 0.32 s."""
FOREVER_S = 1e6
PACKET = SECOND // 4


@dataclass
class Ear:
    """Hears every word of which more than half is in a piece. A `SegmentEngine`."""

    words: Sequence[Word]
    window_s: float = 40.0
    latency_s: float = 0.0
    """Time a call takes."""
    failing: frozenset[int] = frozenset()
    """Calls that fail when their time is over."""
    hanging: frozenset[int] = frozenset()
    error: type[TranscriptionError] | type[Overloaded] = TranscriptionError
    heard: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    options: list[StreamOptions] = field(default_factory=list[StreamOptions])
    busy: int = 0
    cancelled_at_s: list[float] = field(default_factory=list[float])

    info = EngineInfo(name="ear", summary="For tests.", capacity=1)

    @property
    def max_segment_samples(self) -> int:
        return round(self.window_s * SECOND)

    async def start(self) -> None: ...

    async def check(self) -> None: ...

    async def stop(self) -> None: ...

    async def transcribe(self, audio: Audio, options: StreamOptions) -> Transcript:
        call = len(self.heard)
        self.heard.append((audio.start, audio.end))
        self.options.append(options)
        self.busy += 1
        try:
            await asyncio.sleep(FOREVER_S if call in self.hanging else self.latency_s)
        except asyncio.CancelledError:
            self.cancelled_at_s.append(asyncio.get_running_loop().time())
            raise
        finally:
            self.busy -= 1
        if call in self.failing:
            raise self.error("the script says so")
        words = tuple(
            word for word in self.words if audio.start < (word.start + word.end) / 2 < audio.end
        )
        # Tells which call made a final.
        return Transcript(words, stable=len(words), confidence=call / 1_000)


class Probabilities:
    """Speech where the script says so. A `SpeechProbabilities`."""

    def __init__(self, is_speech: Sequence[bool]) -> None:
        self._is_speech = is_speech
        self._taken = 0

    async def push(self, samples: Samples) -> list[float]:
        before = self._taken // WINDOW_SAMPLES
        self._taken += len(samples)
        return [0.9 * each for each in self._is_speech[before : self._taken // WINDOW_SAMPLES]]

    def reset(self) -> None: ...


@dataclass(frozen=True)
class Speech:
    """Words and the silence between them, in windows of 32 ms."""

    is_speech: list[bool]
    words: list[Word]

    @classmethod
    def of(cls, *utterances: tuple[int, float]) -> "Speech":
        """Pairs of a number of words and seconds of silence after them."""
        is_speech = [False] * 20
        words: list[Word] = []
        for count, silence_s in utterances:
            for _ in range(count):
                start = len(is_speech) * WINDOW_SAMPLES
                end = start + WORD_WINDOWS * WINDOW_SAMPLES
                words.append(Word(f"w{len(words)}", start, end))
                is_speech += [True] * WORD_WINDOWS
            is_speech += [False] * round(silence_s * SECOND / WINDOW_SAMPLES)
        return cls(is_speech, words)

    @property
    def samples(self) -> int:
        return len(self.is_speech) * WINDOW_SAMPLES


@dataclass(frozen=True)
class Timed:
    """An event, and when it came out."""

    event: StreamEvent
    at_s: float


@dataclass(frozen=True)
class Outcome:
    """Everything that came out of a session, and what the VAD stage alone would have given."""

    out: list[Timed]
    vad: list[StreamEvent]
    progress: Progress

    @property
    def events(self) -> list[StreamEvent]:
        return [timed.event for timed in self.out]

    @property
    def texts(self) -> list[tuple[str, bool]]:
        return [(e.text, e.is_final) for e in self.events if isinstance(e, Hypothesis)]

    @property
    def finals(self) -> list[Hypothesis]:
        return [e for e in self.events if isinstance(e, Hypothesis) and e.is_final]

    @property
    def errors(self) -> list[StreamError]:
        return [e for e in self.events if isinstance(e, StreamError)]

    def when(self, wanted: Callable[[StreamEvent], bool]) -> float:
        return next(timed.at_s for timed in self.out if wanted(timed.event))


async def packets(
    speech: Speech, pace: float, inserts: dict[int, StreamEvent]
) -> AsyncIterator[StreamEvent]:
    """Audio in packets of a quarter of a second; `pace` is the wait for each second of it."""
    step = PACKET
    for number, start in enumerate(range(0, speech.samples, step)):
        if number in inserts:
            yield inserts[number]
        length = min(step, speech.samples - start)
        if pace:
            await asyncio.sleep(pace * length / SECOND)
        yield Audio(start, np.zeros(length, dtype=np.float32))


def session(
    speech: Speech,
    engine: Ear,
    options: SessionOptions | None = None,
    *,
    pace: float = 1.0,
    inserts: dict[int, StreamEvent] | None = None,
) -> Outcome:
    """Run a session to its end.

    Args:
        pace: 1 for a microphone, 0 for a file sent as fast as the server takes it.
        inserts: What comes ahead of which packet.
    """
    options = options or SessionOptions()
    inserts = inserts or {}

    async def main() -> Outcome:
        progress = Progress()
        clock = asyncio.get_running_loop().time

        def vad() -> VadStage:
            return VadStage(Probabilities(speech.is_speech), options.endpointing, progress)

        alone = [event async for event in vad().run(packets(speech, 0.0, inserts))]
        stage = SegmentAsrStage(engine, options, progress, clock=clock)
        out: list[Timed] = []
        async with aclosing(stage.run(vad().run(packets(speech, pace, inserts)))) as events:
            async for event in events:
                out.append(Timed(event, clock()))
        assert engine.busy == 0, "nothing may go on behind the end of a session"
        return Outcome(out, alone, progress)

    return run(main())


def turn_audio(outcome: Outcome) -> list[tuple[int, int]]:
    """First and last sample of the audio of each turn."""
    spans: list[tuple[int, int]] = []
    first: int | None = None
    last = 0
    for event in outcome.vad:
        if isinstance(event, Audio) and event.speech:
            first, last = event.start if first is None else first, event.end
        elif isinstance(event, TurnEnded):
            spans.append((first or 0, last))
            first = None
    return spans


def said(speech: Speech, span: tuple[int, int]) -> str:
    return " ".join(
        word.text for word in speech.words if span[0] < (word.start + word.end) / 2 < span[1]
    )


# What holds always

UTTERANCES = st.lists(
    st.tuples(st.sampled_from([1, 2, 5, 12, 30]), st.sampled_from([0.1, 0.35, 0.9, 1.8, 5.0])),
    min_size=1,
    max_size=6,
)
ENDPOINTING = st.builds(
    EndpointingSettings,
    mode=st.sampled_from(EndpointingMode),
    max_segment_s=st.sampled_from([2.0, 7.0, 20.0, 600.0]),
    silence_ms=st.sampled_from([700, 1_500, 5_000]),
    leading_silence_ms=st.sampled_from([0, 3_000]),
)
ENGINES = st.fixed_dictionaries(
    {
        "window_s": st.sampled_from([6.0, 15.0, 40.0]),
        "latency_s": st.sampled_from([0.0, 0.05, 0.5, 1.5, 2.0, 3.0]),
    }
)
FAILING = st.frozensets(st.integers(0, 12), max_size=6)
PACES = st.sampled_from([0.0, 0.2, 1.0])
INSERTS = st.dictionaries(
    st.integers(0, 100),
    st.sampled_from([Flush(), Stall(), Configure(SessionOptions(language="de"))]),
    max_size=4,
)


def check_order(outcome: Outcome) -> None:
    """All events but audio pass in order; each turn has interims, its end, one final."""
    passed = [e for e in outcome.events if not isinstance(e, Hypothesis | StreamError)]
    assert passed == [event for event in outcome.vad if not isinstance(event, Audio)]
    numbers = [final.turn for final in outcome.finals]
    assert numbers == list(range(sum(isinstance(e, TurnEnded) for e in passed)))
    is_open = False
    last_turn_end = 0
    for before, event in pairwise([None, *outcome.events]):
        match event:
            case SpeechStarted(opens_turn=True):
                is_open = True
            case TurnEnded():
                is_open = False
                last_turn_end = event.at
            case StreamError() if not is_open:
                assert isinstance(before, TurnEnded), "losses at the end are told at once"
            case Hypothesis(is_final=True):
                assert isinstance(before, TurnEnded | StreamError)
            case Hypothesis():
                assert is_open, "an interim outside its turn"
                assert event.words[0].end > last_turn_end, "words of the turn before"
            case _:
                pass


def check_stable(outcome: Outcome) -> None:
    interims = [e for e in outcome.events if isinstance(e, Hypothesis) and not e.is_final]
    for before, after in pairwise(interims):
        if before.turn == after.turn:
            assert after.text != before.text
            assert after.stable.startswith(before.stable)


@settings(max_examples=50)
@given(UTTERANCES, ENDPOINTING, ENGINES, PACES, INSERTS)
def test_every_turn_has_one_final_with_all_its_words(
    utterances: list[tuple[int, float]],
    endpointing: EndpointingSettings,
    engine: dict[str, float],
    pace: float,
    inserts: dict[int, StreamEvent],
) -> None:
    speech = Speech.of(*utterances)
    ear = Ear(speech.words, **engine)
    outcome = session(
        speech, ear, SessionOptions(endpointing=endpointing), pace=pace, inserts=inserts
    )
    check_order(outcome)
    check_stable(outcome)
    assert not outcome.errors
    assert all(end - start <= ear.max_segment_samples for start, end in ear.heard)
    assert [final.text for final in outcome.finals] == [
        said(speech, span) for span in turn_audio(outcome)
    ]
    for final, (start, end) in zip(outcome.finals, turn_audio(outcome), strict=True):
        if end - start <= ear.max_segment_samples:
            assert final.confidence is not None, "a turn that fits is recognised as a whole"
            first, last = ear.heard[round(final.confidence * 1_000)]
            assert first == start
            assert last >= final.end


@settings(max_examples=50)
@given(UTTERANCES, ENDPOINTING, ENGINES, PACES, FAILING, FAILING)
def test_failures_lose_no_event_and_no_word_without_being_told(
    utterances: list[tuple[int, float]],
    endpointing: EndpointingSettings,
    engine: dict[str, float],
    pace: float,
    failing: frozenset[int],
    hanging: frozenset[int],
) -> None:
    speech = Speech.of(*utterances)
    ear = Ear(speech.words, **engine, failing=failing, hanging=hanging)
    outcome = session(speech, ear, SessionOptions(endpointing=endpointing), pace=pace)
    check_order(outcome)
    check_stable(outcome)
    complete = [
        final.text == said(speech, span)
        for final, span in zip(outcome.finals, turn_audio(outcome), strict=True)
    ]
    assert all(complete) or outcome.errors


@settings(max_examples=20)
@given(UTTERANCES, ENDPOINTING, st.sampled_from([15.0, 40.0]))
def test_finals_do_not_depend_on_how_fast_the_engine_is(
    utterances: list[tuple[int, float]], endpointing: EndpointingSettings, window_s: float
) -> None:
    speech = Speech.of(*utterances)
    spans: list[list[tuple[int, int] | None]] = []
    for latency_s in (0.0, 0.3, 5.0):
        ear = Ear(speech.words, window_s=window_s, latency_s=latency_s)
        outcome = session(speech, ear, SessionOptions(endpointing=endpointing))
        spans.append(
            [
                None if final.confidence is None else ear.heard[round(final.confidence * 1_000)]
                for final in outcome.finals
            ]
        )
    assert spans[0] == spans[1] == spans[2]


# Interims


def test_pieces_grow_the_interim() -> None:
    outcome = session(Speech.of((4, 0.5), (4, 0.5), (4, 2.0)), ear := Ear([]))
    assert outcome.texts == [("", True)]
    speech = Speech.of((4, 0.5), (4, 0.5), (4, 2.0))
    outcome = session(speech, ear := Ear(speech.words, latency_s=0.1))
    names = [word.text for word in speech.words]
    assert outcome.texts == [
        (" ".join(names[:4]), False),
        (" ".join(names[:8]), False),
        (" ".join(names), False),
        (" ".join(names), True),
    ]
    # All of the turn lies within the overlap: the last piece is the final.
    assert len(ear.heard) == 3


def test_a_recognition_under_way_delays_no_event() -> None:
    speech = Speech.of((5, 0.5), (5, 0.5), (5, 2.0))
    slow = session(speech, Ear(speech.words, latency_s=2.0))
    fast = session(speech, Ear(speech.words))
    kinds = (SpeechStarted, SpeechPaused, SegmentEnded, TurnEnded)

    def times(outcome: Outcome) -> list[float]:
        return [timed.at_s for timed in outcome.out if isinstance(timed.event, kinds)]

    assert times(slow) == pytest.approx(times(fast))


def test_an_interim_comes_when_it_is_ready_without_further_audio() -> None:
    speech = Speech.of((5, 0.4))

    async def main() -> float:
        vad = VadStage(Probabilities(speech.is_speech), EndpointingSettings(), Progress())

        async def then_nothing() -> AsyncIterator[StreamEvent]:
            async for event in packets(speech, 1.0, {}):
                yield event
            await asyncio.sleep(60)

        stage = SegmentAsrStage(
            Ear(speech.words, latency_s=0.3), SessionOptions(), Progress(), clock=lambda: 0.0
        )
        async with aclosing(stage.run(vad.run(then_nothing()))) as events:
            async for event in events:
                if isinstance(event, Hypothesis):
                    return asyncio.get_running_loop().time()
        return FOREVER_S

    assert run(main()) <= speech.samples / SECOND + 0.31


def test_cuts_during_a_slow_recognition_become_one_piece() -> None:
    speech = Speech.of((6, 0.4), (6, 0.4), (6, 0.4), (6, 2.0))
    ear = Ear(speech.words, latency_s=5.0)
    outcome = session(speech, ear)
    cuts = [e.at for e in outcome.events if isinstance(e, SegmentEnded)]
    assert [end for _, end in ear.heard[:2]] == [cuts[0], cuts[2]]


def test_sessions_that_want_no_interims_are_recognised_once() -> None:
    speech = Speech.of((6, 0.4), (6, 0.4), (6, 2.0))
    ear = Ear(speech.words, latency_s=0.5)
    session(speech, ear, SessionOptions(interim_results=False))
    assert len(ear.heard) == 1


# The final


def test_a_final_found_in_the_pause_is_there_at_the_turns_end() -> None:
    speech = Speech.of((20, 0.5), (20, 2.0))
    outcome = session(speech, ear := Ear(speech.words, latency_s=0.4))
    ended = outcome.when(lambda event: isinstance(event, TurnEnded))
    final = outcome.when(lambda event: isinstance(event, Hypothesis) and event.is_final)
    assert final == ended
    assert ear.heard[-1][1] - ear.heard[-1][0] > 12 * SECOND


def test_a_final_begun_in_a_pause_is_dropped_when_speech_resumes() -> None:
    speech = Speech.of((5, 1.2), (5, 2.0))
    options = SessionOptions(interim_results=False)
    outcome = session(speech, ear := Ear(speech.words, latency_s=2.0), options)
    assert outcome.texts == [(said(speech, (0, speech.samples)), True)]
    assert len(ear.heard) == 2
    resumed_s = outcome.when(lambda e: isinstance(e, SpeechStarted) and not e.opens_turn)
    assert ear.cancelled_at_s == [resumed_s]


def test_a_short_answer_without_a_cut_is_ready_at_the_turns_end() -> None:
    speech = Speech.of((1, 2.0))
    outcome = session(speech, Ear(speech.words, latency_s=0.4))
    assert outcome.texts == [("w0", True)]
    ended = outcome.when(lambda event: isinstance(event, TurnEnded))
    assert outcome.when(lambda event: isinstance(event, Hypothesis)) == ended


def test_an_interim_under_way_does_not_hold_up_the_final() -> None:
    speech = Speech.of((30, 0.4), (12, 0.0))
    ear = Ear(speech.words, latency_s=3.0)
    outcome = session(speech, ear)
    ended = outcome.when(lambda event: isinstance(event, TurnEnded))
    final = outcome.when(lambda event: isinstance(event, Hypothesis) and event.is_final)
    assert final - ended == pytest.approx(3.0)


def test_a_failed_whole_falls_back_to_pieces() -> None:
    speech = Speech.of((20, 0.5), (20, 2.0))
    # Two pieces, the whole ahead of time, the whole again.
    ear = Ear(speech.words, latency_s=0.1, failing=frozenset({2, 3}))
    outcome = session(speech, ear)
    assert outcome.finals[0].text == said(speech, (0, speech.samples))
    assert outcome.finals[0].confidence is None
    assert not outcome.errors


def test_audio_that_cannot_be_recognised_is_told_once_and_the_next_turn_is_fine() -> None:
    speech = Speech.of((5, 2.0), (5, 2.0))
    outcome = session(speech, Ear(speech.words, failing=frozenset(range(3))))
    assert [type(event).__name__ for event in outcome.events] == [
        "SpeechStarted",
        "SpeechPaused",
        "SegmentEnded",
        "TurnEnded",
        "StreamError",
        "Hypothesis",
        "SpeechStarted",
        "SpeechPaused",
        "SegmentEnded",
        "Hypothesis",
        "TurnEnded",
        "Hypothesis",
    ]
    assert [final.text for final in outcome.finals] == ["", "w5 w6 w7 w8 w9"]


def test_an_engine_that_hangs_costs_its_turn_a_bounded_time() -> None:
    speech = Speech.of((5, 2.0))
    outcome = session(speech, Ear(speech.words, hanging=frozenset(range(9))))
    ended = outcome.when(lambda event: isinstance(event, TurnEnded))
    assert outcome.out[-1].at_s <= ended + RECOGNITION_S
    assert [error.code for error in outcome.errors] == ["TRANSCRIPTION_ERROR"]
    assert len(outcome.finals) == 1


def test_an_overloaded_engine_costs_interims_first() -> None:
    speech = Speech.of((20, 0.5), (20, 2.0))
    ear = Ear(speech.words, failing=frozenset({0, 1}), error=Overloaded)
    outcome = session(speech, ear)
    assert outcome.texts == [(said(speech, (0, speech.samples)), True)]


@pytest.mark.parametrize("error", [TranscriptionError, Overloaded])
def test_an_engine_that_cannot_make_the_final_leaves_what_was_heard_so_far(
    error: type[TranscriptionError] | type[Overloaded],
) -> None:
    speech = Speech.of((20, 0.5), (20, 2.0), (5, 2.0))
    # The second piece, the whole ahead of time, the whole and the rest of it at the turn's end.
    ear = Ear(speech.words, latency_s=0.1, failing=frozenset({1, 2, 3, 4}), error=error)
    outcome = session(speech, ear)
    texts = [final.text for final in outcome.finals]
    names = [word.text for word in speech.words]
    assert texts == [" ".join(names[:20]), " ".join(names[40:])]
    assert [told.code for told in outcome.errors] == ["TRANSCRIPTION_ERROR"]


class Away(Ear):
    """Fails at once for half a second from the turn's end on."""

    away_s: tuple[float, float] = (0.0, 0.0)

    async def transcribe(self, audio: Audio, options: StreamOptions) -> Transcript:
        if self.away_s[0] <= asyncio.get_running_loop().time() < self.away_s[1]:
            raise self.error("restarting")
        return await super().transcribe(audio, options)


@pytest.mark.parametrize("error", [TranscriptionError, Overloaded])
@pytest.mark.parametrize("segment_finals", [False, True])
def test_an_engine_that_fails_at_once_for_a_moment_loses_no_word(
    error: type[TranscriptionError] | type[Overloaded], segment_finals: bool
) -> None:
    speech = Speech.of((40, 0.4), (20, 0.0))
    ear = Away(speech.words, error=error)
    ear.away_s = (speech.samples / SECOND, speech.samples / SECOND + 0.5)
    outcome = session(speech, ear, SessionOptions(segment_finals=segment_finals))
    assert [final.text for final in outcome.finals] == [said(speech, (0, speech.samples))]
    assert not outcome.errors


def test_finish_in_mid_word_transcribes_everything() -> None:
    speech = Speech.of((20, 0.4), (20, 0.0))
    outcome = session(speech, Ear(speech.words, latency_s=5.0), pace=0.0)
    ends = [event for event in outcome.events if isinstance(event, TurnEnded)]
    assert [ended.reason for ended in ends] == [TurnEndReason.FINISH]
    assert outcome.finals[0].text == said(speech, (0, speech.samples))
    assert outcome.progress.done == speech.samples


# Long turns


def test_a_turn_longer_than_the_window_is_stitched() -> None:
    speech = Speech.of(*[(20, 0.4)] * 9, (20, 2.0))
    ear = Ear(speech.words, latency_s=0.2)
    outcome = session(speech, ear)
    assert outcome.finals[0].text == said(speech, (0, speech.samples))
    assert outcome.finals[0].confidence is None
    seconds = sum(end - start for start, end in ear.heard) / SECOND
    assert seconds < 3 * speech.samples / SECOND, "the cost does not grow with the turn"


def test_reading_waits_when_the_engine_is_far_behind() -> None:
    speech = Speech.of(*[(20, 0.4)] * 30, (1, 2.0))
    read = 0

    async def main() -> list[int]:
        vad = VadStage(Probabilities(speech.is_speech), EndpointingSettings(), Progress())

        async def counted() -> AsyncIterator[StreamEvent]:
            nonlocal read
            async for event in packets(speech, 0.0, {}):
                read = event.end if isinstance(event, Audio) else read
                yield event

        ear = Ear(speech.words, latency_s=10.0)
        stage = SegmentAsrStage(ear, SessionOptions(), Progress(), clock=lambda: 0.0)
        ahead: list[int] = []
        async with aclosing(stage.run(vad.run(counted()))) as events:
            async for event in events:
                if isinstance(event, Hypothesis) and not event.is_final:
                    ahead.append(read - event.end)
        return ahead

    ahead = run(main())
    assert len(ahead) > 3
    assert max(ahead) < 2 * 40 * SECOND + SECOND


def test_audio_of_a_long_turn_that_cannot_be_heard_is_told_while_it_goes_on() -> None:
    speech = Speech.of(*[(20, 0.4)] * 30, (1, 2.0))
    outcome = session(speech, Ear(speech.words, failing=frozenset(range(12))))
    first = next(i for i, e in enumerate(outcome.events) if isinstance(e, StreamError))
    assert first < next(i for i, e in enumerate(outcome.events) if isinstance(e, TurnEnded))
    assert outcome.finals[0].text


def test_several_losses_at_the_end_of_a_turn_are_told_once() -> None:
    speech = Speech.of((30, 0.4), (30, 2.0))
    ear = Ear(speech.words, window_s=6.0, latency_s=1.0, failing=frozenset(range(99)))
    outcome = session(speech, ear, pace=0.0)
    check_order(outcome)
    assert outcome.finals[0].text == ""


# Options


def test_options_count_from_the_next_turn_on() -> None:
    speech = Speech.of((6, 0.5), (6, 2.0), (6, 2.0))
    ear = Ear(speech.words, latency_s=0.1)
    session(speech, ear, inserts={12: Configure(SessionOptions(language="de"))})
    languages = [options.language for options in ear.options]
    assert languages == [None, None, "de"]


def test_words_of_one_turn_are_not_shown_in_the_next() -> None:
    speech = Speech.of((5, 1.6), (5, 2.0))
    outcome = session(speech, Ear(speech.words, latency_s=2.0))
    assert [final.text for final in outcome.finals] == [
        "w0 w1 w2 w3 w4",
        "w5 w6 w7 w8 w9",
    ]


def test_cleared_turn_is_heard_no_further_and_has_no_final() -> None:
    speech = Speech.of((8, 0.5), (2, 2.0), (5, 2.0))
    ear = Ear(speech.words, latency_s=2.0)
    cleared_s = speech.words[9].end / SECOND
    outcome = session(speech, ear, inserts={int(cleared_s * SECOND) // PACKET + 1: Clear()})

    assert [final.text for final in outcome.finals] == ["w10 w11 w12 w13 w14"]
    assert ear.cancelled_at_s


@pytest.mark.parametrize(("latency_s", "silence_s"), [(2.0, 6.0), (2.4, 5.1), (3.0, 6.0)])
def test_what_was_heard_ahead_of_the_end_serves_as_a_piece_and_stays_in_its_turn(
    latency_s: float, silence_s: float
) -> None:
    # Too short for a cut: heard ahead of the end, and cut off once the silence is long.
    speech = Speech.of((2, silence_s), (2, 6.0))
    ear = Ear(speech.words, latency_s=latency_s)
    options = SessionOptions(endpointing=EndpointingSettings(silence_ms=5_000))
    outcome = session(speech, ear, options)
    check_order(outcome)
    assert [final.text for final in outcome.finals] == ["w0 w1", "w2 w3"]
    assert len(ear.heard) == 2


def test_a_piece_that_is_being_heard_when_the_final_is_ready_is_dropped() -> None:
    # The last word has no cut of its own: heard ahead with all of the turn, then as a piece.
    speech = Speech.of((20, 0.5), (1, 5.1), (5, 6.0))
    ear = Ear(speech.words, latency_s=2.2)
    options = SessionOptions(endpointing=EndpointingSettings(silence_ms=5_000))
    outcome = session(speech, ear, options)
    check_order(outcome)
    assert len(ear.cancelled_at_s) == 1
    assert [len(final.words) for final in outcome.finals] == [21, 5]


def test_a_recognition_under_way_gives_nothing_after_the_answer_to_a_configuration() -> None:
    speech = Speech.of((6, 0.5), (6, 0.5), (6, 2.0))
    configure = Configure(SessionOptions())
    # Between the first two cuts, while the first piece is being heard.
    outcome = session(speech, Ear(speech.words, latency_s=1.5), inserts={14: configure})
    answered = outcome.events.index(configure)
    cuts = [event.at for event in outcome.events if isinstance(event, SegmentEnded)]
    assert isinstance(outcome.events[answered - 1], SpeechStarted | SegmentEnded)
    later = [event for event in outcome.events[answered:] if isinstance(event, Hypothesis)]
    assert all(hypothesis.end > cuts[0] for hypothesis in later)
    assert outcome.finals[0].text == said(speech, (0, speech.samples))


def test_a_final_is_found_ahead_of_the_end_although_its_piece_was_postponed() -> None:
    speech = Speech.of((6, 2.0))
    # In the pause, while the piece that is the whole turn is being heard.
    inserts: dict[int, StreamEvent] = {13: Configure(SessionOptions())}
    outcome = session(speech, ear := Ear(speech.words, latency_s=0.5), inserts=inserts)
    assert len(ear.cancelled_at_s) == 1
    ended = outcome.when(lambda event: isinstance(event, TurnEnded))
    final = outcome.when(lambda event: isinstance(event, Hypothesis) and event.is_final)
    assert final == ended


def test_audio_of_a_turn_is_not_kept_behind_its_final() -> None:
    kept: list[weakref.ref[Samples]] = []

    async def turn() -> AsyncIterator[StreamEvent]:
        yield SpeechStarted(0, opens_turn=True)
        samples = np.zeros(5 * SECOND, dtype=np.float32)
        kept.append(weakref.ref(samples))
        yield Audio(0, samples, speech=True)
        del samples
        yield TurnEnded(5 * SECOND, TurnEndReason.FLUSH)
        await asyncio.sleep(60)

    async def main() -> bool:
        stage = SegmentAsrStage(Ear([]), SessionOptions(), Progress(), clock=lambda: 0.0)
        async with aclosing(stage.run(turn())) as events:
            async for event in events:
                if isinstance(event, Hypothesis):
                    break
            return kept[0]() is None

    assert run(main())


# Finals of pieces


class SecondThoughts(Ear):
    """Writes the first word as two once it hears much at once."""

    async def transcribe(self, audio: Audio, options: StreamOptions) -> Transcript:
        transcript = await super().transcribe(audio, options)
        words = transcript.words
        if audio.end - audio.start > 16 * SECOND and words:
            first = words[0]
            words = (replace(first, text="well"), first, *words[1:])
        return replace(transcript, words=words, stable=len(words))


def segments(outcome: Outcome, options: SessionOptions) -> list[dict[str, object]]:
    """What a client of the native protocol gets."""
    codec = NativeCodec(
        session_id="s",
        defaults=options,
        abilities=Abilities(models=frozenset({"m"})),
        max_audio_bytes=1 << 20,
        query={},
    )
    for event in outcome.events:
        if isinstance(event, Configure):
            finals = event.options.segment_finals
            codec.decode(json.dumps({"type": "config", "segmentFinals": finals}))
    messages = [json.loads(str(m)) for event in outcome.events for m in codec.encode(event)]
    return [message for message in messages if "text" in message]


def check_pieces(sent: list[dict[str, object]], speech: Speech) -> None:
    """There are pieces, and with the final they give every word once."""
    finals = [message for message in sent if message["isFinal"]]
    assert any(not message["isEndOfTurn"] for message in finals)
    text = " ".join(str(message["text"]) for message in finals).split()
    assert text == [word.text for word in speech.words]


@pytest.mark.parametrize("is_long", [False, True])
def test_pieces_and_the_final_of_their_turn_give_every_word_once(is_long: bool) -> None:
    speech = Speech.of(*[(20, 0.5)] * (18 if is_long else 2), (20, 2.0))
    options = SessionOptions(segment_finals=True)
    ear = (Ear if is_long else SecondThoughts)(speech.words, latency_s=0.1)
    check_pieces(segments(session(speech, ear, options), options), speech)


def test_pieces_that_are_asked_for_in_the_middle_of_a_turn_do_not_repeat_words() -> None:
    speech = Speech.of((20, 0.5), (20, 0.5), (12, 2.0))
    # Before the second cut; and off again before the end.
    inserts: dict[int, StreamEvent] = {
        45: Configure(SessionOptions(segment_finals=True)),
        76: Configure(SessionOptions(segment_finals=False)),
    }
    outcome = session(speech, SecondThoughts(speech.words, latency_s=0.1), inserts=inserts)
    check_pieces(segments(outcome, SessionOptions()), speech)


def test_a_turn_of_which_no_word_is_final_is_recognised_as_a_whole() -> None:
    speech = Speech.of((6, 0.5), (6, 2.0))
    options = SessionOptions(segment_finals=True)
    outcome = session(speech, Ear(speech.words, latency_s=0.1), options)
    assert outcome.finals[0].confidence is not None


def test_a_session_that_is_cut_off_cancels_its_recognition() -> None:
    speech = Speech.of((5, 0.5), (5, 0.0))
    ear = Ear(speech.words, latency_s=60.0)

    async def main() -> int:
        vad = VadStage(Probabilities(speech.is_speech), EndpointingSettings(), Progress())

        async def consume() -> None:
            stage = SegmentAsrStage(ear, SessionOptions(), Progress(), clock=lambda: 0.0)
            async with aclosing(stage.run(vad.run(packets(speech, 1.0, {})))) as events:
                async for _ in events:
                    pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(3.0)
        busy = ear.busy
        task.cancel()
        await asyncio.wait([task])
        assert ear.busy == 0
        return busy

    assert run(main()) == 1


def test_eager_ends_and_checks_for_detectors_go_no_further() -> None:
    endpointing = EndpointingSettings(eager=True, detector=DetectorName.SMART_TURN)
    silence = EndpointingSettings(eager=True)
    for chosen in (endpointing, silence):
        speech = Speech.of((5, 0.9), (5, 2.0))
        outcome = session(speech, Ear(speech.words), SessionOptions(endpointing=chosen))

        assert any(isinstance(event, TurnCheck | TurnEagerEnd) for event in outcome.vad)
        assert not [e for e in outcome.events if isinstance(e, TurnCheck | TurnEagerEnd)]


def test_final_tells_how_much_of_the_turn_was_heard() -> None:
    speech = Speech.of((5, 2.0), (30, 2.0))
    outcome = session(speech, Ear(speech.words, window_s=6.0))

    spans = turn_audio(outcome)
    assert [final.audio_samples for final in outcome.finals] == [b - a for a, b in spans]

"""What clients may rely on about turns, for any speech, any judgement and any cut into packets.

Sessions run through the VAD stage and the streaming ASR stage, one inside the other or each in its
own task, with scripted probabilities and the scripted engine.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stt_server.engine.base import SpeculativeStream, StreamOptions, TurnDetector
from stt_server.engine.detectors import SideModelDetector
from stt_server.engine.fake import WORD_SAMPLES, Script, ScriptedEngine
from stt_server.errors import TranscriptionError
from stt_server.events import (
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    Audio,
    Configure,
    Flush,
    Hypothesis,
    Samples,
    SpeechStarted,
    Stall,
    StreamError,
    StreamEvent,
    Transcript,
    TurnEagerEnd,
    TurnEnded,
    TurnEndReason,
    TurnResumed,
    Word,
)
from stt_server.pipeline import Channel, Pipeline, Progress
from stt_server.settings import DetectorName, EndpointingSettings, SessionOptions
from stt_server.stages.asr import StreamingAsrStage
from stt_server.stages.tests.fake_detector import FakeDetector
from stt_server.stages.tests.virtual_time import run
from stt_server.stages.vad import VadStage
from stt_server.stages.verdict import Verdict

WORDS = ("yes", "so", "well", "no", "stop")


class Probabilities:
    """Scripted ones. A `SpeechProbabilities`."""

    def __init__(self, levels: Sequence[float]) -> None:
        self._levels = levels
        self._taken = 0

    async def push(self, samples: Samples) -> list[float]:
        before = self._taken // WINDOW_SAMPLES
        self._taken += len(samples)
        return list(self._levels[before : self._taken // WINDOW_SAMPLES])

    def reset(self) -> None: ...


@dataclass
class WildStream:
    """Guesses: its last word is another one with every push and in pauses, it goes on guessing in
    silence, and some of its calls fail. A `SpeculativeStream`."""

    failing: frozenset[int] = frozenset()
    """By the number of the call."""
    calls: int = 0
    heard: int = 0
    in_pause: int = 0
    paused: bool = False

    def _call(self) -> None:
        self.calls += 1
        if self.calls in self.failing:
            self.heard, self.in_pause, self.paused = 0, 0, False
            raise TranscriptionError("the plan says so")

    def _guess(self, last: str, ends_turn: float | None = None) -> Transcript:
        count = self.heard // WORD_SAMPLES
        texts = [*WORDS[:1] * count, last] if count else []
        words = tuple(Word(text, 0, 0) for text in texts)
        return Transcript(words, stable=len(words) if self.paused else count, ends_turn=ends_turn)

    async def push(self, audio: Audio) -> Transcript:
        self._call()
        if self.paused:
            self.in_pause += len(audio.samples)
        else:
            self.heard += len(audio.samples)
        return self._guess(f"guess{self.calls}")

    async def pause(self) -> Transcript:
        self._call()
        self.paused = True
        return self._guess(f"paused{self.calls}", (self.in_pause // 1_000 % 10) / 10)

    async def resume(self) -> None:
        self._call()
        self.heard, self.in_pause, self.paused = self.heard + self.in_pause, 0, False

    async def end_turn(self) -> Transcript:
        self._call()
        transcript = self._guess(f"end{self.calls}")
        self.heard, self.in_pause, self.paused = 0, 0, False
        return transcript

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Plan:
    """One session: what is said, who judges it how, and what the client asks for where."""

    levels: Sequence[float]
    options: SessionOptions
    script: Script = field(default_factory=Script)
    judgements: Sequence[float | None] = (None,)
    """Of the detector that hears the audio: which one depends on how far the stream is."""
    has_side_model: bool = False
    failing_calls: frozenset[int] | None = None
    """Of a `WildStream`; None: the scripted engine hears the session."""
    requests: dict[int, StreamEvent] = field(default_factory=dict[int, StreamEvent])
    """By the sample before which they come."""

    @property
    def length(self) -> int:
        return len(self.levels) * WINDOW_SAMPLES

    def events(self, packet_sizes: Sequence[int]) -> list[StreamEvent]:
        """Packets of these sizes, over and over, with the requests between them."""
        borders = {0, self.length} | {at for at in self.requests if at < self.length}
        end = 0
        while end < self.length:
            end += packet_sizes[len(borders) % len(packet_sizes)]
            borders.add(min(end, self.length))
        out: list[StreamEvent] = []
        places = sorted(borders)
        for start, stop in pairwise(places):
            out += [self.requests[start]] if start in self.requests else []
            out.append(Audio(start, np.zeros(stop - start, dtype=np.float32)))
        return out

    def _judge(self, position: int) -> float | None:
        return self.judgements[position // WINDOW_SAMPLES % len(self.judgements)]

    def stages(self, progress: Progress) -> tuple[VadStage, StreamingAsrStage]:
        engine = ScriptedEngine(self.script)
        verdict = Verdict()
        calls = self.failing_calls

        async def open_stream(options: StreamOptions) -> SpeculativeStream:
            return await engine.open(options) if calls is None else WildStream(calls)

        def eou() -> TurnDetector:
            return SideModelDetector(engine) if self.has_side_model else verdict

        vad = VadStage(
            Probabilities(self.levels),
            self.options.endpointing,
            progress,
            turn_detectors={
                DetectorName.EOU: eou,
                DetectorName.SMART_TURN: lambda: FakeDetector(self._judge),
            },
        )
        asr = StreamingAsrStage(
            open_stream, self.options, progress, clock=lambda: 0.0, verdict=verdict
        )
        return vad, asr

    def outcome(self, packet_sizes: Sequence[int] = (3_200,)) -> list[StreamEvent]:
        """What comes out with one stage inside the other."""

        async def source() -> AsyncIterator[StreamEvent]:
            for event in self.events(packet_sizes):
                yield event

        async def main() -> list[StreamEvent]:
            vad, asr = self.stages(Progress())
            return [event async for event in asr.run(vad.run(source()))]

        return run(main())

    def outcome_of_tasks(self) -> list[StreamEvent]:
        """What comes out of a pipeline, given everything at once."""

        async def main() -> list[StreamEvent]:
            vad, asr = self.stages(Progress())
            inputs: Channel[StreamEvent] = Channel(1_000.0)
            outputs: Channel[StreamEvent] = Channel(1_000.0)
            inputs.close(*self.events([SAMPLE_RATE // 2]))
            await Pipeline([vad, asr]).run(inputs, outputs, bound_s=2.0)
            outputs.close()
            return [event async for event in outputs]

        return run(main())


UTTERANCES = st.lists(
    st.tuples(st.integers(2, 30), st.sampled_from([0.0, 0.0, 0.4]), st.integers(1, 45)),
    min_size=1,
    max_size=5,
)
"""Windows of speech, what the detector hears behind them, and for how many windows."""
LEVELS = UTTERANCES.map(
    lambda utterances: [
        level
        for speech, quiet, gap in utterances
        for level in [*[0.9] * speech, 0.0, *[quiet] * gap]
    ]
)
SURENESS = st.none() | st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.9])
ENDPOINTING = st.builds(
    EndpointingSettings,
    detector=st.sampled_from(DetectorName),
    eager=st.sampled_from([True, True, False]),
    turn_threshold=st.sampled_from([0.3, 0.5, 0.8]),
    eager_threshold=st.sampled_from([0.0, 0.3, 0.5]),
    small_gap_ms=st.integers(64, 400),
    check_ms=st.integers(32, 200),
    silence_ms=st.integers(200, 1_200),
    pre_roll_ms=st.integers(0, 400),
)
OPTIONS = st.builds(SessionOptions, endpointing=ENDPOINTING)
SCRIPTS = st.builds(
    Script,
    words=st.just(WORDS),
    late_words=st.integers(0, 3),
    turn_ends=st.dictionaries(st.sampled_from(WORDS), st.sampled_from([0.2, 0.4, 0.6, 0.9])),
    turn_end_s=st.sampled_from([0.0, 0.1, 0.3]),
    failing_turns=st.sampled_from([frozenset[int](), frozenset({0, 1})]),
)
REQUESTS = st.just(Flush()) | st.just(Stall()) | OPTIONS.map(Configure)
PLANS = st.builds(
    Plan,
    LEVELS,
    OPTIONS,
    SCRIPTS,
    st.lists(SURENESS, min_size=1, max_size=6),
    st.booleans(),
    st.none() | st.just(frozenset[int]()) | st.frozensets(st.integers(1, 40), max_size=4),
    st.dictionaries(st.integers(0, 60_000), REQUESTS, max_size=2),
)
PACKET_SIZES = st.lists(st.integers(200, 30_000), min_size=1, max_size=6)


class Turns:
    """Checks the rules over one session's events, in order."""

    def __init__(self) -> None:
        self.count = 0
        self._is_open = False
        self._ended: TurnEnded | None = None
        self._eager: str | None = None
        self._shown = self._stable = ""

    def see(self, event: StreamEvent) -> None:
        if self._ended is not None:
            assert isinstance(event, Hypothesis | StreamError)
        match event:
            case SpeechStarted(opens_turn=True):
                assert not self._is_open
                self._is_open, self._shown, self._stable = True, "", ""
            case SpeechStarted():
                assert self._eager is None, "a resume comes before all else"
            case TurnEagerEnd(text=text):
                assert self._is_open
                assert self._eager is None
                assert text
                assert text == self._shown
                self._eager = text
            case TurnResumed():
                assert self._eager is not None
                self._eager = None
            case TurnEnded():
                assert self._is_open
                self._ended = event
            case Hypothesis(is_final=True):
                self._close(event)
            case Hypothesis():
                assert self._is_open
                assert self._eager is None, "the text changes without a resume"
                assert event.turn == self.count
                assert event.text.startswith(self._stable)
                assert event.stable.startswith(self._stable)
                self._shown, self._stable = event.text, event.stable
            case _:
                pass

    def _close(self, final: Hypothesis) -> None:
        assert self._ended is not None, "a final follows the end of its turn"
        assert final.turn == self.count
        assert final.text.startswith(self._stable)
        if self._eager is not None:
            assert final.text == self._eager
        self.count += 1
        self._is_open, self._ended, self._eager = False, None, None

    def finish(self) -> None:
        assert not self._is_open


@settings(max_examples=150)
@given(PLANS, PACKET_SIZES)
def test_turns_keep_all_their_rules(plan: Plan, sizes: list[int]) -> None:
    turns = Turns()
    for event in plan.outcome(sizes):
        turns.see(event)
    turns.finish()


def essence(events: Sequence[StreamEvent]) -> list[StreamEvent]:
    """All but interims: how many there are depends on packets."""
    return [event for event in events if not isinstance(event, Hypothesis) or event.is_final]


@settings(max_examples=75)
@given(PLANS, PACKET_SIZES)
def test_turns_do_not_depend_on_packets_or_pace(plan: Plan, sizes: list[int]) -> None:
    steady = Script(plan.script.words, turn_ends=plan.script.turn_ends)
    # Where the engine fails depends on packets, and so does what a client asks for between them.
    plan = Plan(plan.levels, plan.options, steady, plan.judgements, plan.has_side_model)

    whole = essence(plan.outcome([1_000_000]))
    assert essence(plan.outcome(sizes)) == whole
    assert essence(plan.outcome_of_tasks()) == whole


@given(PLANS, PACKET_SIZES)
def test_every_turn_with_audio_for_a_word_has_a_word(plan: Plan, sizes: list[int]) -> None:
    script = Script(WORDS, late_words=plan.script.late_words, turn_ends=plan.script.turn_ends)
    # What a pause comes behind must be enough for a word of the engine.
    long_enough = plan.options.endpointing.model_copy(
        update={"pre_roll_ms": 300, "small_gap_ms": 300}
    )
    plan = Plan(plan.levels, SessionOptions(endpointing=long_enough), script, plan.judgements)

    for event in plan.outcome(sizes):
        if isinstance(event, Hypothesis) and event.audio_samples >= WORD_SAMPLES:
            assert event.text


# Examples


def options(**endpointing: object) -> SessionOptions:
    return SessionOptions(endpointing=EndpointingSettings.model_validate(endpointing))


def finals(events: Sequence[StreamEvent]) -> list[tuple[TurnEndReason, float | None, str]]:
    ended: TurnEnded | None = None
    out: list[tuple[TurnEndReason, float | None, str]] = []
    for event in events:
        if isinstance(event, TurnEnded):
            ended = event
        elif isinstance(event, Hypothesis) and event.is_final:
            assert ended is not None
            out.append((ended.reason, ended.confidence, event.text))
    return out


SHORT_YES = [*[0.0] * 20, *[0.9] * 4, *[0.0] * 60]
"""One word of 128 ms between silences."""
SURE = Script(("yes",), turn_ends={"yes": 0.9})


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize(
    ("detector", "reason"),
    [
        ("silence", TurnEndReason.SILENCE),
        ("eou", TurnEndReason.MODEL_EOU),
        ("smart-turn", TurnEndReason.TURN_MODEL),
    ],
)
def test_a_short_yes_always_arrives(detector: str, reason: TurnEndReason, eager: bool) -> None:
    plan = Plan(SHORT_YES, options(detector=detector, eager=eager), SURE, judgements=[0.9])

    ended = finals(plan.outcome_of_tasks())

    assert [reason for reason, _, _ in ended] == [reason]
    assert ended[0][2].startswith("yes")


TWICE = [*[0.9] * 20, *[0.0] * 20, *[0.9] * 20, *[0.0] * 50]
"""Speech, a pause that ends nothing by itself, speech, silence."""


@pytest.mark.parametrize("has_side_model", [False, True])
def test_the_models_own_mark_ends_turns(has_side_model: bool) -> None:
    plan = Plan(TWICE, options(detector="eou"), SURE, has_side_model=has_side_model)

    ended = finals(plan.outcome())

    assert [(reason, confidence) for reason, confidence, _ in ended] == [
        (TurnEndReason.MODEL_EOU, 0.9)
    ] * 2


def test_mark_that_needs_more_silence_ends_the_turn_at_a_later_check() -> None:
    patient = Script(("yes",), turn_ends={"yes": 0.9}, turn_end_s=0.3)
    plan = Plan([*[0.9] * 20, *[0.0] * 60], options(detector="eou"), patient)

    assert [reason for reason, _, _ in finals(plan.outcome())] == [TurnEndReason.MODEL_EOU]


def test_eager_end_is_withdrawn_and_made_again() -> None:
    events = Plan(TWICE, options(eager=True)).outcome()

    kinds = [
        type(event) for event in events if isinstance(event, TurnEagerEnd | TurnResumed | TurnEnded)
    ]
    assert kinds == [TurnEagerEnd, TurnResumed, TurnEagerEnd, TurnEnded]


@pytest.mark.parametrize("request_", [Flush(), Stall()])
@pytest.mark.parametrize("at_window", [0, 10, 32, 70, 109])
def test_turn_may_be_ended_from_outside_at_any_time(request_: StreamEvent, at_window: int) -> None:
    """With no turn open, in speech, in a pause with its eager end told, in the last silence."""
    plan = Plan(TWICE, options(eager=True), requests={at_window * WINDOW_SAMPLES: request_})
    turns = Turns()
    events = plan.outcome()
    for event in events:
        turns.see(event)
    turns.finish()

    assert sum(isinstance(event, Flush) for event in events) == isinstance(request_, Flush)
    assert turns.count == (2 if at_window in (10, 32) else 1)

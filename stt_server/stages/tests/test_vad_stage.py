"""The VAD stage: a list of events in, with scripted probabilities, and the list that comes out."""

from collections.abc import AsyncGenerator, Sequence

import numpy as np
import pytest

from stt_server.engine.fake import ScriptedEngine
from stt_server.events import (
    WINDOW_SAMPLES,
    Audio,
    Clear,
    Configure,
    Flush,
    Samples,
    SpeechPaused,
    SpeechStarted,
    Stall,
    StreamEvent,
    TurnCheck,
    TurnEagerEnd,
    TurnEnded,
    TurnEndReason,
)
from stt_server.metrics import Metrics
from stt_server.pipeline import Progress
from stt_server.settings import (
    DetectorName,
    EndpointingMode,
    EndpointingSettings,
    SessionOptions,
)
from stt_server.stages.asr import StreamingAsrStage
from stt_server.stages.tests.fake_detector import FakeDetector
from stt_server.stages.vad import VadStage

SPEECH, SILENCE = 0.9, 0.0
ENDPOINTING = EndpointingSettings(silence_ms=100, small_gap_ms=64, pre_roll_ms=0)
"""A pause is told after 2 windows and a turn ends after 4."""


class ScriptedDetector:
    """Gives the next probabilities of a list. A `SpeechProbabilities`."""

    def __init__(self, probabilities: Sequence[float]) -> None:
        self._probabilities = list(probabilities)
        self._taken = 0
        self.resets = 0

    async def push(self, samples: Samples) -> list[float]:
        before = self._taken // WINDOW_SAMPLES
        self._taken += len(samples)
        return self._probabilities[before : self._taken // WINDOW_SAMPLES]

    def reset(self) -> None:
        self.resets += 1


class BrokenDetector:
    async def push(self, samples: Samples) -> list[float]:
        raise RuntimeError("no detector")

    def reset(self) -> None:
        raise RuntimeError("no detector")


async def stream(*events: StreamEvent) -> AsyncGenerator[StreamEvent]:
    for event in events:
        yield event


def audio(*, windows: int, start: int = 0) -> Audio:
    return Audio(start * WINDOW_SAMPLES, np.zeros(windows * WINDOW_SAMPLES, dtype=np.float32))


def at(windows: int) -> int:
    return windows * WINDOW_SAMPLES


def brief(event: StreamEvent) -> object:
    """Audio by its borders: arrays cannot be compared with `==`."""
    return (event.start, event.end, event.speech) if isinstance(event, Audio) else event


async def outcome(
    probabilities: Sequence[float], *events: StreamEvent, progress: Progress | None = None
) -> list[object]:
    stage = VadStage(ScriptedDetector(probabilities), ENDPOINTING, progress or Progress())
    return [brief(event) async for event in stage.run(stream(*events))]


async def test_speech_becomes_a_turn() -> None:
    probabilities = [SILENCE, SPEECH, *[SILENCE] * 6]

    assert await outcome(probabilities, audio(windows=8)) == [
        (0, at(1), False),
        SpeechStarted(at(1), opens_turn=True),
        (at(1), at(4), True),
        SpeechPaused(at(2)),
        (at(4), at(6), True),
        TurnEnded(at(2), TurnEndReason.SILENCE),
        (at(6), at(8), False),
    ]


async def test_end_of_input_finishes_the_open_turn() -> None:
    out = await outcome([SPEECH] * 2, audio(windows=2))

    assert out[-1] == TurnEnded(at(2), TurnEndReason.FINISH)


async def test_end_of_input_gives_held_audio_out() -> None:
    assert await outcome([], Audio(0, np.zeros(100, dtype=np.float32))) == [(0, 100, False)]


async def test_flush_ends_the_turn_and_is_passed_on_behind_it() -> None:
    out = await outcome([SPEECH] * 2, audio(windows=2), Flush())

    assert out[-2:] == [TurnEnded(at(2), TurnEndReason.FLUSH), Flush()]


async def test_flush_tells_the_reason_it_was_sent_with() -> None:
    out = await outcome([SPEECH] * 2, audio(windows=2), Flush(reason=TurnEndReason.COMMIT))

    assert TurnEnded(at(2), TurnEndReason.COMMIT) in out


async def test_cleared_turn_has_no_end() -> None:
    progress = Progress()
    out = await outcome([SPEECH] * 2, audio(windows=2), Clear(), progress=progress)

    assert out == [SpeechStarted(0, opens_turn=True), (0, at(2), True), Clear(at(2))]
    assert not progress.turn_open


async def test_clear_without_a_turn_gives_the_held_audio_out_and_is_passed_on() -> None:
    assert await outcome([], Audio(0, np.zeros(100, dtype=np.float32)), Clear()) == [
        (0, 100, False),
        Clear(100),
    ]


async def test_flush_without_a_turn_is_passed_on() -> None:
    assert await outcome([], Flush()) == [Flush()]


async def test_stall_ends_the_turn_and_goes_no_further() -> None:
    out = await outcome([SPEECH] * 2, audio(windows=2), Stall())

    assert out[-1] == TurnEnded(at(2), TurnEndReason.STALL)


async def test_stall_without_a_turn_does_nothing() -> None:
    assert await outcome([], Stall()) == []


async def test_new_options_count_from_their_place_in_the_stream_on() -> None:
    quiet = SessionOptions(endpointing=ENDPOINTING.model_copy(update={"onset": 0.95}))

    out = await outcome([SPEECH] * 2, Configure(quiet), audio(windows=2))

    assert out == [Configure(quiet), (0, at(2), False)]


async def test_detector_failure_ends_the_stage() -> None:
    stage = VadStage(BrokenDetector(), ENDPOINTING, Progress())

    with pytest.raises(RuntimeError, match="no detector"):
        [event async for event in stage.run(stream(audio(windows=1)))]


async def test_progress_tells_while_a_turn_is_open() -> None:
    progress = Progress()
    stage = VadStage(ScriptedDetector([SPEECH, *[SILENCE] * 6]), ENDPOINTING, progress)
    seen = [
        (event.at, progress.turn_open)
        async for event in stage.run(stream(audio(windows=1), audio(windows=6, start=1)))
        if isinstance(event, SpeechStarted | TurnEnded)
    ]

    assert seen == [(0, True), (at(1), False)]


async def test_progress_counts_what_is_held_back() -> None:
    progress = Progress()
    stage = VadStage(ScriptedDetector([SILENCE] * 3), ENDPOINTING, progress)
    out = stage.run(stream(Audio(0, np.zeros(at(3) + 100, dtype=np.float32))))

    first = await anext(out)

    assert isinstance(first, Audio)
    assert progress.held == at(3) + 100 - first.end
    assert progress.held > 0
    await out.aclose()


async def test_progress_holds_nothing_and_has_no_turn_at_the_end() -> None:
    progress = Progress()
    await outcome(
        [SPEECH] * 2,
        audio(windows=2),
        Audio(at(2), np.ones(99, dtype=np.float32)),
        progress=progress,
    )

    assert (progress.held, progress.turn_open) == (0, False)


async def test_all_received_audio_is_held_or_done_whenever_the_stages_wait_for_more() -> None:
    progress = Progress()
    packet = 1_000
    probabilities = [*[SILENCE] * 20, *[SPEECH] * 9, *[SILENCE] * 20, *[SPEECH] * 9]
    accounts: list[tuple[int, int]] = []

    async def source() -> AsyncGenerator[StreamEvent]:
        for start in range(0, len(probabilities) * WINDOW_SAMPLES, packet):
            accounts.append((progress.received, progress.held + progress.done))
            progress.received += packet
            yield Audio(start, np.zeros(packet, dtype=np.float32))
        accounts.append((progress.received, progress.held + progress.done))

    vad = VadStage(ScriptedDetector(probabilities), EndpointingSettings(), progress)
    asr = StreamingAsrStage(ScriptedEngine().open, SessionOptions(), progress, clock=lambda: 0.0)
    assert [event async for event in asr.run(vad.run(source()))]
    accounts.append((progress.received, progress.done))

    assert all(received == accounted for received, accounted in accounts)


async def test_stall_makes_the_detector_forget_the_word_that_broke_off() -> None:
    detector = ScriptedDetector([SPEECH] * 2)
    stage = VadStage(detector, ENDPOINTING, Progress())

    out = [event async for event in stage.run(stream(audio(windows=2), Stall()))]

    assert isinstance(out[-1], TurnEnded)
    assert detector.resets == 1


# Turn detectors

JUDGED = EndpointingSettings(
    detector=DetectorName.SMART_TURN, small_gap_ms=64, check_ms=64, silence_ms=320, pre_roll_ms=0
)
"""A pause is judged after 2 windows and each 2 more; a turn ends after 10."""


EAGER = JUDGED.model_copy(update={"eager": True, "eager_threshold": 0.0})


def judged_stage(
    probabilities: Sequence[float],
    *detectors: FakeDetector,
    endpointing: EndpointingSettings = JUDGED,
    progress: Progress | None = None,
    metrics: Metrics | None = None,
) -> VadStage:
    """A stage that opens these detectors one after the other."""
    waiting = iter(detectors)
    openers = dict.fromkeys((DetectorName.SMART_TURN, DetectorName.EOU), lambda: next(waiting))
    return VadStage(
        ScriptedDetector(probabilities),
        endpointing,
        progress or Progress(),
        turn_detectors=openers,
        metrics=metrics,
    )


async def told(stage: VadStage, *events: StreamEvent) -> list[object]:
    return [brief(event) async for event in stage.run(stream(*events))]


def changed(**settings: object) -> Configure:
    return Configure(
        SessionOptions(endpointing=EndpointingSettings(**JUDGED.model_dump() | settings))
    )


async def test_sure_detector_ends_the_turn_in_the_pause() -> None:
    detector = FakeDetector(lambda _: 0.8)

    out = await told(judged_stage([*[SPEECH] * 3, *[SILENCE] * 4], detector), audio(windows=7))

    assert out == [
        SpeechStarted(0, opens_turn=True),
        (0, at(5), True),
        SpeechPaused(at(3)),
        TurnEnded(at(3), TurnEndReason.TURN_MODEL, 0.8),
        (at(5), at(7), False),
    ]
    assert detector.resets == 1


async def test_doubting_detector_is_asked_again_until_silence_ends_the_turn() -> None:
    detector = FakeDetector(lambda _: 0.1)

    out = await told(judged_stage([*[SPEECH] * 3, *[SILENCE] * 12], detector), audio(windows=15))

    assert detector.asked == [at(windows) for windows in (5, 7, 9, 11)]
    assert [event for event in out if isinstance(event, TurnCheck)] == [
        TurnCheck(at(windows)) for windows in (7, 9, 11)
    ]
    assert TurnEnded(at(3), TurnEndReason.SILENCE) in out
    assert detector.resets == 1


async def test_detector_is_told_of_each_pause_once_and_before_it_is_asked() -> None:
    detector = FakeDetector(lambda _: 0.1 * len(detector.pauses))
    probabilities = [*[SPEECH] * 3, *[SILENCE] * 6, SPEECH, *[SILENCE] * 12]

    out = await told(
        judged_stage(probabilities, detector, endpointing=EAGER), audio(windows=len(probabilities))
    )

    assert detector.pauses == [at(3), at(10)]
    assert [event.confidence for event in out if isinstance(event, TurnEagerEnd)] == [0.1, 0.2]


async def test_detector_forgets_a_cleared_turn() -> None:
    detector = FakeDetector(lambda _: 0.1)

    await told(judged_stage([SPEECH] * 3, detector), audio(windows=3), Clear())

    assert detector.resets == 1


async def test_detector_may_change_its_mind_during_the_pause() -> None:
    detector = FakeDetector(lambda position: 0.9 if position >= at(7) else None)

    out = await told(judged_stage([*[SPEECH] * 3, *[SILENCE] * 6], detector), audio(windows=9))

    assert out[3:6] == [
        (at(5), at(7), True),
        TurnCheck(at(7)),
        TurnEnded(at(3), TurnEndReason.TURN_MODEL, 0.9),
    ]


async def test_detector_hears_the_audio_of_turns_alone_and_before_it_is_asked() -> None:
    detector = FakeDetector(lambda _: 0.9)
    probabilities = [*[SILENCE] * 4, *[SPEECH] * 3, *[SILENCE] * 8, *[SPEECH] * 3, *[SILENCE] * 4]

    await told(judged_stage(probabilities, detector), audio(windows=len(probabilities)))

    assert detector.heard == [(at(4), at(9)), (at(15), at(20))]
    assert detector.asked == [at(9), at(20)]


async def test_speech_right_behind_an_end_by_a_detector_opens_the_next_turn() -> None:
    """In one packet: nothing of it counts as heard by the turn that ended."""
    detector = FakeDetector(lambda position: 0.9 if position == at(5) else None)
    probabilities = [*[SPEECH] * 3, *[SILENCE] * 3, *[SPEECH] * 3]
    endpointing = JUDGED.model_copy(update={"pre_roll_ms": 320})

    out = await told(
        judged_stage(probabilities, detector, endpointing=endpointing), audio(windows=9)
    )

    assert out[3:] == [
        TurnEnded(at(3), TurnEndReason.TURN_MODEL, 0.9),
        SpeechStarted(at(6), opens_turn=True),
        (at(5), at(9), True),
        TurnEnded(at(9), TurnEndReason.FINISH),
    ]


@pytest.mark.parametrize("sureness", [None, 0.1, 0.9])
async def test_turns_and_onsets_do_not_depend_on_packets(sureness: float | None) -> None:
    probabilities = [
        *[SILENCE] * 5,
        *[SPEECH] * 5,
        *[SILENCE] * 4,
        *[SPEECH] * 3,
        *[SILENCE] * 12,
        *[SPEECH] * 2,
        *[SILENCE] * 3,
    ]

    async def events_of(packet_windows: int) -> tuple[list[object], list[int]]:
        detector = FakeDetector(lambda position: sureness if position > at(16) else 0.4)
        eager = JUDGED.model_copy(update={"eager": True})
        stage = judged_stage(probabilities, detector, endpointing=eager)
        packets = [
            audio(windows=min(packet_windows, len(probabilities) - start), start=start)
            for start in range(0, len(probabilities), packet_windows)
        ]
        out = [event async for event in stage.run(stream(*packets))]
        return [event for event in out if not isinstance(event, Audio)], detector.asked

    assert await events_of(1) == await events_of(3) == await events_of(len(probabilities))


async def test_onset_is_told_with_the_packet_that_holds_it() -> None:
    """Barge-in must not wait for detectors."""
    stage = judged_stage([SILENCE, SPEECH, SPEECH], FakeDetector())
    taken: list[int] = []

    async def packets() -> AsyncGenerator[StreamEvent]:
        for start in range(3):
            taken.append(start)
            yield audio(windows=1, start=start)

    out = stage.run(packets())
    while not isinstance(await anext(out), SpeechStarted):
        pass

    assert taken == [0, 1]
    await out.aclose()


async def test_eager_end_is_told_in_every_pause_where_silence_ends_turns() -> None:
    eager = JUDGED.model_copy(update={"detector": DetectorName.SILENCE, "eager": True})
    probabilities = [SPEECH, *[SILENCE] * 4, SPEECH, *[SILENCE] * 4]

    out = await told(judged_stage(probabilities, endpointing=eager), audio(windows=10))

    assert [event for event in out if isinstance(event, TurnEagerEnd)] == [
        TurnEagerEnd(at(1)),
        TurnEagerEnd(at(6)),
    ]


async def test_half_sure_detector_makes_an_eager_end() -> None:
    eager = JUDGED.model_copy(update={"eager": True})
    detector = FakeDetector(lambda position: 0.4 if position >= at(5) else 0.1)

    out = await told(
        judged_stage([SPEECH, *[SILENCE] * 7], detector, endpointing=eager), audio(windows=8)
    )

    assert [event for event in out if isinstance(event, TurnEagerEnd)] == [TurnEagerEnd(at(1), 0.4)]


async def test_pause_that_is_an_end_at_once_is_judged_by_nobody() -> None:
    short = JUDGED.model_copy(update={"silence_ms": 100, "small_gap_ms": 100, "eager": True})
    detector = FakeDetector(lambda _: 0.9)

    out = await told(
        judged_stage([SPEECH, *[SILENCE] * 5], detector, endpointing=short), audio(windows=6)
    )

    assert detector.asked == []
    assert TurnEnded(at(1), TurnEndReason.SILENCE) in out
    assert not [event for event in out if isinstance(event, TurnEagerEnd)]


async def test_where_only_the_client_ends_turns_the_detector_is_left_alone() -> None:
    detector = FakeDetector(lambda _: 0.9)
    manual = JUDGED.model_copy(update={"mode": EndpointingMode.NONE, "eager": True})

    out = await told(
        judged_stage([SPEECH, *[SILENCE] * 20], detector, endpointing=manual), audio(windows=21)
    )

    assert (detector.heard, detector.asked) == ([], [])
    assert out[-1] == TurnEnded(at(1), TurnEndReason.FINISH)


@pytest.mark.parametrize(
    ("event", "reason"), [(Flush(), TurnEndReason.FLUSH), (Stall(), TurnEndReason.STALL)]
)
async def test_turn_may_be_ended_during_a_judged_pause(
    event: StreamEvent, reason: TurnEndReason
) -> None:
    detector = FakeDetector(lambda _: 0.1)

    out = await told(
        judged_stage([SPEECH, *[SILENCE] * 4, SPEECH], detector),
        audio(windows=5),
        event,
        audio(windows=1, start=5),
    )

    assert TurnEnded(at(1), reason) in out
    assert SpeechStarted(at(5), opens_turn=True) in out
    # That of the last turn, which the end of the input ends, is not needed.
    assert detector.resets == 1


async def test_detector_may_be_changed_in_mid_stream() -> None:
    first, second = FakeDetector(lambda _: 0.1), FakeDetector(lambda _: 0.9)
    probabilities = [SPEECH, *[SILENCE] * 4, SPEECH, *[SILENCE] * 4]

    out = await told(
        judged_stage(probabilities, first, second),
        audio(windows=4),
        changed(detector="eou"),
        audio(windows=6, start=4),
    )

    assert first.closed
    assert first.asked == [at(3)]
    # Not in the pause of speech that it has not heard.
    assert second.asked == [at(8)]
    assert TurnEnded(at(6), TurnEndReason.TURN_MODEL, 0.9) in out


async def test_thresholds_may_be_changed_in_mid_stream() -> None:
    detector = FakeDetector(lambda _: 0.4)

    out = await told(
        judged_stage([SPEECH, *[SILENCE] * 5], detector),
        audio(windows=4),
        changed(turn_threshold=0.3),
        audio(windows=2, start=4),
    )

    assert detector.asked == [at(3), at(5)]
    assert TurnEnded(at(1), TurnEndReason.TURN_MODEL, 0.4) in out


async def test_detector_that_the_server_does_not_have_leaves_turns_to_silence() -> None:
    stage = VadStage(ScriptedDetector([SPEECH, *[SILENCE] * 10]), JUDGED, Progress())

    assert TurnEnded(at(1), TurnEndReason.SILENCE) in await told(stage, audio(windows=11))


async def test_detector_is_closed_with_the_session_however_that_ends() -> None:
    whole, broken_off = FakeDetector(), FakeDetector()
    await told(judged_stage([SPEECH], whole), audio(windows=1))
    out = judged_stage([SPEECH], broken_off).run(stream(audio(windows=1)))
    await anext(out)
    await out.aclose()

    assert whole.closed
    assert broken_off.closed


async def test_turn_ended_by_a_detector_counts_as_closed_before_its_end_is_told() -> None:
    progress = Progress()
    stage = judged_stage([SPEECH, *[SILENCE] * 4], FakeDetector(lambda _: 0.9), progress=progress)

    seen = [
        (type(event), progress.turn_open)
        async for event in stage.run(stream(audio(windows=5)))
        if isinstance(event, SpeechStarted | TurnEnded)
    ]

    assert seen == [(SpeechStarted, True), (TurnEnded, False)]


async def test_judgements_are_timed() -> None:
    metrics = Metrics()
    await told(
        judged_stage([SPEECH, *[SILENCE] * 4], FakeDetector(), metrics=metrics), audio(windows=5)
    )

    count = metrics.registry.get_sample_value(
        "stt_turn_detector_seconds_count", {"detector": "smart-turn"}
    )
    assert count == 2

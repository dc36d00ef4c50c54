"""What a server can ask about ends of turns, and the detector that is a model of its own."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from stt_server.engine.base import (
    EngineInfo,
    EngineUnavailable,
    RecognitionStream,
    SpeculativeStream,
    StreamOptions,
)
from stt_server.engine.detectors import ANSWER_S, Detectors, SideModelDetector
from stt_server.engine.fake import WORD_SAMPLES, Script, ScriptedEngine
from stt_server.engine.smart_turn import HOW_TO_GET
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import SAMPLE_RATE, Audio, Transcript, TurnEndReason
from stt_server.settings import DetectorName
from stt_server.stages.tests.fake_detector import FakeDetector
from stt_server.stages.tests.virtual_time import run

PLAIN = EngineInfo("plain", "For tests.", capacity=1)
MARKING = EngineInfo("marking", "For tests.", capacity=1, marks_turn_ends=True)
SURE = Script(("yes",), turn_ends={"yes": 0.9})


class SmartTurnStub:
    """A `SharedDetector`."""

    def __init__(self, missing: str | None = None) -> None:
        self._missing = missing
        self.started = False

    async def start(self) -> None:
        if self._missing is not None:
            raise EngineUnavailable(self._missing)
        self.started = True

    async def stop(self) -> None:
        self.started = False

    def open(self) -> FakeDetector:
        return FakeDetector()


# What is there


async def test_silence_always_ends_turns() -> None:
    detectors = Detectors(DetectorName.SILENCE)
    await detectors.start()
    detectors.check(PLAIN)

    assert detectors.names(PLAIN) == {"silence"}


def test_model_that_marks_turn_ends_brings_its_detector_along() -> None:
    detectors = Detectors(DetectorName.EOU)
    detectors.check(MARKING)

    assert detectors.names(MARKING) == {"silence", "eou"}
    assert detectors.openers() == {}


def test_side_model_brings_it_to_any_other() -> None:
    detectors = Detectors(DetectorName.EOU, side_model=ScriptedEngine(SURE))
    detectors.check(PLAIN)

    assert detectors.names(PLAIN) == {"silence", "eou"}
    assert isinstance(detectors.openers()[DetectorName.EOU](), SideModelDetector)


def test_detector_eou_without_a_model_for_it_is_an_error_that_says_how_to_get_one() -> None:
    with pytest.raises(EngineUnavailable, match="--eou-model parakeet-eou"):
        Detectors(DetectorName.EOU).check(PLAIN)


def test_side_model_without_the_token_is_an_error() -> None:
    with pytest.raises(EngineUnavailable, match="scripted, the eou_model, has no <EOU> token"):
        Detectors(DetectorName.SILENCE, side_model=ScriptedEngine()).check(PLAIN)


async def test_smart_turn_is_there_if_it_is_on_the_machine() -> None:
    stub = SmartTurnStub()
    detectors = Detectors(DetectorName.SILENCE, smart_turn=stub)
    assert detectors.names(PLAIN) == {"silence"}
    await detectors.start()

    assert detectors.names(PLAIN) == {"silence", "smart-turn"}
    await detectors.stop()
    assert not stub.started


async def test_smart_turn_that_nobody_asked_for_may_be_absent() -> None:
    detectors = Detectors(DetectorName.SILENCE, smart_turn=SmartTurnStub("not here"))
    await detectors.start()

    assert detectors.names(PLAIN) == {"silence"}


@pytest.mark.parametrize(
    ("default", "is_set"), [(DetectorName.SMART_TURN, False), (DetectorName.SILENCE, True)]
)
async def test_smart_turn_that_was_asked_for_must_be_there(
    default: DetectorName, is_set: bool
) -> None:
    detectors = Detectors(default, smart_turn=SmartTurnStub("not here"), needs_smart_turn=is_set)

    with pytest.raises(EngineUnavailable, match="not here"):
        await detectors.start()


# The side model's detector


def piece(*, words: float, start: float = 0) -> Audio:
    samples = np.zeros(round(words * WORD_SAMPLES), dtype=np.float32)
    return Audio(round(start * WORD_SAMPLES), samples, speech=True)


async def test_side_model_judges_by_its_mark() -> None:
    script = Script(("well", "yes"), turn_ends={"yes": 0.9})
    detector = SideModelDetector(ScriptedEngine(script))

    await detector.hear(piece(words=1))
    assert await detector.judge() is None
    await detector.hear(piece(words=1, start=1))
    assert await detector.judge() == 0.9
    assert detector.reason is TurnEndReason.MODEL_EOU


async def test_judging_does_not_keep_it_from_hearing_what_comes_next() -> None:
    script = Script(("yes", "but"), turn_ends={"yes": 0.9})
    detector = SideModelDetector(ScriptedEngine(script))

    await detector.hear(piece(words=1))
    assert await detector.judge() == 0.9
    await detector.hear(piece(words=1, start=1))
    assert await detector.judge() is None


async def test_side_model_that_has_heard_nothing_says_nothing() -> None:
    assert await SideModelDetector(ScriptedEngine(SURE)).judge() is None


async def test_place_in_the_side_model_is_taken_for_turns_alone() -> None:
    engine = ScriptedEngine(SURE)
    detector = SideModelDetector(engine)
    assert engine.open_streams == 0
    await detector.hear(piece(words=1))
    await detector.judge()
    assert engine.open_streams == 1

    await detector.reset()
    assert engine.open_streams == 0

    await detector.hear(piece(words=1, start=5))
    assert await detector.judge() == 0.9
    await detector.close()
    assert engine.open_streams == 0


class SickStream:
    """Fails, or takes as long as it is told, at pushes and pauses. A `SpeculativeStream`."""

    def __init__(self, push: Exception | float, pause: Exception | float) -> None:
        self._push, self._pause = push, pause
        self.closed = False

    async def _do(self, what: Exception | float) -> None:
        if isinstance(what, Exception):
            raise what
        await asyncio.sleep(what)

    async def push(self, audio: Audio) -> None:
        await self._do(self._push)

    async def pause(self) -> Transcript:
        await self._do(self._pause)
        return Transcript(ends_turn=0.9)

    async def resume(self) -> None: ...

    async def end_turn(self) -> Transcript:
        return Transcript()

    async def close(self) -> None:
        self.closed = True


class SickEngine(ScriptedEngine):
    """Opens these streams one after the other; instead of None it has no place."""

    def __init__(self, streams: Sequence[SickStream | None]) -> None:
        super().__init__(SURE)
        self._waiting = list(streams)

    async def open(self, options: StreamOptions) -> SpeculativeStream:
        stream = self._waiting.pop(0)
        if stream is None:
            raise Overloaded("full")
        return stream


@pytest.mark.parametrize(
    ("push", "pause", "longest_s"),
    [
        (TranscriptionError("no"), 0.0, 0.0),
        (Overloaded("gone"), 0.0, 0.0),
        (1e6, 0.0, ANSWER_S),
        (0.0, TranscriptionError("no"), 0.0),
        (0.0, 1e6, ANSWER_S),
    ],
)
def test_sick_side_model_says_nothing_in_bounded_time_and_is_tried_again_in_the_next_turn(
    push: Exception | float, pause: Exception | float, longest_s: float
) -> None:
    async def main() -> None:
        sick, well = SickStream(push, pause), SickStream(0.0, 0.0)
        detector = SideModelDetector(SickEngine([sick, well]))
        loop = asyncio.get_running_loop()
        began = loop.time()
        for start in range(3):
            await detector.hear(piece(words=1, start=start))
            assert await detector.judge() is None
        assert loop.time() - began == longest_s
        assert sick.closed

        await detector.reset()
        await detector.hear(piece(words=1, start=9))
        assert await detector.judge() == 0.9

    run(main())


async def test_side_model_without_a_free_place_says_nothing_until_the_next_turn() -> None:
    detector = SideModelDetector(SickEngine([None, SickStream(0.0, 0.0)]))
    await detector.hear(piece(words=1))
    await detector.hear(piece(words=1, start=1))
    assert await detector.judge() is None

    await detector.reset()
    await detector.hear(piece(words=1, start=9))
    assert await detector.judge() == 0.9


class RestartingEngine(ScriptedEngine):
    """Opens nothing while it is at fault. A `SupervisedEngine`."""

    fault: str | None = "it is being restarted"

    async def open(self, options: StreamOptions) -> RecognitionStream:
        if self.fault is not None:
            await asyncio.sleep(1e6)
        return await super().open(options)


def test_side_model_that_restarts_costs_no_time_and_serves_the_next_turn() -> None:
    async def main() -> None:
        engine = RestartingEngine(SURE)
        detector = SideModelDetector(engine)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for start in range(3):
            await detector.hear(piece(words=1, start=start))
            assert await detector.judge() is None
        assert loop.time() == began

        engine.fault = None
        await detector.reset()
        await detector.hear(piece(words=1, start=9))
        assert await detector.judge() == 0.9

    run(main())


def test_live_audio_does_not_wait_for_a_side_model_that_hangs() -> None:
    async def main() -> None:
        sick = SickStream(1e6, 0.0)
        detector = SideModelDetector(SickEngine([sick]))
        loop = asyncio.get_running_loop()
        for second in range(20):
            began = loop.time()
            await detector.hear(Audio(second * SAMPLE_RATE, np.zeros(SAMPLE_RATE, np.float32)))
            assert loop.time() == began
            await asyncio.sleep(1.0)
        assert await detector.judge() is None
        assert sick.closed

    run(main())


def test_audio_sent_in_one_burst_waits_for_the_side_model_and_none_is_lost() -> None:
    async def main() -> None:
        slow = SickStream(0.5, 0.0)
        detector = SideModelDetector(SickEngine([slow]))
        loop = asyncio.get_running_loop()
        for second in range(10):
            await detector.hear(Audio(second * SAMPLE_RATE, np.zeros(SAMPLE_RATE, np.float32)))
        assert loop.time() > 2.0
        assert await detector.judge() == 0.9
        assert loop.time() == 5.0

    run(main())


def test_turn_that_ends_while_the_side_model_hears_leaves_nothing_behind() -> None:
    async def main() -> None:
        sick, well = SickStream(1e6, 0.0), SickStream(0.0, 0.0)
        detector = SideModelDetector(SickEngine([sick, well]))
        await detector.hear(piece(words=1))
        await asyncio.sleep(0.1)
        await detector.reset()
        assert sick.closed
        await detector.hear(piece(words=1, start=9))
        assert await detector.judge() == 0.9

    run(main())


@pytest.mark.parametrize(("missing", "told"), [("file is no smart-turn", 1), (HOW_TO_GET, 0)])
async def test_smart_turn_that_is_broken_is_told_to_the_operator(
    missing: str, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    await Detectors(DetectorName.SILENCE, smart_turn=SmartTurnStub(missing)).start()

    logged = [record for record in caplog.records if record.msg == "smart_turn.left_out"]
    assert len(logged) == told

"""The VAD stage: a list of events in, with scripted probabilities, and the list that comes out."""

from collections.abc import AsyncGenerator, Sequence

import numpy as np
import pytest

from stt_server.engine.fake import ScriptedEngine
from stt_server.events import (
    WINDOW_SAMPLES,
    Audio,
    Configure,
    Flush,
    Samples,
    SpeechPaused,
    SpeechStarted,
    Stall,
    StreamEvent,
    TurnEnded,
    TurnEndReason,
)
from stt_server.pipeline import Progress
from stt_server.settings import EndpointingSettings, SessionOptions
from stt_server.stages.asr import StreamingAsrStage
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

"""The voice activity detector: with the real model on real sound, and batching with a fake one."""

import asyncio
import importlib.util
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
import soundfile

from stt_server.engine.silero import SileroModel, VadState, VoiceDetector
from stt_server.events import SAMPLE_RATE, WINDOW_SAMPLES, Samples, SpeechStarted, TurnEnded
from stt_server.metrics import Metrics
from stt_server.settings import EndpointingSettings
from stt_server.turns.endpointer import Endpointer

SOUNDS = Path(__file__).parents[3] / "tests" / "audio"
MAX_ONSET_S = 0.150
"""From the first sound of a turn to the decision that speech started, in stream time."""


@pytest.fixture(scope="module")
def model() -> SileroModel:
    return SileroModel()


def windows_of(samples: Samples) -> list[Samples]:
    count = len(samples) // WINDOW_SAMPLES
    return list(samples[: count * WINDOW_SAMPLES].reshape(count, WINDOW_SAMPLES))


def alone(model: SileroModel, samples: Samples) -> list[float]:
    """Probabilities of a stream that shares its batches with nobody."""
    state = VadState()
    return [model.step([state], [window])[0] for window in windows_of(samples)]


def noisy(seed: int, count: int) -> list[Samples]:
    """Windows between silence and loud noise, so that no two streams are alike."""
    rng = np.random.default_rng(seed)
    levels = rng.uniform(0, 0.5, (count, 1))
    return list((rng.standard_normal((count, WINDOW_SAMPLES)) * levels).astype(np.float32))


def load_noise() -> ModuleType:
    spec = importlib.util.spec_from_file_location("noise", SOUNDS / "noise.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# State belongs to the stream


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 16, 17, 31, 32, 33, 40])
def test_batch_of_streams_of_any_age_gives_the_same_bits_as_each_alone(
    model: SileroModel, count: int
) -> None:
    streams = [noisy(seed, 1 + seed % 7) for seed in range(count)]
    expected = [alone(model, np.concatenate(stream)) for stream in streams]

    states = [VadState() for _ in streams]
    out: list[list[float]] = [[] for _ in streams]
    for step in range(7):
        # Streams begin at different steps, so that ages differ within a batch.
        rows = [row for row in range(count) if 0 <= step - (6 - row % 7) < len(streams[row])]
        if not rows:
            continue
        windows = [streams[row][step - (6 - row % 7)] for row in rows]
        for row, probability in zip(
            rows, model.step([states[row] for row in rows], windows), strict=True
        ):
            out[row].append(probability)

    assert out == expected


def test_interleaved_streams_give_the_same_bits_as_separate_ones(model: SileroModel) -> None:
    first, second = noisy(1, 50), noisy(2, 50)
    expected = [alone(model, np.concatenate(stream)) for stream in (first, second)]

    states = VadState(), VadState()
    out: list[list[float]] = [[], []]
    for pair in zip(first, second, strict=True):
        for stream, window in enumerate(pair):
            out[stream] += model.step([states[stream]], [window])

    assert out == expected


async def test_concurrent_streams_give_the_same_bits_as_each_alone(model: SileroModel) -> None:
    sounds = [np.concatenate(noisy(seed, 20 + seed)) for seed in range(12)]
    detector = VoiceDetector(model, Metrics())

    async def listen(seed: int, sound: Samples) -> list[float]:
        stream, rng = detector.open(), np.random.default_rng(seed)
        out: list[float] = []
        position = 0
        while position < len(sound):
            end = position + int(rng.integers(1, 6 * WINDOW_SAMPLES))
            out += await stream.push(sound[position:end])
            position = end
        return out

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(listen(*item)) for item in enumerate(sounds)]
    detector.close()

    assert [task.result() for task in tasks] == [alone(model, sound) for sound in sounds]


@pytest.mark.parametrize("packet", [160, 320, 511, 512, 513, 1_600, 8_000, 40_000])
async def test_packet_borders_do_not_matter(model: SileroModel, packet: int) -> None:
    sound = np.concatenate(noisy(3, 60))[: 59 * WINDOW_SAMPLES + 100]
    detector = VoiceDetector(model, Metrics())
    stream = detector.open()

    out: list[float] = []
    for start in range(0, len(sound), packet):
        out += await stream.push(sound[start : start + packet])
    detector.close()

    assert out == alone(model, sound)


# Speech


@dataclass(frozen=True, slots=True)
class Decision:
    """What the endpointer said, and the stream time at which it did."""

    event: object
    decided_s: float


def decisions_on(model: SileroModel, samples: Samples) -> list[Decision]:
    endpointer = Endpointer(EndpointingSettings())
    return [
        Decision(event, endpointer.at / SAMPLE_RATE)
        for probability in alone(model, samples)
        for event in endpointer.push(probability)
    ]


def starts_of_turns(decisions: Sequence[Decision]) -> list[Decision]:
    return [
        decision
        for decision in decisions
        if isinstance(decision.event, SpeechStarted) and decision.event.opens_turn
    ]


def clips() -> list[Any]:
    manifest = SOUNDS / "manifest.json"
    listed = json.loads(manifest.read_text()) if manifest.exists() else []
    return [pytest.param(clip, id=clip["file"]) for clip in listed]


def samples_of(clip: dict[str, Any]) -> Samples:
    """The clip and two seconds of silence, in which its last turn ends."""
    samples, rate = cast(
        "tuple[Samples, int]", soundfile.read(SOUNDS / clip["file"], dtype="float32")
    )
    assert rate == SAMPLE_RATE
    return np.concatenate((samples, np.zeros(2 * SAMPLE_RATE, dtype=np.float32)))


@pytest.mark.parametrize("clip", clips())
def test_each_spoken_turn_is_one_turn(model: SileroModel, clip: dict[str, Any]) -> None:
    decisions = decisions_on(model, samples_of(clip))

    starts = [cast("SpeechStarted", start.event).at for start in starts_of_turns(decisions)]
    ends = [decision.event.at for decision in decisions if isinstance(decision.event, TurnEnded)]
    spoken = clip["turns"]
    # Measured: starts 0.01 s ahead to 0.08 s behind the manifest's, ends 0.03-0.08 s behind.
    assert [start / SAMPLE_RATE for start in starts] == [
        pytest.approx(turn["start_s"], abs=0.15) for turn in spoken
    ]
    assert [end / SAMPLE_RATE for end in ends] == [
        pytest.approx(turn["end_s"], abs=0.2) for turn in spoken
    ]


@pytest.mark.parametrize("clip", clips())
def test_onset_is_decided_soon_enough_to_barge_in(model: SileroModel, clip: dict[str, Any]) -> None:
    starts = starts_of_turns(decisions_on(model, samples_of(clip)))

    # Measured: 22-108 ms.
    for start, turn in zip(starts, clip["turns"], strict=True):
        assert start.decided_s - turn["start_s"] <= MAX_ONSET_S


# Other sound


@pytest.mark.skipif(not (SOUNDS / "noise.py").exists(), reason="tests/audio/noise.py is missing")
@pytest.mark.parametrize("level_dbfs", [-45, -30, -18])
@pytest.mark.parametrize("kind", ["white", "pink", "brown", "hum", "music", "clicks"])
def test_noise_and_music_open_no_turn(model: SileroModel, kind: str, level_dbfs: int) -> None:
    make: Callable[..., Samples] = getattr(load_noise(), kind)

    # Measured maxima over 8 min a level: noises 0.14, hum 0.17, clicks 0.24.
    assert starts_of_turns(decisions_on(model, make(8, level_dbfs=level_dbfs, seed=7))) == []


@pytest.mark.skipif(not (SOUNDS / "noise.py").exists(), reason="tests/audio/noise.py is missing")
def test_chord_change_opens_no_turn(model: SileroModel) -> None:
    make: Callable[..., Samples] = load_noise().music

    assert starts_of_turns(decisions_on(model, make(8, level_dbfs=-40, seed=9))) == []


def test_digital_silence_opens_no_turn(model: SileroModel) -> None:
    assert max(alone(model, np.zeros(10 * SAMPLE_RATE, dtype=np.float32))) < 0.05


# Batching, with a model that computes nothing


class LevelModel:
    """The "probability" of a window is its first sample; a negative one is a failing device."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def step(self, states: Sequence[VadState], windows: Sequence[Samples]) -> list[float]:
        self.begun.set()
        self.go_on.wait(10)
        self.batches.append(len(states))
        levels = [float(window[0]) for window in windows]
        if min(levels) < 0:
            raise RuntimeError("the device is gone")
        return levels


def detector_with(model: LevelModel) -> VoiceDetector:
    return VoiceDetector(cast("SileroModel", model), Metrics())


def level(value: float, *, windows: int = 1) -> Samples:
    return np.full(windows * WINDOW_SAMPLES, value, dtype=np.float32)


async def test_streams_that_are_ready_together_share_a_batch() -> None:
    model = LevelModel()
    detector = detector_with(model)

    out = await asyncio.gather(*(detector.open().push(level(n / 64)) for n in range(32)))

    assert out == [[n / 64] for n in range(32)]
    assert model.batches == [32]


async def test_streams_with_different_amounts_share_batches_as_long_as_they_last() -> None:
    model = LevelModel()
    detector = detector_with(model)

    out = await asyncio.gather(
        *(detector.open().push(level(0.5, windows=count)) for count in (1, 3, 2))
    )

    assert out == [[0.5], [0.5] * 3, [0.5] * 2]
    assert model.batches == [3, 2, 1]


async def test_packet_without_a_whole_window_asks_nothing_of_the_model() -> None:
    model = LevelModel()

    assert await detector_with(model).open().push(level(0.5)[:-1]) == []
    assert model.batches == []


async def test_failure_fails_the_callers_of_its_batch() -> None:
    detector = detector_with(LevelModel())

    results = await asyncio.gather(
        *(detector.open().push(level(value)) for value in (0.5, -1.0, 0.25)),
        return_exceptions=True,
    )

    assert [type(result) for result in results] == [RuntimeError] * 3


async def test_failure_does_not_touch_later_callers() -> None:
    detector = detector_with(LevelModel())
    stream = detector.open()
    with pytest.raises(RuntimeError):
        await detector.open().push(level(-1.0))

    assert await stream.push(level(0.5)) == [0.5]


async def test_callers_that_come_during_a_failing_tick_are_served() -> None:
    model = LevelModel()
    detector = detector_with(model)
    model.go_on.clear()
    failing = asyncio.create_task(detector.open().push(level(-1.0)))
    await asyncio.to_thread(model.begun.wait, 10)
    waiting = asyncio.create_task(detector.open().push(level(0.5)))
    model.go_on.set()

    with pytest.raises(RuntimeError):
        await failing
    assert await waiting == [0.5]


async def test_caller_cancelled_during_its_tick_does_not_disturb_the_others() -> None:
    model = LevelModel()
    detector = detector_with(model)
    model.go_on.clear()
    leaving = asyncio.create_task(detector.open().push(level(0.1)))
    staying = asyncio.create_task(detector.open().push(level(0.5)))
    await asyncio.to_thread(model.begun.wait, 10)

    leaving.cancel()
    await asyncio.wait([leaving])
    model.go_on.set()

    assert leaving.cancelled()
    assert await staying == [0.5]
    assert await detector.open().push(level(0.25)) == [0.25]


async def test_caller_cancelled_before_its_tick_is_not_computed() -> None:
    model = LevelModel()
    detector = detector_with(model)
    model.go_on.clear()
    first = asyncio.create_task(detector.open().push(level(0.5)))
    await asyncio.to_thread(model.begun.wait, 10)
    leaving = asyncio.create_task(detector.open().push(level(-1.0)))
    staying = asyncio.create_task(detector.open().push(level(0.25)))
    await asyncio.sleep(0)

    leaving.cancel()
    model.go_on.set()

    assert await first == [0.5]
    assert await staying == [0.25]
    assert model.batches == [1, 1]


async def test_closed_detector_fails_its_callers() -> None:
    detector = detector_with(LevelModel())
    stream = detector.open()
    detector.close()

    with pytest.raises(RuntimeError):
        await stream.push(level(0.5))

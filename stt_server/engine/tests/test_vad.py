"""The voice activity detector: batching of all streams, with a model that computes nothing."""

import asyncio
import threading
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest

from stt_server.engine.vad import VadState, VadWindows, VoiceDetector
from stt_server.events import WINDOW_SAMPLES, Samples
from stt_server.metrics import Metrics


class LevelModel:
    """The "probability" of a window is its first sample; a negative one is a failing device."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def run(self, states: Sequence[VadState], windows: Sequence[VadWindows]) -> list[list[float]]:
        self.begun.set()
        self.go_on.wait(10)
        self.batches.append(len(states))
        levels = [[float(window[0]) for window in rows] for rows in windows]
        if min(map(min, levels)) < 0:
            raise RuntimeError("the device is gone")
        return levels


def detector_with(model: LevelModel) -> VoiceDetector:
    return VoiceDetector(partial(asyncio.to_thread, model.run), Metrics())


def level(value: float, *, windows: int = 1) -> Samples:
    return np.full(windows * WINDOW_SAMPLES, value, dtype=np.float32)


async def test_streams_that_are_ready_together_share_a_batch() -> None:
    model = LevelModel()
    detector = detector_with(model)

    out = await asyncio.gather(*(detector.open().push(level(n / 64)) for n in range(32)))

    assert out == [[n / 64] for n in range(32)]
    assert model.batches == [32]


async def test_streams_with_different_amounts_share_a_batch() -> None:
    model = LevelModel()
    detector = detector_with(model)

    out = await asyncio.gather(
        *(detector.open().push(level(0.5, windows=count)) for count in (1, 3, 2))
    )

    assert out == [[0.5], [0.5] * 3, [0.5] * 2]
    assert model.batches == [3]


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


@pytest.mark.parametrize("turns_of_the_loop", [0, 1, 2, 3])
async def test_no_caller_is_forgotten_whenever_it_comes(turns_of_the_loop: int) -> None:
    async def infer(states: Sequence[VadState], windows: Sequence[VadWindows]) -> list[list[float]]:
        for _ in range(turns_of_the_loop):
            await asyncio.sleep(0)
        return [[0.5] * len(rows) for rows in windows]

    detector = VoiceDetector(infer, Metrics())

    async def speak(pause: int) -> None:
        stream = detector.open()
        for step in range(200):
            await stream.push(level(0.5))
            for _ in range(step % (pause + 1)):
                await asyncio.sleep(0)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for pause in range(5):
            group.create_task(speak(pause))

"""The engine room tells how long its steps take and how long audio waits for them."""

from itertools import pairwise

import numpy as np

from stt_server.engine.base import SteppedEngine, StepTimes, StreamOptions
from stt_server.engine.nemo import NemoEngine
from stt_server.engine.tests.fake_batch import CHUNK, Script
from stt_server.events import Audio


async def step_times(samples: int) -> list[StepTimes]:
    """Of one stream that is pushed so much audio at once, and then closed."""
    engine = NemoEngine(Script(), name="fake", summary="For tests.", most_streams=9)
    assert isinstance(engine, SteppedEngine)
    times: list[StepTimes] = []
    engine.on_step = times.append
    await engine.start()
    try:
        stream = await engine.open(StreamOptions())
        await stream.push(Audio(0, np.zeros(samples, np.float32), speech=True))
        await stream.end_turn()
    finally:
        await engine.stop()
    return times


async def test_each_step_is_told() -> None:
    times = await step_times(CHUNK)

    assert len(times) == 1
    assert times[0].streams == 1
    assert 0 <= times[0].seconds <= times[0].lag_s


async def test_what_a_step_leaves_over_waited_for_that_step_too() -> None:
    times = await step_times(6 * CHUNK)

    assert len(times) == 6
    for before, step in pairwise(times):
        assert step.lag_s >= before.seconds + step.seconds > step.seconds

"""Silero behind the pipes of its process."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import numpy as np
import pytest

from stt_server.engine.silero import load_silero
from stt_server.engine.silero_process import SileroProcess, pack_request, unpack_request
from stt_server.engine.vad import VadState, VadWindows
from stt_server.errors import Overloaded
from stt_server.events import WINDOW_SAMPLES


@pytest.fixture
async def process() -> AsyncIterator[SileroProcess]:
    process = SileroProcess()
    await process.start()
    yield process
    await process.stop()


def noisy(seed: int, count: int) -> VadWindows:
    rng = np.random.default_rng(seed)
    levels = rng.uniform(0, 0.5, (count, 1))
    return (rng.standard_normal((count, WINDOW_SAMPLES)) * levels).astype(np.float32)


def expected(windows: VadWindows) -> list[float]:
    return load_silero().run([VadState()], [windows])[0]


def kill(process: SileroProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)


async def test_numbers_are_those_of_the_network(process: SileroProcess) -> None:
    streams = [noisy(seed, 2 + seed) for seed in range(4)]
    states = [VadState() for _ in streams]

    first = await process.infer(states, [stream[:1] for stream in streams])
    rest = await process.infer(states, [stream[1:] for stream in streams])

    joined = [one + more for one, more in zip(first, rest, strict=True)]
    assert joined == [expected(stream) for stream in streams]


async def test_a_death_costs_no_stream_its_memory(process: SileroProcess) -> None:
    windows, state = noisy(5, 8), VadState()
    heard = await process.infer([state], [windows[:4]])
    kill(process)

    heard[0] += (await process.infer([state], [windows[4:]]))[0]

    assert heard[0] == expected(windows)


async def test_a_death_in_mid_batch_is_made_good(process: SileroProcess) -> None:
    windows = noisy(6, 2_000)
    asking = asyncio.create_task(process.infer([VadState()], [windows]))
    await asyncio.sleep(0)
    kill(process)

    assert (await asking)[0] == expected(windows)


async def test_after_stop_nothing_runs_and_callers_are_told() -> None:
    process = SileroProcess()
    await process.start()
    pid = process.pid
    assert pid is not None

    await process.stop()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(Overloaded):
        await process.infer([VadState()], [noisy(1, 1)])


def test_a_request_survives_the_pipe() -> None:
    states = [VadState(np.full((2, 128), seed, np.float32)) for seed in range(3)]
    windows = [noisy(seed, seed + 1) for seed in range(3)]

    recurrent, contexts, rows = unpack_request(pack_request(states, windows))

    assert [float(row[0, 0]) for row in recurrent] == [0.0, 1.0, 2.0]
    assert contexts.shape == (3, 64)
    assert all(np.array_equal(*pair) for pair in zip(rows, windows, strict=True))

"""Several devices as one engine: streams go where there is room, a failure stays where it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stt_server.engine.base import (
    EngineInfo,
    EngineUnavailable,
    HearsSilence,
    SteppedEngine,
    StepTimes,
    StreamOptions,
    SupervisedEngine,
)
from stt_server.engine.nemo import NemoEngine
from stt_server.engine.nemo_pool import NemoPool
from stt_server.engine.nemo_stream import NemoStream
from stt_server.engine.select import make_engine
from stt_server.engine.tests.fake_batch import CAPACITY, Script
from stt_server.engine.tests.test_nemo import say, say_turn, spell, until
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import SAMPLE_RATE
from stt_server.settings import EngineName, NemoSettings, Settings

MODEL = Path(__file__).resolve().parents[4] / "shared/models/digits-streaming.nemo"

INFO = EngineInfo("fake", "For tests.", capacity=9)


def pool_of(*scripts: Script, pause_s: float = 60.0) -> NemoPool:
    def make() -> list[NemoEngine]:
        return [
            NemoEngine(
                script,
                name="fake",
                summary="For tests.",
                most_streams=9,
                tick_s=0.001,
                pauses_s=(pause_s,),
            )
            for script in scripts
        ]

    return NemoPool(make, INFO)


@asynccontextmanager
async def running(pool: NemoPool) -> AsyncIterator[NemoPool]:
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop()


def streams_of(script: Script) -> int:
    return len(script.batch.streams) if script.batch else 0


async def open_stream(pool: NemoPool) -> NemoStream:
    stream = await pool.open(StreamOptions())
    assert isinstance(stream, NemoStream)
    return stream


async def test_streams_are_spread_and_the_places_of_all_devices_can_be_had() -> None:
    scripts = Script(), Script(), Script()
    pool = pool_of(*scripts)
    assert pool.info == INFO
    async with running(pool):
        assert pool.info.capacity == 3 * CAPACITY
        assert pool.info.speculates
        assert pool.info.marks_turn_ends
        streams = [await open_stream(pool) for _ in range(3)]
        for stream in streams:
            await say(stream, 0, 1_600)
        await until(lambda: [streams_of(script) for script in scripts] == [1, 1, 1])
        streams += [await open_stream(pool) for _ in range(3 * CAPACITY - 3)]
        with pytest.raises(Overloaded):
            await pool.open(StreamOptions())
        await streams[5].close()
        await pool.open(StreamOptions())


async def test_a_device_that_fails_takes_its_places_along_and_no_other() -> None:
    broken, whole = Script(), Script()
    pool = pool_of(broken, whole)
    async with running(pool):
        first, second = await open_stream(pool), await open_stream(pool)
        broken.failing_steps = {0}
        with pytest.raises(TranscriptionError):
            await say_turn(first, 0, SAMPLE_RATE)
        assert spell(await say_turn(second, 0, SAMPLE_RATE)) == "s0"
        assert pool.fault is None
        assert pool.info.capacity == CAPACITY
        await pool.check()
        opened = [await open_stream(pool) for _ in range(CAPACITY - 1)]
        assert spell(await say_turn(opened[-1], 0, SAMPLE_RATE)) == "s0"
        with pytest.raises(Overloaded):
            await pool.open(StreamOptions())


async def test_sessions_of_a_device_that_fails_go_on_on_another_one_that_has_room() -> None:
    broken, whole = Script(), Script()
    pool = pool_of(broken, whole)
    async with running(pool):
        streams = [await open_stream(pool) for _ in range(2 * CAPACITY - 1)]
        broken.failing_steps = {0}
        with pytest.raises(TranscriptionError):
            await say_turn(streams[0], 0, SAMPLE_RATE)
        # There is one free place over there.
        assert pool.info.capacity == CAPACITY
        assert spell(await say_turn(streams[0], 9 * SAMPLE_RATE, SAMPLE_RATE)) == "s0"
        with pytest.raises(Overloaded):
            await pool.open(StreamOptions())
        for stream in streams:
            await stream.close()
        assert await open_stream(pool)


async def test_without_a_device_that_serves_there_is_a_fault_until_one_is_back() -> None:
    script = Script()
    pool = pool_of(script, pause_s=0.05)
    assert pool.fault is not None
    async with running(pool):
        stream = await open_stream(pool)
        script.failing_steps = {0}
        with pytest.raises(TranscriptionError):
            await say_turn(stream, 0, SAMPLE_RATE)
        assert pool.fault is not None
        assert pool.info.capacity == 0
        with pytest.raises(EngineUnavailable):
            await pool.check()
        await until(lambda: pool.fault is None)
        assert pool.info.capacity == CAPACITY
        assert spell(await say_turn(stream, 0, SAMPLE_RATE)) == "s0"


async def test_a_device_that_cannot_start_is_left_out() -> None:
    pool = pool_of(Script(failing_loads={0}), Script())
    async with running(pool):
        assert pool.info.capacity == CAPACITY
        stream = await open_stream(pool)
        assert spell(await say_turn(stream, 0, SAMPLE_RATE)) == "s0"


async def test_a_pool_without_a_device_says_why() -> None:
    pool = pool_of(Script(failing_loads={0}), Script(failing_loads={0}))
    with pytest.raises(EngineUnavailable, match="no model today"):
        await pool.start()
    assert pool.fault is not None
    with pytest.raises(Overloaded):
        await pool.open(StreamOptions())
    await pool.stop()


async def test_a_check_that_one_device_fails_is_passed_by_the_others() -> None:
    broken, whole = Script(), Script()
    async with running(pool_of(broken, whole)) as pool:
        broken.failing_steps = {0}
        await pool.check()
        await until(lambda: pool.info.capacity == CAPACITY)
        whole.failing_steps = {whole.steps}
        with pytest.raises(EngineUnavailable):
            await pool.check()


async def test_the_server_hears_of_every_devices_steps() -> None:
    pool = pool_of(Script(), Script())
    assert isinstance(pool, SteppedEngine)
    assert isinstance(pool, SupervisedEngine)
    assert isinstance(pool, HearsSilence)
    times: list[StepTimes] = []
    pool.on_step = times.append
    async with running(pool):
        for _ in range(2):
            await say_turn(await open_stream(pool), 0, 1_600)
    assert len(times) == 2


@pytest.mark.skipif(not MODEL.is_file(), reason="../shared/models is absent")
async def test_without_a_named_device_the_best_there_is_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    nemo = NemoSettings(checkpoint=str(MODEL), gating=False, threads=1)
    pool = make_engine(Settings(model=EngineName.PARAKEET_EOU, nemo=nemo, max_streams=2))
    assert isinstance(pool, NemoPool)
    assert pool.info.name == "parakeet-eou"
    assert pool.hears_silence
    async with running(pool):
        assert pool.info.capacity == 2
        await pool.check()

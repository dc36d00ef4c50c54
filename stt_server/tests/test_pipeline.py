"""Channels and pipelines, with stages made for the test."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import numpy as np
import pytest
from anyio import wait_all_tasks_blocked

from stt_server.events import SAMPLE_RATE, Audio
from stt_server.pipeline import EVENT_WEIGHT, Channel, ChannelClosed, Pipeline, Progress, Stage


def audio(seconds: float) -> Audio:
    return Audio(0, np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32))


async def put_all(channel: Channel[int], items: range) -> None:
    for item in items:
        await channel.put(item)
    channel.close()


# Channel


async def test_items_come_out_in_the_order_they_went_in() -> None:
    channel: Channel[int] = Channel(1.0)
    async with asyncio.TaskGroup() as group:
        group.create_task(put_all(channel, range(500)))
        assert [item async for item in channel] == list(range(500))


async def test_put_waits_while_the_channel_holds_its_bound_of_audio() -> None:
    channel: Channel[Audio] = Channel(1.0)
    await channel.put(audio(0.6))
    await channel.put(audio(0.6))
    third = asyncio.create_task(channel.put(audio(0.6)))
    await wait_all_tasks_blocked()
    assert not third.done()

    await anext(channel)

    await third


async def test_item_longer_than_the_bound_passes() -> None:
    channel: Channel[Audio] = Channel(1.0)

    await channel.put(audio(60.0))


async def test_item_longer_than_the_bound_waits_while_the_channel_is_full() -> None:
    channel: Channel[Audio] = Channel(1.0)
    await channel.put(audio(1.0))
    second = asyncio.create_task(channel.put(audio(60.0)))
    await wait_all_tasks_blocked()
    assert not second.done()

    await anext(channel)

    await second


async def test_items_without_audio_are_bounded_too() -> None:
    channel: Channel[int] = Channel(1.0)
    writer = asyncio.create_task(put_all(channel, range(1_000)))
    await wait_all_tasks_blocked()

    assert len([item async for item in channel]) == 1_000
    await writer


async def test_empty_audio_is_bounded_too() -> None:
    channel: Channel[Audio] = Channel(1.0)
    await channel.put(audio(0.0))


async def test_reading_everything_leaves_nothing_held() -> None:
    channel: Channel[Audio] = Channel(10.0)
    for seconds in (0.0, 0.001, 0.5, 2.0):
        await channel.put(audio(seconds))
    channel.close(audio(1.0))

    assert len([item async for item in channel]) == 5


async def test_several_waiting_writers_all_get_their_turn() -> None:
    channel: Channel[Audio] = Channel(0.5)
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(channel.put(audio(0.5)))
        for _ in range(5):
            await anext(channel)


async def test_cancelled_put_leaves_nothing_behind() -> None:
    channel: Channel[Audio] = Channel(0.5)
    await channel.put(audio(0.5))
    waiting = asyncio.create_task(channel.put(audio(0.5)))
    await wait_all_tasks_blocked()
    waiting.cancel()
    channel.close()

    assert len([item async for item in channel]) == 1


async def test_reader_gets_what_is_left_after_the_close() -> None:
    channel: Channel[int] = Channel(1.0)
    await channel.put(1)
    channel.close()

    assert [item async for item in channel] == [1]


async def test_close_takes_last_items_even_when_full() -> None:
    channel: Channel[int] = Channel(EVENT_WEIGHT / SAMPLE_RATE)
    await channel.put(1)

    channel.close(2, 3)

    assert [item async for item in channel] == [1, 2, 3]


async def test_second_close_changes_nothing() -> None:
    channel: Channel[int] = Channel(1.0)
    channel.close(1)
    channel.close(2)

    assert [item async for item in channel] == [1]


async def test_close_wakes_a_waiting_reader() -> None:
    channel: Channel[int] = Channel(1.0)
    reader = asyncio.create_task(anext(channel, "end"))
    await wait_all_tasks_blocked()

    channel.close()

    assert await reader == "end"


async def test_put_on_a_closed_channel_is_refused() -> None:
    channel: Channel[int] = Channel(1.0)
    channel.close()

    with pytest.raises(ChannelClosed):
        await channel.put(1)


async def test_close_refuses_a_writer_that_waits_for_room() -> None:
    channel: Channel[Audio] = Channel(0.5)
    await channel.put(audio(0.5))
    waiting = asyncio.create_task(channel.put(audio(0.5)))
    await wait_all_tasks_blocked()

    channel.close()

    with pytest.raises(ChannelClosed):
        await waiting


# Pipeline


class Times(Stage[int, int]):
    """Each number, multiplied; the sum of all inputs when they end."""

    def __init__(self, factor: int) -> None:
        self._factor = factor

    async def run(self, inputs: AsyncIterator[int]) -> AsyncGenerator[int, None]:
        total = 0
        async for number in inputs:
            total += number
            yield number * self._factor
        yield total


class Spell(Stage[int, str]):
    async def run(self, inputs: AsyncIterator[int]) -> AsyncGenerator[str, None]:
        async for number in inputs:
            yield str(number)


class FailAt(Stage[int, int]):
    def __init__(self, number: int) -> None:
        self._number = number

    async def run(self, inputs: AsyncIterator[int]) -> AsyncGenerator[int, None]:
        async for number in inputs:
            if number == self._number:
                raise ZeroDivisionError
            yield number


class Watched(Stage[int, int]):
    """Passes everything on and notes that it was closed."""

    def __init__(self) -> None:
        self.closed = False

    async def run(self, inputs: AsyncIterator[int]) -> AsyncGenerator[int, None]:
        try:
            async for number in inputs:
                yield number
        finally:
            self.closed = True


class NumberSource(Channel[int]):
    """Numbers from 0, closed."""

    def __init__(self, count: int) -> None:
        super().__init__(1.0)
        self.close(*range(count))


async def output_of(pipeline: Pipeline[int, int], count: int, *, bound_s: float = 1.0) -> list[int]:
    sink: Channel[int] = Channel(1_000.0)
    await pipeline.run(NumberSource(count), sink, bound_s=bound_s)
    sink.close()
    return [item async for item in sink]


async def test_stages_run_one_after_the_other() -> None:
    assert await output_of(Times(2) + FailAt(-1), 4) == [0, 2, 4, 6, 6]


async def test_each_stage_flushes_before_the_next_one_does() -> None:
    # Input 0, 1, 2; then the first stage's sum 3, then the second's sum of 0, 10, 20 and 3.
    assert await output_of(Times(10) + Times(1), 3) == [0, 10, 20, 3, 33]


async def test_pipelines_grow_by_addition() -> None:
    sink: Channel[str] = Channel(1.0)

    await (FailAt(-1) + FailAt(-1) + Spell()).run(NumberSource(3), sink, bound_s=1.0)
    sink.close()

    assert [item async for item in sink] == ["0", "1", "2"]


async def test_addition_leaves_the_shorter_pipeline_as_it_was() -> None:
    pipeline = FailAt(-1) + FailAt(-1)
    longer = pipeline + Times(2)

    assert await output_of(pipeline, 3) == [0, 1, 2]
    assert await output_of(longer, 3) == [0, 2, 4, 3]


async def test_narrow_channels_lose_nothing() -> None:
    out = await output_of(Watched() + Watched() + Watched(), 500, bound_s=0.001)

    assert out == list(range(500))


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_failing_stage_ends_the_pipeline_and_closes_the_others(position: int) -> None:
    watched = [Watched(), Watched()]
    stages: list[Stage[int, int]] = [*watched]
    stages.insert(position, FailAt(2))

    # The input stays open: only the failure can end this.
    source: Channel[int] = Channel(1.0)
    for number in range(5):
        await source.put(number)
    with pytest.RaisesGroup(ZeroDivisionError):
        await Pipeline[int, int](list(stages)).run(source, Channel(1.0), bound_s=1.0)

    assert all(stage.closed for stage in watched)


async def test_full_sink_stops_the_whole_pipeline() -> None:
    source: Channel[int] = Channel(0.05)
    sink: Channel[int] = Channel(0.05)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(
            (Watched() + Watched()).run(source, sink, bound_s=EVENT_WEIGHT / SAMPLE_RATE)
        )
        writer = group.create_task(put_all(source, range(100)))
        await wait_all_tasks_blocked()
        assert not writer.done()

        out = [await anext(sink) for _ in range(100)]
        await running

    assert out == list(range(100))


async def test_cancelled_pipeline_closes_its_stages() -> None:
    stages = [Watched(), Watched()]
    source: Channel[int] = Channel(1.0)
    running = asyncio.create_task((stages[0] + stages[1]).run(source, Channel(1.0), bound_s=1.0))
    await source.put(1)
    await wait_all_tasks_blocked()

    running.cancel()
    await asyncio.wait([running])

    assert running.cancelled()
    assert [stage.closed for stage in stages] == [True, True]


async def test_pipeline_whose_sink_is_closed_closes_its_stages() -> None:
    stages = [Watched(), Watched()]
    sink: Channel[int] = Channel(1.0)
    sink.close()

    with pytest.RaisesGroup(ChannelClosed):
        await (stages[0] + stages[1]).run(NumberSource(3), sink, bound_s=1.0)

    assert [stage.closed for stage in stages] == [True, True]


# Progress


def test_lag_is_what_was_received_and_is_neither_held_nor_done() -> None:
    progress = Progress(received=48_000, held=8_000, done=16_000)

    assert progress.lag_seconds == 1.5


def test_lag_is_never_negative() -> None:
    assert Progress(received=1_000, held=500, done=1_000).lag_seconds == 0

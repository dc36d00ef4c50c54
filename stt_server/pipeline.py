"""Stages, the bounded channels between them, and the one task group that runs them."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from stt_server.events import SAMPLE_RATE, Audio, Configure

In = TypeVar("In")
Out = TypeVar("Out")
Next = TypeVar("Next")

EVENT_WEIGHT = 160
"""The least that any item counts in a channel, as samples do: a flood of small ones is bounded too.
A message counts its length."""


class ChannelClosed(Exception):
    """`put` on a channel whose writer has already closed it."""


class Channel(Generic[In]):
    """A queue bounded in seconds of audio, with one reader.

    It takes an item while it holds less than its bound, however large the item: a message longer
    than the bound must pass, too.
    """

    def __init__(self, bound_s: float) -> None:
        self._bound = round(bound_s * SAMPLE_RATE)
        self._items: deque[In] = deque()
        self._held = 0
        self._closed = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    async def put(self, item: In) -> None:
        """Wait for room, then append.

        Raises:
            ChannelClosed: `close` was called.
        """
        while not self._closed and self._held >= self._bound:
            self._writable.clear()
            await self._writable.wait()
        if self._closed:
            raise ChannelClosed
        self._items.append(item)
        self._held += _weight(item)
        self._readable.set()

    def close(self, *last: In) -> None:
        """No more items but `last`, for which there is always room; the reader gets all of them.

        Closing a closed channel changes nothing.
        """
        if self._closed:
            return
        self._closed = True
        self._items.extend(last)
        self._held += sum(_weight(item) for item in last)
        self._readable.set()
        self._writable.set()

    def __aiter__(self) -> AsyncIterator[In]:
        return self

    async def __anext__(self) -> In:
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            self._readable.clear()
            await self._readable.wait()
        item = self._items.popleft()
        self._held -= _weight(item)
        if self._held < self._bound:
            self._writable.set()
        return item


def _weight(item: object) -> int:
    match item:
        case Audio(samples=samples):
            return max(len(samples), EVENT_WEIGHT)
        case str() | bytes():
            return max(len(item), EVENT_WEIGHT)
        case Configure():
            # Options are as long as a client's message may be.
            return SAMPLE_RATE
        case _:
            return EVENT_WEIGHT


class Stage(ABC, Generic[In, Out]):
    """One step of a pipeline, for one session.

    `run` iterates over its input and yields its output; when the input ends it yields what it
    still holds and returns. Control events come in-band, in order with the audio.
    """

    @abstractmethod
    def run(self, inputs: AsyncIterator[In]) -> AsyncGenerator[Out, None]:
        """The stage's output. An exception ends the whole session."""

    def __add__(self, after: "Stage[Out, Next]") -> "Pipeline[In, Next]":
        return Pipeline([self, after])


class Pipeline(Generic[In, Out]):
    """Stages joined with `+`."""

    def __init__(self, stages: list[Stage[Any, Any]]) -> None:
        self._stages = stages

    def __add__(self, after: Stage[Out, Next]) -> "Pipeline[In, Next]":
        return Pipeline([*self._stages, after])

    async def run(self, source: Channel[In], sink: Channel[Out], *, bound_s: float) -> None:
        """Run until `source` is closed and everything in it has come out into `sink`.

        Args:
            bound_s: Seconds of audio each channel between two stages holds at most.

        Raises:
            BaseExceptionGroup: a stage failed; the others have been cancelled.
        """
        async with asyncio.TaskGroup() as group:
            inputs: Channel[Any] = source
            for stage in self._stages[:-1]:
                outputs: Channel[Any] = Channel(bound_s)
                group.create_task(_pump_and_close(stage, inputs, outputs))
                inputs = outputs
            group.create_task(_pump(self._stages[-1], inputs, sink))


async def _pump_and_close(
    stage: Stage[In, Out], inputs: Channel[In], outputs: Channel[Out]
) -> None:
    await _pump(stage, inputs, outputs)
    outputs.close()


async def _pump(stage: Stage[In, Out], inputs: Channel[In], outputs: Channel[Out]) -> None:
    async with aclosing(stage.run(inputs)) as items:
        async for item in items:
            await outputs.put(item)


@dataclass(slots=True)
class Progress:
    """How far one session is: the stages write it, the session's watchdog reads it."""

    received: int = 0
    """Samples taken from the client."""
    taken: int = 0
    """The same as the client counts them: per channel, at its own rate."""
    held: int = 0
    """Samples the VAD stage keeps until the next ones come."""
    done: int = 0
    """Samples that have been through the ASR stage."""
    done_at: float = 0.0
    """When `done` last grew, on the session's clock."""
    turn_open: bool = False

    @property
    def lag_seconds(self) -> float:
        """Audio received minus audio decoded."""
        return max(0, self.received - self.held - self.done) / SAMPLE_RATE

"""Who gets a place next, and who loses one."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from stt_server.errors import Overloaded
from stt_server.files.fair_line import FairLine, Place, Revoked


class Room:
    """A line whose size can change."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.line = FairLine(lambda: self.size)
        self.came: list[str] = []
        self.leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, owner: str, name: str) -> None:
        """Someone waits and then stays until `go`; returns when the loop has nothing to do."""
        self.leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._visit(owner, name))
        await settle()

    async def go(self, name: str) -> None:
        self.leave[name].set()
        await settle()

    async def _visit(self, owner: str, name: str) -> None:
        async with self.line.place(owner):
            self.came.append(name)
            await self.leave[name].wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@asynccontextmanager
async def room(size: int) -> AsyncGenerator[Room]:
    opened = Room(size)
    try:
        yield opened
    finally:
        for task in opened.tasks.values():
            task.cancel()
        await asyncio.wait(opened.tasks.values())


async def test_no_more_come_in_than_there_are_places() -> None:
    async with room(2) as line:
        for name in "abc":
            await line.come("one", name)
        assert line.came == ["a", "b"]

        await line.go("a")
        assert line.came == ["a", "b", "c"]


async def test_a_free_place_goes_to_who_has_fewest() -> None:
    async with room(2) as line:
        for name in ("a1", "a2", "a3", "a4"):
            await line.come("a", name)
        await line.come("b", "b1")
        await line.go("a1")

        assert line.came == ["a1", "a2", "b1"]


async def test_owners_take_turns_when_there_is_one_place() -> None:
    async with room(1) as line:
        for name in ("a1", "a2", "a3"):
            await line.come("a", name)
        for name in ("b1", "b2"):
            await line.come("b", name)
        for name in ("a1", "b1", "a2", "b2"):
            await line.go(name)

        assert line.came == ["a1", "b1", "a2", "b2", "a3"]


async def test_among_equals_the_longest_wait_counts() -> None:
    async with room(1) as line:
        for name in ("a", "b", "c"):
            await line.come(name, name)
        await line.go("a")
        await line.go("b")

        assert line.came == ["a", "b", "c"]


async def test_who_gives_up_leaves_the_line() -> None:
    async with room(1) as line:
        for name in ("a", "b", "c"):
            await line.come(name, name)
        line.tasks["b"].cancel()
        await settle()
        await line.go("a")

        assert line.came == ["a", "c"]


async def test_more_places_are_handed_out_at_once() -> None:
    async with room(0) as line:
        await line.come("a", "a")
        assert line.came == []

        line.size = 1
        line.line.update()
        await settle()
        assert line.came == ["a"]


async def test_work_that_loses_its_place_is_cancelled() -> None:
    line = Room(1)
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async def hold() -> None:
        async with line.line.place("a") as place:
            await place.run(work())

    task = asyncio.create_task(hold())
    await settle()
    line.size = 0
    line.line.update()
    with pytest.raises(Revoked):
        await task
    assert ended.is_set()


async def test_the_newest_lose_their_places_first() -> None:
    line = Room(3)
    async with AsyncExitStack() as stack:
        places = [await stack.enter_async_context(line.line.place(name)) for name in "abc"]
        line.size = 1
        line.line.update()

        assert [place.revoked.is_set() for place in places] == [False, True, True]


async def test_work_that_is_done_keeps_its_result() -> None:
    async def work() -> int:
        return 7

    async with FairLine(lambda: 1).place("a") as place:
        assert await place.run(work()) == 7


async def test_a_failure_of_the_work_is_told() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Place("a").run(work())


async def test_waiting_has_an_end() -> None:
    line = FairLine(lambda: 0)
    with pytest.raises(Overloaded):
        async with line.place("a", wait_s=0.01):
            pass
    line = FairLine(lambda: 1)
    async with line.place("b", wait_s=0.01):
        pass

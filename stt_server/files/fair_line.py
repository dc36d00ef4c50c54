"""Waiting in line for a bounded number of places, fairly."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from stt_server.errors import Overloaded
from stt_server.stages.recognition import end_tasks

T = TypeVar("T")


class Revoked(Exception):
    """The place was taken back before the work was done."""


@dataclass(eq=False, slots=True)
class Place:
    """One place, or the wish for it."""

    owner: Hashable
    granted: asyncio.Event = field(default_factory=asyncio.Event)
    revoked: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` for as long as the place is held.

        Raises:
            Revoked: the place was taken back; the work has been cancelled.
        """
        task = asyncio.create_task(work)
        loss = asyncio.create_task(self.revoked.wait())
        try:
            await asyncio.wait([task, loss], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Revoked
            return task.result()
        finally:
            await end_tasks(task, loss)


class FairLine:
    """Gives a free place to the owner who holds the fewest, among equals in turn.

    When there are fewer places than are held, the newest are taken back.
    """

    def __init__(self, size: Callable[[], int]) -> None:
        """
        Args:
            size: How many places there are now; call `update` when that may have changed.
        """
        self._size = size
        self._waiting: list[Place] = []
        self._held: list[Place] = []
        self._turns = itertools.count()
        # When each owner who waits or holds something was served last.
        self._served: dict[Hashable, int] = {}

    @asynccontextmanager
    async def place(self, owner: Hashable, *, wait_s: float | None = None) -> AsyncGenerator[Place]:
        """A place, once it is this owner's turn, for as long as the context is open.

        Raises:
            Overloaded: the turn did not come within `wait_s`.
        """
        place = Place(owner)
        self._waiting.append(place)
        try:
            self.update()
            await _granted(place, wait_s)
            yield place
        finally:
            (self._held if place.granted.is_set() else self._waiting).remove(place)
            if all(other.owner != owner for other in (*self._held, *self._waiting)):
                self._served.pop(owner, None)
            self.update()

    def update(self) -> None:
        """Hand out what is free, take back what there is not any more."""
        size = self._size()
        for place in self._held[size:]:
            place.revoked.set()
        while self._waiting and len(self._held) < size:
            place = self._next()
            self._served[place.owner] = next(self._turns)
            self._waiting.remove(place)
            self._held.append(place)
            place.granted.set()

    def _next(self) -> Place:
        holding = Counter(place.owner for place in self._held)

        def rank(place: Place) -> tuple[int, int]:
            return holding[place.owner], self._served.get(place.owner, -1)

        return min(self._waiting, key=rank)


async def _granted(place: Place, wait_s: float | None) -> None:
    try:
        async with asyncio.timeout(wait_s):
            await place.granted.wait()
    except TimeoutError:
        raise Overloaded("too many files are waiting, try again later") from None

"""Deciding whether a new session is taken. A live caller is never queued."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from stt_server.errors import Overloaded


class Admission:
    """Counts sessions against the server's capacity."""

    def __init__(self, capacity: int | Callable[[], int]) -> None:
        """
        Args:
            capacity: sessions at once; asked anew each time where it may change.
        """
        self._capacity = capacity
        self.active = 0
        self.is_open = True
        self.on_change: Callable[[], None] = lambda: None
        """Called when `active` has changed: who uses what is free must make room."""

    @property
    def capacity(self) -> int:
        """Sessions at once at most, as of now."""
        return self._capacity if isinstance(self._capacity, int) else self._capacity()

    @contextmanager
    def place(self) -> Generator[None]:
        """One session's place, for as long as the context is open.

        Raises:
            Overloaded: none is free, or the server is going down.
        """
        if not self.is_open:
            raise Overloaded("the server is shutting down")
        if self.active >= self.capacity:
            raise Overloaded("all places are taken, try again later")
        self.active += 1
        try:
            self.on_change()
            yield
        finally:
            self.active -= 1
            self.on_change()

"""The messages of a session that its client may not have."""

from stt_server.protocols.base import Message
from stt_server.protocols.native_resume import is_interim, is_segment, stamp


class ReplayBuffer:
    """Numbers messages and keeps them for a client that comes back. Pure: no I/O, no clock.

    An interim is let go when the segment that replaces it follows, so what fills the memory are
    finals and events. What was sent is kept while there is room.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._messages: dict[int, str] = {}
        self._bytes = 0  # as they are on the wire
        self._interim: int | None = None
        self._begin = self._next = 0

    @property
    def is_full(self) -> bool:
        """No room is left for what a client that is away has to get later."""
        return self._bytes >= self._max_bytes

    @property
    def next_number(self) -> int:
        """What the next message will have."""
        return self._next

    def can_repeat_from(self, number: int) -> bool:
        """Whether a client that has the messages before `number` would get all the others."""
        return self._begin <= number <= self._next

    def add(self, message: Message, *, ack_samples: int) -> None:
        """Number and keep `message`."""
        text = stamp(message, self._next, ack_samples)
        if is_segment(text):
            if self._interim in self._messages:
                self._drop(self._interim)
            self._interim = self._next if is_interim(text) else None
        self._messages[self._next] = text
        self._bytes += len(text.encode())
        self._next += 1

    def first_from(self, number: int) -> tuple[int, str] | None:
        """The first message that is `number` or later, with its own number; None: no such yet."""
        while number < self._next:
            if number in self._messages:
                return number, self._messages[number]
            number += 1
        return None

    def forget(self, number: int) -> None:
        """The client has the messages before `number`."""
        for known in [kept for kept in self._messages if kept < number]:
            self._drop(known)
        self._begin = max(self._begin, number)

    def shrink(self, number: int) -> None:
        """Keep half of the room free by dropping the oldest of the messages before `number`, which
        were sent: the client has them unless it lost them on the way."""
        while self._bytes > self._max_bytes // 2:
            oldest = next(iter(self._messages))
            if oldest >= number:
                return
            self._drop(oldest)
            self._begin = oldest + 1

    def _drop(self, number: int) -> None:
        self._bytes -= len(self._messages.pop(number).encode())

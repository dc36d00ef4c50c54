"""Messages that came and were not read by the program yet: bounded."""

from collections import deque

from stt_server.clients.messages import ServerMessage
from stt_server.protocols.native_messages import TranscriptionSegment

_THIN_BYTES = 2**20
_FULL_BYTES = 16 * 2**20
"""Holds the finals and events of a session of any legal length, words and times included."""


class Inbox:
    """First in, first out. Pure: no I/O, no waiting.

    A program that reads late gets everything until 1 MiB waits. Beyond that an interim is replaced
    by the segment that follows it, as it would be on a screen. `is_full` tells the reader of the
    socket to pause.
    """

    def __init__(self, *, thin_bytes: int = _THIN_BYTES, full_bytes: int = _FULL_BYTES) -> None:
        self._messages: deque[tuple[str, bool]] = deque()  # text, whether it is an interim
        self._bytes = 0
        self._thin_bytes = thin_bytes
        self._full_bytes = full_bytes

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def is_full(self) -> bool:
        return self._bytes >= self._full_bytes

    def put(self, text: str, message: ServerMessage) -> None:
        """Keep `text`, which says `message`; the object would take ten times the memory."""
        is_segment = isinstance(message, TranscriptionSegment)
        if is_segment and self._bytes >= self._thin_bytes and self._messages[-1][1]:
            self._bytes -= len(self._messages.pop()[0])
        self._messages.append((text, is_segment and not message.is_final))
        self._bytes += len(text)

    def get(self) -> str:
        """The oldest message, as it came.

        Raises:
            IndexError: there is none.
        """
        text, _ = self._messages.popleft()
        self._bytes -= len(text)
        return text

"""What a client has sent and its server may not have."""

from collections import deque
from collections.abc import Iterator


class Unacknowledged:
    """Audio and control messages in the order in which they were sent. Pure: no I/O, no clock.

    The server acknowledges samples. A control message is known to have come once a sample behind it
    was acknowledged.

    Attributes:
        acked: Samples per channel that the server has.
        controls: How many control messages are known to have come.
    """

    def __init__(self, frame_bytes: int) -> None:
        """
        Args:
            frame_bytes: Bytes of one sample over all channels.
        """
        self.acked = 0
        self.controls = 0
        self._frame_bytes = frame_bytes
        self._sent = 0  # samples
        self._entries: deque[tuple[int, str | bytes]] = deque()  # samples up to its end; message

    def __iter__(self) -> Iterator[str | bytes]:
        """What to send again, beginning with the sample after `acked`."""
        return (message for _, message in self._entries)

    def add(self, message: str | bytes) -> None:
        """Keep a message that is about to be sent: a control message or whole samples."""
        if isinstance(message, bytes):
            self._sent += len(message) // self._frame_bytes
        self._entries.append((self._sent, message))

    def acknowledge(self, samples: int) -> None:
        """The server has the first `samples` of all."""
        self.acked = max(self.acked, min(samples, self._sent))
        while self._entries:
            end, message = self._entries[0]
            if isinstance(message, str):
                if end >= self.acked:
                    return
                self.controls += 1
            elif end > self.acked:
                kept = (end - self.acked) * self._frame_bytes
                if kept < len(message):
                    self._entries[0] = end, message[len(message) - kept :]
                return
            self._entries.popleft()

"""How much audio may be under way to the server without having been read."""


class AckWindow:
    """Bytes sent against bytes known to be read. Pure: no I/O, no clock.

    A sender faster than real time would otherwise fill megabytes of socket buffers, and whatever
    it sends next (a ping, `finish`) would lie unread behind minutes of audio: the server reads
    nothing while it is `max_backlog_s` behind. So a JSON ping follows every `step` bytes; its pong,
    which the server sends when it *reads* the ping, tells that the audio before it was read.
    """

    def __init__(self, *, limit: int, step: int) -> None:
        self._limit = limit
        self._step = step
        self._sent = 0
        self._marked = 0
        self._read = 0

    @property
    def sent(self) -> int:
        """Bytes sent so far, which is the id of a ping that asks about all of them."""
        return self._sent

    @property
    def is_full(self) -> bool:
        """Whether the next audio must wait for a pong."""
        return self._sent - self._read >= self._limit

    def add(self, size: int) -> int | None:
        """Count `size` sent bytes; the id of the ping to send after them, if one is due."""
        self._sent += size
        if self._sent - self._marked < self._step:
            return None
        self._marked = self._sent
        return self._marked

    def acknowledge(self, mark: int) -> None:
        """The server has read the first `mark` bytes: the pong with that id came."""
        self._read = max(self._read, mark)

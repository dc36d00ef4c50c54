"""Lines out of the bytes of a TCP connection. Pure: no I/O."""

from pydantic_core import from_json

LITERAL_NEWLINE = b"}\\n"
"""A brace, a backslash and an n: how a published snippet ends its pings."""
_OFTEN_TRIED_BYTES = 2**16


class LineSplitter:
    """Cuts a byte stream at newlines, however it was cut into packets.

    A line longer than `limit` bytes comes out as its first `limit` + 1 bytes, for the codec to
    refuse; the rest of it is dropped, so that memory is bounded.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """May be changed between two calls."""
        self._rest = bytearray()
        self._dropping = False
        self._tried = 0

    def push(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their newlines."""
        *complete, rest = data.split(b"\n")
        lines: list[bytes] = []
        for end in complete:
            self._extend(end, lines)
            if not self._dropping:
                lines.append(bytes(self._rest))
            self._start_anew()
        self._extend(rest, lines)
        if not self._dropping and self._is_marked_object():
            lines.append(bytes(self._rest))
            self._start_anew()
        return lines

    def _extend(self, data: bytes, lines: list[bytes]) -> None:
        if self._dropping:
            return
        self._rest += data
        if len(self._rest) > self.limit:
            lines.append(bytes(self._rest[: self.limit + 1]))
            self._start_anew()
            self._dropping = True

    def _start_anew(self) -> None:
        self._rest, self._dropping, self._tried = bytearray(), False, 0

    def _is_marked_object(self) -> bool:
        """Whether a complete object waits with the mark where its newline should be."""
        size = len(self._rest)
        # Long ones are tried again only when they have doubled: parsing stays linear.
        if not self._rest.endswith(LITERAL_NEWLINE) or (
            size > _OFTEN_TRIED_BYTES and size < 2 * self._tried
        ):
            return False
        self._tried = size
        try:
            return isinstance(from_json(bytes(self._rest[:-2])), dict)
        except ValueError:
            return False

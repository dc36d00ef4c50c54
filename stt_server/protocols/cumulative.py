"""The text of a whole stream, for protocols whose messages repeat all of it."""

from stt_server.events import Hypothesis


class CumulativeText:
    """The ended turns and the open one, joined by a space."""

    def __init__(self) -> None:
        self._ended = ""
        self._open = ""

    def hear(self, event: Hypothesis) -> bool:
        """Take the newest text of the open turn in; whether the stream's text is another now."""
        before = str(self)
        self._open = event.text
        if event.is_final:
            self._ended, self._open = str(self), ""
        return str(self) != before

    def __str__(self) -> str:
        return (
            f"{self._ended} {self._open}"
            if self._ended and self._open
            else self._ended or self._open
        )

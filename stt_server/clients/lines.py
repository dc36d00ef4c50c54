"""What a run shows on plain output: lines for a log, text for a pipe, JSON for a program."""

from types import TracebackType
from typing import Protocol, Self, TextIO

from stt_server.clients.messages import ServerMessage
from stt_server.protocols.native_messages import TranscriptionSegment

_INTERIM_TAIL = 100
"""Characters of an interim in a log: its end is what is new."""


class Display(Protocol):
    """What a run tells its user."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def message(self, message: ServerMessage, text: str) -> None:
        """The server sent `text`, which says `message`."""
        ...

    def sent(self, seconds: float, level_db: float | None = None) -> None:
        """So much audio was sent; the last packet was so loud."""
        ...

    def finishing(self) -> None:
        """All audio was sent."""
        ...

    def note(self, text: str) -> None:
        """Something beside the transcript that the user should know."""
        ...


class PlainOutput:
    """Shows nothing by itself but notes. Base of what has no screen to draw on."""

    def __init__(self, output: TextIO, notes: TextIO) -> None:
        self._output = output
        self._notes = notes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    def sent(self, seconds: float, level_db: float | None = None) -> None:
        return

    def finishing(self) -> None:
        return

    def note(self, text: str) -> None:
        self._write(self._notes, f"! {printable(text)}")

    def _write(self, stream: TextIO, line: str) -> None:
        stream.write(f"{line}\n")
        stream.flush()


class LogOutput(PlainOutput):
    """A line per final, and one for each interim that has another number of words."""

    _shown_words = 0

    def message(self, message: ServerMessage, text: str) -> None:
        match message:
            case TranscriptionSegment(is_final=True):
                self._shown_words = 0
                if message.text.strip():
                    self._write(self._output, f"✓ {printable(message.text)}{turn_times(message)}")
            case TranscriptionSegment():
                words = len(message.text.split())
                if words and words != self._shown_words:
                    self._shown_words = words
                    self._write(self._output, f"… {tail(printable(message.text), _INTERIM_TAIL)}")
            case _:
                return


class QuietOutput(PlainOutput):
    """The final texts and nothing else."""

    def message(self, message: ServerMessage, text: str) -> None:
        if isinstance(message, TranscriptionSegment) and message.is_final and message.text.strip():
            self._write(self._output, printable(message.text))


class JsonOutput(PlainOutput):
    """Every message as it came, one per line."""

    def message(self, message: ServerMessage, text: str) -> None:
        # Between JSON's tokens a newline is a space, and inside a string there is none.
        self._write(self._output, text.replace("\r", " ").replace("\n", " "))


def printable(text: str) -> str:
    """`text` without what a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text)


def tail(text: str, width: int) -> str:
    """At most the last `width` characters, from the beginning of a word."""
    if len(text) <= width:
        return text
    return "[…] " + text[-width:].partition(" ")[2]


def turn_times(segment: TranscriptionSegment) -> str:
    """Where the segment lies in the audio, if the server says so."""
    if segment.start is None or segment.end is None:
        return ""
    return f"  ({segment.start:.2f}–{segment.end:.2f} s)"

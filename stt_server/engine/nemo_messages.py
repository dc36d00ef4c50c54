"""What the event loop and the engine room's thread say to each other."""

from dataclasses import dataclass
from typing import TypeAlias

from stt_server.events import Samples


@dataclass(frozen=True, slots=True)
class HeardWord:
    """One word; times are samples of the stream as the worker has it."""

    text: str
    start: int
    end: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Heard:
    """A stream's open turn so far, or its end."""

    stream: int
    words: tuple[HeardWord, ...]
    language: str | None
    decoded: int
    """Samples of the stream that the words are made from."""
    received: int
    """Samples the worker has of the stream, padding included."""
    is_final: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """A stream that the model refused; it has no place any more."""

    stream: int
    why: str


Result: TypeAlias = Heard | Lost


@dataclass(frozen=True, slots=True)
class Open:
    """Begin a stream."""

    stream: int
    lookahead_ms: int | None
    language: str | None


@dataclass(frozen=True, slots=True)
class Push:
    """The next samples of a stream."""

    stream: int
    samples: Samples


@dataclass(frozen=True, slots=True)
class Report:
    """Answer with a `Heard` once so many samples are decoded, whatever was found."""

    stream: int
    decoded: int


@dataclass(frozen=True, slots=True)
class EndTurn:
    """Decode everything pushed so far, then answer with a final."""

    stream: int


@dataclass(frozen=True, slots=True)
class Close:
    """Give the place back."""

    stream: int


Command: TypeAlias = Open | Push | Report | EndTurn | Close

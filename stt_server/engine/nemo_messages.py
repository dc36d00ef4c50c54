"""What the event loop and the engine room's thread say to each other."""

from dataclasses import dataclass
from typing import TypeAlias

from stt_server.events import Samples, Token


@dataclass(frozen=True, slots=True)
class HeardWord:
    """One word; times are samples of the stream as the worker has it."""

    text: str
    start: int
    end: int
    confidence: float


@dataclass(frozen=True, slots=True)
class TurnMark:
    """The model's own `<EOU>` behind the words; `at` is where, in the samples the worker has."""

    at: int
    confidence: float


@dataclass(frozen=True, slots=True)
class HeardTurn:
    """What was heard since the last turn ended."""

    words: tuple[HeardWord, ...] = ()
    tokens: tuple[Token, ...] = ()
    language: str | None = None
    mark: TurnMark | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """A stream's open turn so far, or the answer to a command."""

    stream: int
    turn: HeardTurn
    decoded: int
    """Samples of the stream that the turn is made from."""
    received: int
    """Samples the worker has of the stream, padding included."""
    is_answer: bool
    """To `Pause`, `Look` or `EndTurn`: made from everything pushed before that."""


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
class Pause:
    """Decode everything pushed so far, on a copy if there is none yet, and answer."""

    stream: int


@dataclass(frozen=True, slots=True)
class Resume:
    """Drop the copy that `Pause` made: the stream is as it was before."""

    stream: int


@dataclass(frozen=True, slots=True)
class Look:
    """Answer with what the audio so far would give if it ended here; the stream stays as it is.

    With `ends_turn` what was told is forgotten, and what is still to be found in that audio.
    """

    stream: int
    ends_turn: bool


@dataclass(frozen=True, slots=True)
class EndTurn:
    """Decode everything pushed so far, then answer and forget the turn.

    After a `Pause` that has been done: the copy becomes the stream, and there is no answer.
    """

    stream: int


@dataclass(frozen=True, slots=True)
class Close:
    """Give the place back."""

    stream: int


Asking: TypeAlias = Pause | Look | EndTurn
"""What is answered as soon as possible."""
Command: TypeAlias = Open | Push | Report | Pause | Resume | Look | EndTurn | Close

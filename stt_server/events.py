"""The vocabulary between stages: small frozen types, nothing else.

Audio is float32 mono 16 kHz, positions are sample counts since the stream began.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from stt_server.settings import SessionOptions

SAMPLE_RATE = 16_000
WINDOW_SAMPLES = 512
"""The span the voice activity detector judges at once, 32 ms."""

Samples: TypeAlias = NDArray[np.float32]


def seconds(samples: int) -> float:
    """Seconds of `samples` at 16 kHz, rounded to the millisecond as the wire shows them."""
    return round(samples / SAMPLE_RATE, 3)


class TurnEndReason(StrEnum):
    """Why a turn ended."""

    SILENCE = "silence"
    MODEL_EOU = "model_eou"
    TURN_MODEL = "turn_model"
    STALL = "stall"
    FLUSH = "flush"
    FINISH = "finish"
    COMMIT = "commit"


@dataclass(frozen=True, slots=True)
class Audio:
    """A run of samples; every sample a client sent is in exactly one of them per stage."""

    start: int
    samples: Samples
    speech: bool = False
    """Belongs to a turn: speech, its pre-roll, or a pause inside the turn."""

    @property
    def end(self) -> int:
        return self.start + len(self.samples)


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Speech begins, after silence (a turn opens) or after a pause inside the turn."""

    at: int
    opens_turn: bool


@dataclass(frozen=True, slots=True)
class SpeechPaused:
    """Silence reached the small gap; `at` is where speech stopped."""

    at: int


@dataclass(frozen=True, slots=True)
class SegmentEnded:
    """The open turn is cut at `at` for engines that work in pieces; the turn goes on."""

    at: int


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The speaker yielded the floor; `at` is where speech stopped."""

    at: int
    reason: TurnEndReason
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class TurnCheck:
    """Silence goes on inside the open turn, up to `at`: whoever can tell whether the turn is
    complete is asked again."""

    at: int


@dataclass(frozen=True, slots=True)
class TurnEagerEnd:
    """The turn is probably over; `at` is where speech stopped.

    If it ends without a `TurnResumed` before, its final text is `text`.
    """

    at: int
    confidence: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class TurnResumed:
    """Speech goes on at `at` after an eager end: that does not count any more."""

    at: int


@dataclass(frozen=True, slots=True)
class Token:
    """One token as the model emitted it, markers such as `<EOU>` included."""

    id: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Word:
    """One word as the engine writes it; times are samples since the stream began."""

    text: str
    start: int
    end: int
    confidence: float | None = None
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """What an engine heard in the open turn so far, or in one segment.

    The first `stable` words will not change until the turn ends. Joining the words with spaces
    spells the text.
    """

    words: tuple[Word, ...] = ()
    stable: int = 0
    language: str | None = None
    confidence: float | None = None
    estimated_times: bool = False
    """The engine does not know when each word was said: the times of `words` are guesses."""
    tokens: tuple[Token, ...] = ()
    """What the words are made of, for engines that have tokens; only `resume` takes them back."""
    ends_turn: float | None = None
    """The model itself says, with this confidence, that the turn is complete."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The best text of turn number `turn` now. `stable` never changes again within the turn."""

    turn: int
    stable: str
    unstable: str
    words: tuple[Word, ...]
    start: int
    end: int
    is_final: bool = False
    confidence: float | None = None
    language: str | None = None
    estimated_times: bool = False
    """Times of some of `words` are guesses."""
    tokens: tuple[Token, ...] = ()
    """What the words are made of, for engines that have tokens."""
    audio_samples: int = 0
    """Of a final: how much of the turn's audio was heard."""

    @property
    def text(self) -> str:
        return self.stable + self.unstable


@dataclass(frozen=True, slots=True)
class StreamError:
    """An error for the client; a fatal one is followed by the end of the session."""

    code: str
    message: str
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class Backlog:
    """The server is `seconds` of audio behind this client."""

    seconds: float


# What a client asks for, in order with its audio.


@dataclass(frozen=True, slots=True)
class Flush:
    """End the open turn now; the session goes on."""

    id: str | int | float | bool | None = None
    """The client's own name for it, given back with the answer."""
    reason: TurnEndReason = TurnEndReason.FLUSH
    """What the turn's end is told to have been."""


@dataclass(frozen=True, slots=True)
class Clear:
    """Forget the open turn, and all audio up to `at`: it has no end and no final."""

    at: int = 0
    """Known behind the stage that finds turns."""


@dataclass(frozen=True, slots=True)
class Stall:
    """The client stopped sending in the middle of a turn: end it as if silence was heard."""


@dataclass(frozen=True, slots=True)
class Configure:
    """New session options, in force from here on."""

    options: SessionOptions


@dataclass(frozen=True, slots=True)
class Finished:
    """All audio has been transcribed and sent; nothing follows."""

    samples: int


StreamEvent: TypeAlias = (
    Audio
    | SpeechStarted
    | SpeechPaused
    | SegmentEnded
    | TurnCheck
    | TurnEagerEnd
    | TurnResumed
    | TurnEnded
    | Hypothesis
    | StreamError
    | Backlog
    | Flush
    | Clear
    | Stall
    | Configure
    | Finished
)
"""What travels through a pipeline."""

"""What a recogniser must do to serve this server. Implementations live beside this file.

Two shapes. A *streaming* engine takes audio as it comes and revises what it heard; a *segment*
engine transcribes one finished piece. Neither knows protocols, turns' reasons or sockets, and
neither may block the event loop: work runs in the engine's own threads or processes.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias, runtime_checkable

from stt_server.events import Audio, Transcript, TurnEndReason
from stt_server.settings import SessionOptions


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine is and can do, for logs, health and clients."""

    name: str
    summary: str
    """One honest sentence for the operator: what it is good for and how accurate it is."""
    capacity: int
    """Streams at once."""
    lookaheads_ms: tuple[int, ...] = ()
    """Look-aheads a stream may choose from, empty when there is nothing to choose; streams that do
    not choose get the least."""
    speculates: bool = False
    """Its streams are `SpeculativeStream`s."""
    marks_turn_ends: bool = False
    """Transcripts may have `ends_turn`: the model has an `<EOU>` token."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Hints for one stream; an engine may ignore each of them."""

    language: str | None = None
    vocabulary: tuple[str, ...] = ()
    lookahead_ms: int | None = None

    @classmethod
    def of(cls, session: SessionOptions) -> Self:
        """What of a session's options concerns the engine."""
        return cls(session.language, session.vocabulary, session.lookahead_ms)


class RecognitionStream(Protocol):
    """Engine-side state of one session. Calls come one at a time, in order.

    Every method may raise `TranscriptionError` (the words of the open turn since the last
    `end_turn` are lost to the engine, the stream remains usable and the next `push` begins
    anew) or `Overloaded` (the stream is gone for good).
    """

    async def push(self, audio: Audio) -> Transcript | None:
        """Hear the next samples of the open turn; they follow the last ones without a gap.

        Returns:
            The turn's transcript if it may have changed, else None. Awaiting it is the
            back-pressure: it returns when the engine is ready for more.
        """
        ...

    async def end_turn(self) -> Transcript:
        """The final transcript of everything pushed since the last turn ended."""
        ...

    async def close(self) -> None:
        """Give the place back, at once and whatever the stream was doing. Never raises."""
        ...


@runtime_checkable
class SpeculativeStream(RecognitionStream, Protocol):
    """A stream that can tell, in the middle of a turn, what its final would be."""

    async def pause(self) -> Transcript:
        """Speech has paused: the transcript as `end_turn` would give it now; everything is stable.

        What is pushed until `resume` is silence, and may be left out. Called again during the same
        pause, it takes that silence into account for `ends_turn` alone: the words stay as they
        were. `end_turn` during a pause gives the words of `pause`.
        """
        ...

    async def resume(self) -> None:
        """Speech goes on: as if `pause` had not been called. Does nothing without a pause."""
        ...


@runtime_checkable
class AnnouncingStream(Protocol):
    """A stream that finds words between two pushes."""

    on_news: Callable[[], None] | None
    """Called on the event loop when there is something to `take_news` of."""

    def take_news(self) -> Transcript | None:
        """What the next `push` would return if it were given nothing."""
        ...


class TurnDetector(Protocol):
    """Judges whether a turn is complete while its speaker pauses. One per session; calls come one
    at a time. None of them raises but for cancellation: who cannot judge says so."""

    @property
    def reason(self) -> TurnEndReason: ...

    async def hear(self, audio: Audio) -> None:
        """The next samples of the open turn."""
        ...

    async def judge(self) -> float | None:
        """How sure it is that the turn is complete with what it has heard, in 0..1; None when it
        cannot tell. Takes a bounded time."""
        ...

    async def reset(self) -> None:
        """The turn has ended."""
        ...

    async def close(self) -> None:
        """The session is over."""
        ...


@runtime_checkable
class HearsPauses(TurnDetector, Protocol):
    """A turn detector that must know where the silence begins that it is asked about."""

    def pause(self, at: int) -> None:
        """Speech stopped at sample `at`: what is heard between there and `judge` is silence."""
        ...


class Engine(Protocol):
    """What the server does with any engine."""

    @property
    def info(self) -> EngineInfo: ...

    async def start(self) -> None:
        """Load and warm up; returns once real audio has been recognised.

        Raises:
            EngineUnavailable: what is missing and how to get it, in one sentence.
        """
        ...

    async def check(self) -> None:
        """Recognise something small now, or raise; `/ready` asks this."""
        ...

    async def stop(self) -> None:
        """Free everything. Never raises; open streams fail with `Overloaded`."""
        ...


class StreamingEngine(Engine, Protocol):
    """Takes audio as it comes and revises its hypothesis."""

    async def open(self, options: StreamOptions) -> RecognitionStream:
        """Take a place for one session.

        Raises:
            Overloaded: no place is free.
        """
        ...


@runtime_checkable
class SegmentEngine(Engine, Protocol):
    """Transcribes one finished piece of audio at a time; may batch across callers."""

    @property
    def max_segment_samples(self) -> int:
        """Longest piece the model was made for."""
        ...

    async def transcribe(self, audio: Audio, options: StreamOptions) -> Transcript:
        """The transcript of `audio`; word times are positions of the stream, like `audio.start`.

        Cancelling the call abandons the piece.

        Raises:
            TranscriptionError: this piece failed; the next one may not.
            Overloaded: more pieces are waiting than the engine can get to.
        """
        ...


@dataclass(frozen=True, slots=True)
class StepTimes:
    """One step of a model, for all streams at once."""

    streams: int
    """How many had something to be heard."""
    seconds: float
    """What the step took."""
    lag_s: float
    """How long audio waited at most: from its coming to the end of the first step after that. What
    a step leaves over counts as come when that step began."""


@runtime_checkable
class SteppedEngine(Protocol):
    """An engine that steps all its streams together, and tells how long that takes."""

    on_step: Callable[[StepTimes], None]
    """Called after each step, on the engine's own thread; set before `start`."""


@runtime_checkable
class HearsSilence(Protocol):
    """A streaming engine whose streams may want the whole session, as one recording."""

    @property
    def hears_silence(self) -> bool:
        """Whether its streams want everything from the session's first sample on, in order: also
        `Audio(speech=False)`, for which `push` gives nothing.

        Then nothing is left out during a pause, `resume` takes no audio back, and `end_turn` gives
        what the model found in everything pushed: rarely that differs from what `pause` gave.
        """
        ...


@runtime_checkable
class SupervisedEngine(Protocol):
    """An engine that notices by itself when it cannot serve."""

    @property
    def fault(self) -> str | None:
        """Why nothing can be recognised now; None when all is well."""
        ...


class EngineUnavailable(Exception):
    """The engine cannot run here: a package, a device or a checkpoint is missing."""


MODEL_PACKAGES = "pip install torch safetensors sentencepiece tokenizers pyyaml"
"""What NVIDIA's models need, as a command for everybody: from a checkout there is a better one."""


def missing_package(model: str, error: ImportError) -> EngineUnavailable:
    """One of `MODEL_PACKAGES` is not here."""
    return EngineUnavailable(f"{model} needs {error.name}: {MODEL_PACKAGES} (see README, Install)")


OpenStream: TypeAlias = Callable[[StreamOptions], Awaitable[RecognitionStream]]
"""How the ASR stage gets its stream."""

"""What the engine room needs of a model and of its batch of live streams."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from stt_server.engine.nemo_messages import HeardTurn
from stt_server.events import Samples


class LiveBatch(Protocol):
    """What the worker needs of a model's streams; `NemoBatch` is the real one."""

    @property
    def slots(self) -> int: ...

    @property
    def ready(self) -> bool: ...

    @property
    def stepped(self) -> int:
        """How many streams had a chunk in the last step."""
        ...

    def open(self, lookahead_ms: int | None, language: str | None) -> int: ...

    def push(self, slot: int, samples: Samples) -> None: ...

    def has_chunk(self, slot: int) -> bool:
        """Whether the next step advances this stream."""
        ...

    def push_tail(self, slot: int) -> int:
        """Push silence in which the model can say the last word; gives its samples."""
        ...

    def pad(self, slot: int) -> int:
        """Push the silence that completes the newest chunk; gives its samples."""
        ...

    def finish(self, slot: int) -> None:
        """The audio ends here: all of it is decoded without more, and nothing more comes."""
        ...

    def has_ended(self, slot: int) -> bool:
        """Whether all of a finished stream is decoded."""
        ...

    def step(self) -> list[int]:
        """One step of all ready streams; gives the slots with new tokens."""
        ...

    def decoded(self, slot: int) -> int: ...

    def turn(self, slot: int) -> HeardTurn:
        """Since the last `end_turn`."""
        ...

    def end_turn(self, slot: int, *, undecoded: bool) -> None:
        """The turn was told; with `undecoded` also what is still to be found in its audio."""
        ...

    def snapshot(self, slot: int) -> object:
        """A copy of a stream."""
        ...

    def restore(self, slot: int, snapshot: object) -> None:
        """Go back to where `snapshot` was made, also after `finish`."""
        ...

    def close(self, slot: int) -> None: ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What a worker tells once its model is ready."""

    batch: LiveBatch
    capacity: int
    lookaheads_ms: tuple[int, ...]
    marks_turn_ends: bool = False
    """It has an `<EOU>` token."""


class ModelSource(Protocol):
    """Where batches come from; used on the worker's thread alone."""

    def open(self, is_stopping: Callable[[], bool]) -> LoadedModel:
        """A new batch; the model is loaded if need be. Gives up when `is_stopping()`."""
        ...

    def discard(self) -> None:
        """Load the model again the next time."""
        ...

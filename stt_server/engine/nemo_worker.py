"""The engine room: one thread owns a model and steps all its live streams in one batch.

Every method but `post` and `stop` runs on that thread. Nothing here knows asyncio: what the thread
finds goes to a callback, once per tick.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

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


class LiveBatch(Protocol):
    """What the worker needs of a model's streams; `NemoBatch` is the real one."""

    @property
    def slots(self) -> int: ...

    @property
    def ready(self) -> bool: ...

    def open(self, lookahead_ms: int | None, language: str | None) -> int: ...

    def push(self, slot: int, samples: Samples) -> None: ...

    def pad(self, slot: int) -> int:
        """Push the silence that completes the newest chunk; gives its samples."""
        ...

    def step(self) -> list[int]:
        """One step of all ready streams; gives the slots with new words."""
        ...

    def decoded(self, slot: int) -> int: ...

    def words(self, slot: int) -> tuple[tuple[HeardWord, ...], str | None]:
        """Since `forget`, and the language."""
        ...

    def forget(self, slot: int) -> None: ...

    def close(self, slot: int) -> None: ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What a worker tells once its model is ready."""

    batch: LiveBatch
    capacity: int
    lookaheads_ms: tuple[int, ...]


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


@dataclass(slots=True)
class _Place:
    slot: int
    received: int = 0
    changed: bool = False
    report_at: int | None = None
    final_at: int | None = None
    """Decode so many samples, then the open turn is complete."""

    @property
    def asked(self) -> bool:
        return self.report_at is not None or self.final_at is not None


class NemoWorker:
    """Runs ticks: take what came, step everything that has a whole chunk, hand the results on.

    An exception of the model ends the thread: `on_failure` is called, the batch is never used
    again.
    """

    def __init__(
        self,
        make_batch: Callable[[], LiveBatch],
        *,
        tick_s: float,
        on_results: Callable[[list[Heard]], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._make_batch = make_batch
        self._tick_s = tick_s
        self._on_results, self._on_failure = on_results, on_failure
        self._inbox: deque[Command] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._places: dict[int, _Place] = {}
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="nemo-worker", daemon=True)

    def start(self) -> None:
        """Begin with `make_batch`; `on_failure` is called if that fails."""
        self._thread.start()

    def post(self, command: Command) -> None:
        """Hand a command to the thread; never waits."""
        self._inbox.append(command)
        self._wake.set()

    @property
    def busy_s(self) -> float:
        """How long the present tick has computed; 0 while the thread waits."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def stop(self) -> None:
        """Let the thread end after its present step; never waits."""
        self._stopping = True
        self._wake.set()

    def is_stopping(self) -> bool:
        """Whether the thread was asked to end."""
        return self._stopping

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout_s)

    # On the thread

    def _run(self) -> None:
        try:
            batch = self._make_batch()
            while not self.is_stopping():
                self._tick(batch)
        except Exception as error:
            self._on_failure(error)

    def _tick(self, batch: LiveBatch) -> None:
        began = time.monotonic()
        self._wake.clear()
        self._busy_since = began
        self._take(batch)
        slots = batch.step() if batch.ready else []
        self._note(slots)
        results = self._results(batch)
        self._busy_since = None
        if results:
            self._on_results(results)
        if batch.ready:
            return
        if not self._inbox:
            self._wake.wait()
        # Whoever sends at about the same time shares a step.
        time.sleep(max(0.0, began + self._tick_s - time.monotonic()))

    def _take(self, batch: LiveBatch) -> None:
        while self._inbox:
            command = self._inbox.popleft()
            match command:
                case Open(stream, lookahead_ms, language):
                    self._places[stream] = _Place(batch.open(lookahead_ms, language))
                case Push(stream, samples):
                    place = self._places[stream]
                    batch.push(place.slot, samples)
                    place.received += len(samples)
                case Report(stream, decoded):
                    self._places[stream].report_at = decoded
                case EndTurn(stream):
                    place = self._places[stream]
                    place.final_at = place.received
                    place.received += batch.pad(place.slot)
                case Close(stream):
                    batch.close(self._places.pop(stream).slot)

    def _note(self, slots: Sequence[int]) -> None:
        changed = set(slots)
        for place in self._places.values():
            place.changed = place.changed or place.slot in changed

    def _results(self, batch: LiveBatch) -> list[Heard]:
        found: list[Heard] = []
        for stream, place in self._places.items():
            if not (place.changed or place.asked):
                continue
            decoded = batch.decoded(place.slot)
            is_final = place.final_at is not None and decoded >= place.final_at
            is_reported = place.report_at is not None and decoded >= place.report_at
            if not (place.changed or is_final or is_reported):
                continue
            words, language = batch.words(place.slot)
            found.append(Heard(stream, words, language, decoded, place.received, is_final))
            place.changed, place.report_at = False, None if is_reported else place.report_at
            if is_final:
                place.final_at = None
                batch.forget(place.slot)
        return found

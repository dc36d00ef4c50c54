"""The engine room: one thread owns a model and steps all its live streams in one batch.

Every method but `post` and `stop` runs on that thread. Nothing here knows asyncio: what the thread
finds goes to a callback, once per tick.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from stt_server.engine.nemo_messages import (
    Close,
    Command,
    EndTurn,
    Heard,
    HeardWord,
    Lost,
    Open,
    Push,
    Report,
    Result,
)
from stt_server.events import Samples

logger = logging.getLogger(__name__)


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


class ModelSource(Protocol):
    """Where batches come from; used on the worker's thread alone."""

    def open(self, is_stopping: Callable[[], bool]) -> LoadedModel:
        """A new batch; the model is loaded if need be. Gives up when `is_stopping()`."""
        ...

    def discard(self) -> None:
        """Load the model again the next time."""
        ...


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
        on_results: Callable[[list[Result]], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._make_batch = make_batch
        self._tick_s = tick_s
        self._on_results, self._on_failure = on_results, on_failure
        self._inbox: deque[Command] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._places: dict[int, _Place] = {}
        self._busy_since: float | None = None
        self.failure: BaseException | None = None
        """What ended the thread."""
        self._thread = threading.Thread(target=self._run, name="nemo-worker", daemon=True)

    def start(self) -> None:
        """Begin with `make_batch`; `on_failure` is called if that fails."""
        self._thread.start()

    def post(self, command: Command) -> None:
        """Hand a command to the thread; never waits."""
        self._inbox.append(command)
        self._wake.set()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs, and keeps its model's memory."""
        return self._thread.is_alive()

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
        except BaseException as error:  # a panic of the int8 kernels is no Exception
            self.failure = error
            self._on_failure(error)

    def _tick(self, batch: LiveBatch) -> None:
        began = time.monotonic()
        self._wake.clear()
        self._busy_since = began
        results: list[Result] = list(self._take(batch))
        slots = batch.step() if batch.ready else []
        self._note(slots)
        results += self._heard(batch)
        self._busy_since = None
        if results:
            self._on_results(results)
        if batch.ready:
            return
        if not self._inbox and not self._stopping:
            self._wake.wait()
        # Whoever sends at about the same time shares a step.
        time.sleep(max(0.0, began + self._tick_s - time.monotonic()))

    def _take(self, batch: LiveBatch) -> Iterator[Lost]:
        while self._inbox:
            command = self._inbox.popleft()
            try:
                self._do(batch, command)
            except Exception as error:  # of this stream alone: no step has been made
                logger.warning("stream.refused", exc_info=error)
                place = self._places.pop(command.stream, None)
                if place is not None:
                    batch.close(place.slot)
                yield Lost(command.stream, str(error))

    def _do(self, batch: LiveBatch, command: Command) -> None:
        if isinstance(command, Open):
            slot = batch.open(command.lookahead_ms, command.language)
            self._places[command.stream] = _Place(slot)
            return
        place = self._places.get(command.stream)
        if place is None:
            return  # it was lost; its sender will hear of it
        match command:
            case Push(samples=samples):
                batch.push(place.slot, samples)
                place.received += len(samples)
            case Report(decoded=decoded):
                place.report_at = decoded
            case EndTurn():
                place.final_at = place.received
                place.received += batch.pad(place.slot)
            case Close(stream):
                del self._places[stream]
                batch.close(place.slot)

    def _note(self, slots: Sequence[int]) -> None:
        changed = set(slots)
        for place in self._places.values():
            place.changed = place.changed or place.slot in changed

    def _heard(self, batch: LiveBatch) -> list[Heard]:
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

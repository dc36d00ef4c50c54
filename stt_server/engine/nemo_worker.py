"""The engine room: one thread owns a model and steps all its live streams in one batch.

The event loop hands commands in and gets what was heard once per tick; the thread alone touches the
model.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from nemo_lite.errors import NemoLiteError
from stt_server.engine.base import EngineUnavailable, StepTimes
from stt_server.engine.nemo_messages import (
    Asking,
    Close,
    Command,
    EndTurn,
    Heard,
    Look,
    Lost,
    Open,
    Pause,
    Push,
    Report,
    Result,
    Resume,
)
from stt_server.engine.nemo_model import LiveBatch, LoadedModel, ModelSource

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Moment:
    """A stream before its end was tried out."""

    copy: object
    received: int


@dataclass(slots=True)
class _Place:
    slot: int
    received: int = 0
    changed: bool = False
    report_at: int | None = None
    asked: Asking | None = None
    """What is to be answered."""
    answer_at: int | None = None
    """Once so many samples are decoded; unknown until all whole chunks are."""
    before: _Moment | None = None
    """The way back; one per stream bounds the memory that copies take."""


class NemoWorker:
    """Runs ticks: take what came, step everything that has a whole chunk, hand the results on.

    Made and used on the event loop, for one life of the thread: an exception of the model ends it.
    """

    def __init__(
        self,
        source: ModelSource,
        *,
        tick_s: float,
        on_results: Callable[[list[Result]], None],
        on_step: Callable[[StepTimes], None],
    ) -> None:
        """
        Args:
            source: of the model.
            tick_s: how long audio waits for that of other streams.
            on_results: called on the event loop, once per tick.
            on_step: called on the thread, after each step.
        """
        self._source, self._tick_s = source, tick_s
        self._on_results, self._on_step = on_results, on_step
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[Command] = deque()
        self._wake, self._urgent = threading.Event(), threading.Event()
        self._stopping = False
        self._places: dict[int, _Place] = {}
        self._busy_since: float | None = None
        self._audio_since: float | None = None
        """When the oldest audio came that was in no step yet."""
        self.opened: asyncio.Future[LoadedModel] = self._loop.create_future()
        """Done when streams are taken, or with what kept the model from that."""
        self.ended = asyncio.Event()
        """Set when the thread is gone, stopped or failed."""
        threading.Thread(target=self._run, name="nemo-worker", daemon=True).start()

    def post(self, command: Command) -> None:
        """Hand a command to the thread; never waits."""
        self._inbox.append(command)
        if self._audio_since is None and isinstance(command, Push):
            self._audio_since = time.monotonic()
        if isinstance(command, Asking):
            self._urgent.set()
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

    def _on_opened(self, model: LoadedModel) -> None:
        if not self.opened.done():
            self.opened.set_result(model)

    def _on_ended(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(error or RuntimeError("stopped before it began"))
        self.ended.set()

    # On the thread

    def _run(self) -> None:
        error: Exception | None = None
        is_open = False
        try:
            model = self._source.open(lambda: self._stopping)
            is_open = True
            self._post(self._on_opened, model)
            while not self._stopping:
                self._tick(model.batch)
        except BaseException as caught:  # a panic of the int8 kernels is no Exception
            plain = caught if isinstance(caught, Exception) else RuntimeError(repr(caught))
            # Why a model cannot be had is told by whoever started this.
            if is_open or not isinstance(plain, EngineUnavailable | NemoLiteError):
                logger.error("engine.failed", exc_info=plain)
            # Its traceback holds the batch and all its memory, which the next one needs.
            error = plain.with_traceback(None)
        self._post(self._on_ended, error)

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        # The loop may be gone when a thread that hung comes back.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _tick(self, batch: LiveBatch) -> None:
        began = time.monotonic()
        self._wake.clear()
        self._urgent.clear()
        self._busy_since = began
        since, self._audio_since = self._audio_since, None
        results: list[Result] = [*self._take(batch), *self._begin_answers(batch)]
        if batch.ready:
            self._note(self._step(batch, since))
            results += self._begin_answers(batch)
        results += self._heard(batch)
        self._busy_since = None
        if results:
            self._post(self._on_results, results)
        if batch.ready:
            return
        if not self._inbox and not self._stopping:
            self._wake.wait()
        # Whoever sends at about the same time shares a step. Who waits for an answer does not wait
        # for others.
        self._urgent.wait(max(0.0, began + self._tick_s - time.monotonic()))

    def _step(self, batch: LiveBatch, since: float | None) -> list[int]:
        began = time.monotonic()
        slots = batch.step()
        ended = time.monotonic()
        # A step for the end of a turn alone has no audio that waited for it.
        self._on_step(StepTimes(batch.stepped, ended - began, ended - (since or began)))
        if batch.ready:  # a backlog: what is left came before this step
            self._audio_since = began
        return slots

    def _take(self, batch: LiveBatch) -> Iterator[Lost]:
        while self._inbox:
            command = self._inbox.popleft()
            try:
                self._do(batch, command)
            except Exception as error:  # of this stream alone: no step has been made
                yield self._lose(batch, command.stream, error)

    def _lose(self, batch: LiveBatch, stream: int, error: Exception) -> Lost:
        logger.warning("stream.refused", exc_info=error)
        place = self._places.pop(stream, None)
        if place is not None:
            batch.close(place.slot)
        return Lost(stream, str(error))

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
            case EndTurn() if place.before is not None:
                place.before = None
                batch.end_turn(place.slot, undecoded=False)
            case Pause() | Look() | EndTurn():
                place.asked, place.answer_at = command, None
            case Resume():
                _go_back(batch, place)
            case Close(stream):
                del self._places[stream]
                batch.close(place.slot)

    def _begin_answers(self, batch: LiveBatch) -> Iterator[Lost]:
        """Let everything pushed be decoded for those who ask, once their whole chunks are: what is
        decoded anyway need not be decoded twice."""
        for stream, place in list(self._places.items()):
            if place.asked is None or place.answer_at is not None or batch.has_chunk(place.slot):
                continue
            try:
                _begin_answer(batch, place)
            except Exception as error:  # no memory for the copy
                yield self._lose(batch, stream, error)

    def _note(self, slots: Sequence[int]) -> None:
        changed = set(slots)
        for place in self._places.values():
            place.changed = place.changed or place.slot in changed

    def _heard(self, batch: LiveBatch) -> list[Heard]:
        found: list[Heard] = []
        for stream, place in self._places.items():
            asked = place.asked
            if asked is None and not place.changed and place.report_at is None:
                continue
            decoded = batch.decoded(place.slot)
            is_answer = _is_answered(batch, place)
            is_reported = place.report_at is not None and decoded >= place.report_at
            # While an end is tried out, what is found on the way is nobody's news.
            is_news = place.changed and asked is None
            if not (is_news or is_answer or is_reported):
                continue
            turn = batch.turn(place.slot)
            found.append(Heard(stream, turn, decoded, place.received, is_answer))
            place.changed, place.report_at = False, None if is_reported else place.report_at
            if is_answer:
                place.asked = place.answer_at = None
                _settle(batch, place, asked)
        return found


def _begin_answer(batch: LiveBatch, place: _Place) -> None:
    asked, is_first = place.asked, place.before is None
    if is_first and not isinstance(asked, EndTurn):
        place.before = _Moment(batch.snapshot(place.slot), place.received)
    if is_first and not isinstance(asked, Look):
        place.received += batch.push_tail(place.slot)
    place.answer_at = place.received
    if isinstance(asked, Look):
        batch.finish(place.slot)
    else:
        place.received += batch.pad(place.slot)


def _is_answered(batch: LiveBatch, place: _Place) -> bool:
    if place.answer_at is None:
        return False
    if isinstance(place.asked, Look):
        return batch.has_ended(place.slot)
    return batch.decoded(place.slot) >= place.answer_at


def _settle(batch: LiveBatch, place: _Place, answered: Asking | None) -> None:
    """What follows from an answer."""
    match answered:
        case EndTurn():
            batch.end_turn(place.slot, undecoded=False)
        case Look(ends_turn=ends_turn):
            _go_back(batch, place)
            if ends_turn:
                batch.end_turn(place.slot, undecoded=True)
        case _:
            pass


def _go_back(batch: LiveBatch, place: _Place) -> None:
    if place.before is not None:
        batch.restore(place.slot, place.before.copy)
        place.received, place.before = place.before.received, None

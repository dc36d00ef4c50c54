"""One life of the thread that owns a model which recognises pieces of audio in one batch.

The event loop hands audio in and awaits; the thread alone touches the model. It lives until it is
stopped or something fails: then all that it held fails, and `supervisor.py` starts another.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Protocol, TypeAlias

from nemo_lite.errors import NemoLiteError
from nemo_lite.results import Transcript
from stt_server.errors import SttError, TranscriptionError
from stt_server.events import Samples

logger = logging.getLogger(__name__)


class RequestBatch(Protocol):
    """Requests that share the steps of a model; they join and leave between steps."""

    @property
    def slots(self) -> int:
        """Requests in one step at most; others wait."""
        ...

    def add(self, samples: Samples) -> int:
        """Take 16 kHz mono samples in; gives the request's number.

        Raises:
            NemoLiteError: this request is refused, the others are not concerned.
        """
        ...

    def step(self) -> Sequence[tuple[int, Transcript | NemoLiteError]]:
        """Advance all requests; gives those that are done, with what kept one from a transcript.
        What it raises ends the batch."""
        ...

    def cancel(self, request: int) -> None:
        """Forget a request."""
        ...


class RequestSource(Protocol):
    """Where a thread gets its batch. Used by one thread at a time."""

    def open(self, is_stopping: Callable[[], bool]) -> RequestBatch:
        """Load what is not loaded and make a batch.

        Raises:
            EngineUnavailable: it cannot run here.
        """
        ...

    def discard(self) -> None:
        """What is loaded is not to be used again."""
        ...


@dataclass(frozen=True, slots=True)
class _Add:
    ticket: int


@dataclass(frozen=True, slots=True)
class _Cancel:
    ticket: int


class _Stop:
    pass


_Command: TypeAlias = _Add | _Cancel | _Stop


class RequestThread:
    """A thread, its inbox, and who waits for which answer. Made and used on the event loop."""

    def __init__(self, source: RequestSource) -> None:
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._inbox: SimpleQueue[_Command] = SimpleQueue()
        self._pending: dict[int, asyncio.Future[Transcript]] = {}
        # What the thread has not taken yet: a request that is withdrawn before leaves nothing.
        self._audio: dict[int, Samples] = {}
        self._tickets = itertools.count()
        self._stopping = self._is_open = False
        self._busy_since: float | None = None
        self.slots = 0
        """Of its batch, once it is open."""
        self.opened: asyncio.Future[None] = self._loop.create_future()
        """Done when requests are taken, or with what kept the batch from opening."""
        self.ended = asyncio.Event()
        """Set when the thread is gone, stopped or failed."""
        self._thread = Thread(target=self._run, name="recogniser", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Requests that were not answered."""
        return len(self._pending)

    @property
    def busy_s(self) -> float:
        """How long the model has been at what it does now; 0 when it waits for work."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    async def ask(self, samples: Samples) -> Transcript:
        """Recognise `samples`; cancelling withdraws the request.

        Raises:
            SttError: what `fail` was told, or `TranscriptionError`.
        """
        ticket = next(self._tickets)
        self._pending[ticket] = answer = self._loop.create_future()
        self._audio[ticket] = samples
        self._inbox.put(_Add(ticket))
        try:
            return await answer
        finally:
            withdrawn = self._pending.pop(ticket, None) is not None
            if withdrawn and self._audio.pop(ticket, None) is None:
                self._inbox.put(_Cancel(ticket))

    def stop(self) -> None:
        """Ask the thread to end after the step it is in."""
        self._stopping = True
        self._inbox.put(_Stop())

    def fail(self, error: SttError) -> None:
        """Let everybody who waits know that nothing will come."""
        pending, self._pending = self._pending, {}
        self._audio.clear()
        for answer in pending.values():
            if not answer.done():
                answer.set_exception(error)

    # On the event loop, called from the thread

    def _on_opened(self, slots: int) -> None:
        self.slots = slots
        if not self.opened.done():
            self.opened.set_result(None)

    def _on_ended(self, error: BaseException | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(error or RuntimeError("stopped before it began"))
        self.ended.set()

    def _on_answer(self, ticket: int, answer: Transcript | SttError) -> None:
        future = self._pending.pop(ticket, None)
        if future is None or future.done():
            return
        if isinstance(answer, SttError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    # On the thread

    def _run(self) -> None:
        error: Exception | None = None
        try:
            self._open_and_serve()
        except Exception as caught:  # the model's boundary: nothing else may end the server
            if self._is_open:
                logger.exception("recogniser.failed")
            # Its traceback holds the batch and all its memory, which the next one needs.
            error = caught.with_traceback(None)
        self._post(self._on_ended, error)

    def _open_and_serve(self) -> None:
        batch = self._source.open(lambda: self._stopping)
        self._is_open = True
        self._post(self._on_opened, batch.slots)
        tickets: dict[int, int] = {}
        while self._take_commands(batch, tickets):
            if not tickets:
                continue
            self._busy_since = time.monotonic()
            for request, found in batch.step():
                ticket = tickets.pop(request, None)
                if ticket is None:
                    continue
                if isinstance(found, NemoLiteError):
                    self._refuse(ticket, found)
                else:
                    self._post(self._on_answer, ticket, found)

    def _take_commands(self, batch: RequestBatch, tickets: dict[int, int]) -> bool:
        """Follow all commands there are, waiting for one if there is nothing else to do; False to
        end."""
        if not tickets:
            self._busy_since = None
        must_wait = not tickets
        while True:
            try:
                command = self._inbox.get(block=must_wait)
            except Empty:
                return True
            must_wait = False
            match command:
                case _Add(ticket=ticket):
                    self._add(batch, tickets, ticket)
                case _Cancel(ticket=ticket):
                    for request in [key for key, value in tickets.items() if value == ticket]:
                        batch.cancel(request)
                        del tickets[request]
                case _Stop():
                    return False

    def _add(self, batch: RequestBatch, tickets: dict[int, int], ticket: int) -> None:
        samples = self._audio.pop(ticket, None)
        if samples is None:
            return
        self._busy_since = time.monotonic()
        try:
            tickets[batch.add(samples)] = ticket
        except NemoLiteError as error:
            self._refuse(ticket, error)

    def _refuse(self, ticket: int, error: NemoLiteError) -> None:
        logger.warning("recogniser.refused", extra={"error": str(error)})
        refusal = TranscriptionError("the recogniser cannot hear this piece of audio")
        self._post(self._on_answer, ticket, refusal)

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        # The loop may be gone when a thread that hung comes back.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *arguments)

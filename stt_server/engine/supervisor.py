"""Keeps a model's thread serving: proves a new one, watches it, and replaces it when it fails or
hangs. Lives on the event loop; the thread is somebody else's."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from stt_server.engine.base import EngineUnavailable
from stt_server.errors import Overloaded, TranscriptionError

logger = logging.getLogger(__name__)

MAX_STUCK = 3
"""A thread that hangs keeps its model's memory: while so many do, no other one is started."""
RESTART_WAIT_S = 10.0
"""How long after a thread is lost work waits for the next one."""
START_S = 120.0
"""A restart that takes longer, and twice as long as the first start, is a hang."""
PAUSES_S = (0.5, 2.0, 10.0, 30.0)
"""Before each attempt to start again; the last one is repeated."""
STOP_S = 5.0


class ModelThread(Protocol):
    """A thread that owns a model, as the event loop sees it."""

    @property
    def ended(self) -> asyncio.Event:
        """Set when the thread is gone, stopped or failed."""
        ...

    @property
    def busy_s(self) -> float:
        """How long it has been at the present step; 0 while it waits for work."""
        ...

    def stop(self) -> None:
        """Ask it to end after the present step; never waits."""
        ...


T = TypeVar("T", bound=ModelThread)


class Supervisor(Generic[T]):
    """Of one model's threads, one after the other."""

    def __init__(
        self,
        name: str,
        begin: Callable[[], T],
        prove: Callable[[T], Awaitable[None]],
        *,
        on_lost: Callable[[T], None],
        discard: Callable[[], None],
        stuck_s: float,
        pauses_s: Sequence[float] = PAUSES_S,
        start_s: float = START_S,
    ) -> None:
        """
        Args:
            name: of the model, for people.
            begin: starts a thread.
            prove: returns when it serves; what it raises is why not.
            on_lost: tells whoever relied on the thread that served.
            discard: the model is not to be used again.
            stuck_s: a step that takes longer is a hang.
            pauses_s: before each attempt to start again; the last one is repeated.
            start_s: a restart that takes longer, and twice as long as the first start, is a hang.
        """
        self._name = name
        self._begin, self._prove, self._on_lost, self._discard = begin, prove, on_lost, discard
        self._stuck_s, self._pauses_s, self._start_s = stuck_s, pauses_s, start_s
        self._stuck: list[T] = []
        self._serving = asyncio.Event()
        self._wait_until = 0.0
        """On the loop's clock: one for all who wait for the same restart."""
        self._watch: asyncio.Task[None] | None = None
        self._is_stopped = False
        self._newest: T | None = None
        self.thread: T | None = None
        """The one that serves; None when nothing can be recognised."""
        self.fault: str | None = f"{name} is not loaded"
        """Why nothing can be recognised now; None when all is well."""

    async def start(self) -> None:
        """Start a thread, and others in its place from then on. Raises why it cannot serve."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self._start_thread(None)
        self._start_s = max(self._start_s, 2 * (loop.time() - began))
        self._watch = asyncio.create_task(self._keep_serving(), name=f"supervisor of {self._name}")

    async def serving(self) -> T:
        """The thread, after a restart if one is under way. Whoever asks after `RESTART_WAIT_S` of
        it does not wait any more.

        Raises:
            TranscriptionError: it takes too long.
            Overloaded: the model is given up, or `stop` was called.
        """
        if self.is_restarting:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._wait_until):
                    await self._serving.wait()
        if self._is_stopped:
            raise Overloaded("the server is shutting down")
        if self.thread is not None:
            return self.thread
        if self.is_restarting:
            raise TranscriptionError(f"{self.fault}, try again")
        raise Overloaded(f"{self.fault}, try again later")

    async def stop(self) -> None:
        """End the thread, or leave it behind if it hangs. Never raises."""
        self._is_stopped, self.fault = True, f"{self._name} is shutting down"
        self._serving.set()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        self.thread = None
        if self._newest is not None:
            await self._end(self._newest)

    @property
    def is_restarting(self) -> bool:
        """Whether waiting makes sense."""
        return self.fault == self._restarting

    @property
    def _restarting(self) -> str:
        return f"{self._name} is being restarted"

    async def _start_thread(self, limit_s: float | None) -> None:
        self._newest = thread = self._begin()
        proof = asyncio.ensure_future(self._prove(thread))
        gone = asyncio.create_task(self._gone(thread))
        try:
            await asyncio.wait([proof, gone], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if not proof.done():
                if not gone.done():
                    self._leave_stuck(thread)
                raise EngineUnavailable(
                    f"{self._name} does not recognise a sound: the log has more"
                )
            proof.result()
        except BaseException:
            thread.stop()
            raise
        finally:
            proof.cancel()
            gone.cancel()
            await asyncio.wait([proof, gone])
        self.thread, self.fault = thread, None
        self._serving.set()

    async def _keep_serving(self) -> None:
        while True:
            assert self.thread is not None
            await self._gone(self.thread)
            lost, self.thread, self.fault = self.thread, None, self._restarting
            self._serving.clear()
            self._wait_until = asyncio.get_running_loop().time() + RESTART_WAIT_S
            self._on_lost(lost)
            await self._restart()

    async def _gone(self, thread: T) -> None:
        """Return when `thread` can serve no more: it has ended, or it hangs."""
        while not thread.ended.is_set():
            if thread.busy_s > self._stuck_s:
                self._leave_stuck(thread)
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(min(1.0, self._stuck_s / 4)):
                    await thread.ended.wait()

    def _leave_stuck(self, thread: T) -> None:
        logger.error("engine.stuck", extra={"model": self._name})
        self._stuck.append(thread)
        # The model is still in the hands of that thread.
        self._discard()
        thread.stop()

    async def _restart(self) -> None:
        """Return when a new thread serves."""
        for attempt in itertools.count():
            await asyncio.sleep(self._pauses_s[min(attempt, len(self._pauses_s) - 1)])
            # One that was only slow comes back, and its memory with it.
            self._stuck = [thread for thread in self._stuck if not thread.ended.is_set()]
            if len(self._stuck) >= MAX_STUCK:
                if self.is_restarting:
                    logger.error("engine.given_up", extra={"model": self._name})
                self.fault = f"{self._name} hangs: restart the server"
                continue
            self.fault = self._restarting
            try:
                await self._start_thread(self._start_s)
            except Exception:  # any failure means: not yet
                logger.exception("engine.restart_failed", extra={"model": self._name})
                self._discard()
            else:
                logger.info("engine.restarted", extra={"model": self._name})
                return

    async def _end(self, thread: T) -> None:
        thread.stop()
        try:
            async with asyncio.timeout(STOP_S):
                await thread.ended.wait()
        except TimeoutError:
            logger.warning("engine.left_behind", extra={"model": self._name})

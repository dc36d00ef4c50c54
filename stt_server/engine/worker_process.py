"""Worker processes for engines that must not share the server's interpreter.

`WorkerProcess` is one child behind pipes that answers frames in order; `WorkerPool` keeps a
bounded number of them, replaces those that die and lends each to one borrower at a time. Neither
knows what the frames mean. Everything here runs on the event loop and nothing blocks it.
"""

import asyncio
import contextlib
import logging
import os
import signal
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Self, TypeAlias

from stt_server.errors import Overloaded

logger = logging.getLogger(__name__)

HEADER = struct.Struct("!cI")
"""Kind and payload bytes, ahead of every frame in both directions."""


class WorkerLost(Exception):
    """The worker died, hung or answered nonsense; what it held is gone."""


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """How long workers are waited for and how often they are replaced."""

    start_s: float = 60.0
    """From exec to ready."""
    answer_s: float = 30.0
    """For one request; callers keep requests to about a second of work."""
    stop_s: float = 2.0
    losses: int = 3
    loss_window_s: float = 60.0
    """After `losses` within `loss_window_s` replacing stops."""


class LossCounter:
    """Tells when workers are lost too often to go on."""

    def __init__(self, limits: WorkerLimits) -> None:
        self._window_s = limits.loss_window_s
        self._recent: deque[float] = deque(maxlen=limits.losses)

    def add(self) -> None:
        self._recent.append(time.monotonic())

    @property
    def is_exceeded(self) -> bool:
        full = len(self._recent) == self._recent.maxlen
        return full and time.monotonic() - self._recent[0] < self._window_s


class WorkerProcess:
    """One child process that answers every request with one frame, in order."""

    def __init__(
        self, process: asyncio.subprocess.Process, on_exit: Callable[["WorkerProcess"], None]
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._on_exit = on_exit
        self._answers: deque[asyncio.Future[bytes | None]] = deque()
        self._lost = False
        self._supervisor: asyncio.Task[None] | None = None
        self.answered_at = time.monotonic()
        """When it last proved to be alive (`time.monotonic`)."""

    @classmethod
    async def spawn(
        cls, command: Sequence[str], on_exit: Callable[["WorkerProcess"], None]
    ) -> Self:
        """Start `command`; `on_exit` is called once, when the process is gone."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe
        )
        worker = cls(process, on_exit)
        worker._supervisor = asyncio.create_task(
            worker._supervise(), name=f"worker-{process.pid}", context=Context()
        )
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_lost(self) -> bool:
        return self._lost

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    async def ask(self, kind: bytes, payload: bytes = b"", *, deadline_s: float) -> bytes:
        """Send one request and await its answer.

        Cancelling leaves the worker in order: its answer is dropped when it comes.

        Raises:
            WorkerLost: the worker died, or had to be killed as it did not answer in time.
        """
        if self._lost:
            raise WorkerLost(f"worker {self.pid} is gone")
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        try:
            async with asyncio.timeout(deadline_s):
                self._stdin.write(HEADER.pack(kind, len(payload)) + payload)
                await self._stdin.drain()
                heard = await answer
        except TimeoutError:
            logger.warning("worker.hung", extra={"pid": self.pid, "deadline_s": deadline_s})
            self.kill()
            raise WorkerLost(f"worker {self.pid} gave no answer") from None
        except ConnectionError as error:
            self.kill()
            raise WorkerLost(f"worker {self.pid} takes no requests") from error
        finally:
            answer.cancel()
        if heard is None:
            raise WorkerLost(f"worker {self.pid} died")
        self.answered_at = time.monotonic()
        return heard

    def kill(self) -> None:
        """End the process at once; `on_exit` follows when it is gone."""
        if self._lost:
            return
        self._lost = True
        # Not Process.kill(): it polls first, and so takes the exit status from asyncio's watcher.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def wait_gone(self) -> None:
        """Return once the process has ended and its pipes are closed."""
        if self._supervisor is not None:
            await asyncio.wait([self._supervisor])

    async def _supervise(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._log_stderr())
                tasks.create_task(self._read_answers())
        finally:
            self.kill()
            self._stdin.close()
            await self._process.wait()
            with contextlib.suppress(ConnectionError):
                await self._stdin.wait_closed()
            self._on_exit(self)

    async def _read_answers(self) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError):
                while True:
                    _, length = HEADER.unpack(await self._stdout.readexactly(HEADER.size))
                    payload = await self._stdout.readexactly(length)
                    if not self._answers:
                        break
                    answer = self._answers.popleft()
                    if not answer.done():
                        answer.set_result(payload)
        finally:
            self.kill()
            for answer in self._answers:
                if not answer.done():
                    answer.set_result(None)

    async def _log_stderr(self) -> None:
        while text := await self._stderr.read(8_192):
            logger.warning(
                "worker.stderr", extra={"pid": self.pid, "text": text.decode("utf-8", "replace")}
            )


Prepare: TypeAlias = Callable[[WorkerProcess], Awaitable[None]]


class WorkerPool:
    """At most `size` workers, one spare ahead of need; each is lent to one borrower at a time.

    `prepare` makes a fresh worker ready, `clean` one that was given back; both raise `WorkerLost`
    if the worker is no good.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        size: int,
        limits: WorkerLimits,
        prepare: Prepare,
        clean: Prepare,
    ) -> None:
        self.size = size
        self._command = command
        self._limits = limits
        self._prepare = prepare
        self._clean = clean
        self._losses = LossCounter(limits)
        self._workers: set[WorkerProcess] = set()
        self._idle: list[WorkerProcess] = []
        self._starting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: deque[asyncio.Future[WorkerProcess | None]] = deque()
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        return self._is_stopped

    @property
    def workers(self) -> tuple[WorkerProcess, ...]:
        """All that are ready, lent or not."""
        return tuple(self._workers)

    def warm_up(self) -> None:
        """Start the spare one before it is needed; does not wait for it."""
        self._serve_waiting()

    async def borrow(self) -> WorkerProcess:
        """A worker that is ready: the spare one, or as soon as one is started or given back.

        Raises:
            Overloaded: the pool is stopped, or workers do not start.
        """
        if self._is_stopped:
            raise Overloaded("the recogniser is shutting down")
        waiter: asyncio.Future[WorkerProcess | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._serve_waiting()
        try:
            worker = await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and (worker := waiter.result()) is not None:
                self.give_back(worker)
            raise
        if worker is None:
            raise Overloaded("the recogniser has no working process")
        return worker

    def give_back(self, worker: WorkerProcess) -> None:
        """Return a borrowed worker in any state; it is cleaned in the background."""
        if not (worker.is_lost or self._is_stopped):
            self._run(self._clean_worker(worker))

    async def stop(self) -> None:
        """Kill all workers and wait for their end, for a bounded time."""
        self._is_stopped = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        for task in self._tasks:
            task.cancel()
        for worker in self._workers:
            worker.kill()
        ends = [asyncio.create_task(worker.wait_gone()) for worker in self._workers]
        if ends or self._tasks:
            await asyncio.wait([*ends, *self._tasks], timeout=self._limits.stop_s)

    def _serve_waiting(self) -> None:
        """Hand idle workers to those who wait; start what is missing and one to spare."""
        self._waiting = deque(waiter for waiter in self._waiting if not waiter.done())
        while self._waiting and self._idle:
            self._waiting.popleft().set_result(self._idle.pop())
        spare = 0 if self._losses.is_exceeded else 1
        missing = len(self._waiting) + spare - len(self._idle) - self._starting
        room = self.size - len(self._workers) - self._starting
        for _ in range(min(missing, room)):
            self._starting += 1
            self._run(self._start_worker())

    async def _start_worker(self) -> None:
        try:
            worker = await self._launch()
        except Exception as error:  # the worker's boundary: nonsense from it must not stop the pool
            trace = None if isinstance(error, OSError | WorkerLost) else error
            logger.error("worker.start_failed", extra={"error": str(error)}, exc_info=trace)
            self._losses.add()
            self._starting -= 1
            self._refuse_unserved()
        else:
            self._starting -= 1
            self._workers.add(worker)
            self._offer(worker)

    async def _launch(self) -> WorkerProcess:
        started = time.monotonic()
        worker = await WorkerProcess.spawn(self._command, self._forget)
        try:
            await self._prepare(worker)
            if worker.is_lost:
                raise WorkerLost(f"worker {worker.pid} died when it was ready")
        except BaseException:
            worker.kill()
            await worker.wait_gone()
            raise
        took_s = round(time.monotonic() - started, 2)
        logger.info("worker.started", extra={"pid": worker.pid, "took_s": took_s})
        return worker

    async def _clean_worker(self, worker: WorkerProcess) -> None:
        try:
            await self._clean(worker)
        except WorkerLost:
            worker.kill()
        except Exception:  # the worker's boundary, as above
            logger.exception("worker.clean_failed", extra={"pid": worker.pid})
            worker.kill()
        else:
            self._offer(worker)

    def _offer(self, worker: WorkerProcess) -> None:
        if not worker.is_lost:
            self._idle.append(worker)
            self._serve_waiting()

    def _forget(self, worker: WorkerProcess) -> None:
        """The worker's process is gone: another takes its place."""
        if worker in self._idle:
            self._idle.remove(worker)
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        if not self._is_stopped:
            logger.warning("worker.lost", extra={"pid": worker.pid, "exit_code": worker.exit_code})
            self._losses.add()
            self._serve_waiting()

    def _refuse_unserved(self) -> None:
        waiting = [waiter for waiter in self._waiting if not waiter.done()]
        for waiter in waiting[self._starting :]:
            waiter.set_result(None)

    def _run(self, work: Coroutine[None, None, None]) -> None:
        # In no session's context: what is logged is about the pool.
        task = asyncio.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

"""NVIDIA's streaming models behind the streaming-engine interface: one batch, one worker thread."""

import asyncio
import itertools
import logging
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from stt_server.engine.base import EngineInfo, EngineUnavailable, StreamOptions
from stt_server.engine.nemo_messages import Command, Lost, Result
from stt_server.engine.nemo_stream import NemoStream
from stt_server.engine.nemo_worker import LiveBatch, LoadedModel, ModelSource, NemoWorker
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import SAMPLE_RATE, Audio

logger = logging.getLogger(__name__)

STUCK_S = 15.0
"""A worker that computes for so long without a pause is given up."""
MAX_STUCK = 3
"""A thread that hangs keeps its model's memory: beside so many no other one is started."""
RESTART_WAIT_S = 10.0
"""How long audio of open sessions waits for a worker that is being restarted."""
RESTART_S = (0.5, 2.0, 10.0, 30.0)
"""Pauses before a worker is started again; the last one is repeated."""


class NemoEngine:
    """A `StreamingEngine`. The event loop never computes and never waits for the worker."""

    def __init__(
        self,
        source: ModelSource,
        *,
        name: str,
        summary: str,
        most_streams: int,
        tick_s: float = 0.02,
    ) -> None:
        """
        Args:
            source: of the model; asked at the start and after each failure.
            name: of the model.
            summary: one sentence for the operator.
            most_streams: bound on the capacity until it is measured.
            tick_s: how long audio waits for that of other streams.
        """
        self.info = EngineInfo(name=name, summary=summary, capacity=most_streams)
        self._source, self._tick_s = source, tick_s
        self._worker: NemoWorker | None = None
        self._stuck: list[NemoWorker] = []
        self._streams: dict[int, NemoStream] = {}
        self._checking = 0
        self._ids = itertools.count()
        self._watch: asyncio.Task[None] | None = None
        self._running, self._failed = asyncio.Event(), asyncio.Event()

    @property
    def fault(self) -> str | None:
        """Why nothing can be recognised now; None when all is well."""
        if self._worker is not None:
            return None
        if len(self._stuck) >= MAX_STUCK:
            return f"{self.info.name} hangs: restart the server"
        return f"{self.info.name} is being restarted"

    async def start(self) -> None:
        """Load and warm up.

        Raises:
            EngineUnavailable: what is missing, in one sentence.
        """
        try:
            await self._start_worker()
        except EngineUnavailable:
            raise
        except Exception as error:
            raise EngineUnavailable(f"{self.info.name} cannot be loaded: {error}") from error
        self._watch = asyncio.create_task(self._keep_running())

    async def check(self) -> None:
        """Recognise a chunk of silence on a slot kept for this.

        Raises:
            EngineUnavailable: the worker has failed or does not answer.
        """
        if self.fault is not None:
            raise EngineUnavailable(self.fault)
        stream = self._new_stream(StreamOptions())
        self._checking += 1
        try:
            await stream.push(Audio(0, np.zeros(SAMPLE_RATE // 10, np.float32), speech=True))
            await stream.end_turn()
        except TranscriptionError as error:
            raise EngineUnavailable(f"{self.info.name} does not answer") from error
        finally:
            self._checking -= 1
            await stream.close()

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        worker, self._worker = self._worker, None
        self._fail_streams(Overloaded("the server is shutting down"))
        if worker is not None:
            worker.stop()
            await asyncio.to_thread(worker.join, STUCK_S)

    async def open(self, options: StreamOptions) -> NemoStream:
        """Take a place.

        Raises:
            Overloaded: none is free, or the worker is being restarted.
        """
        if self._worker is None:
            raise Overloaded(f"{self.info.name} is being restarted, try again later")
        if len(self._streams) - self._checking >= self.info.capacity:
            raise Overloaded("all places are taken, try again later")
        return self._new_stream(options)

    def _new_stream(self, options: StreamOptions) -> NemoStream:
        key = next(self._ids)
        stream = NemoStream(self, key, options)
        self._streams[key] = stream
        return stream

    # For streams

    def post(self, command: Command) -> None:
        """Hand a command to the worker.

        Raises:
            TranscriptionError: there is none now.
        """
        if self._worker is None:
            raise self._restarting()
        self._worker.post(command)

    async def running(self) -> None:
        """Wait for a worker that is being restarted: meanwhile the audio waits, too.

        Raises:
            TranscriptionError: it took too long.
        """
        try:
            async with asyncio.timeout(RESTART_WAIT_S):
                await self._running.wait()
        except TimeoutError:
            raise self._restarting() from None

    def _restarting(self) -> TranscriptionError:
        return TranscriptionError(f"{self.info.name} is being restarted, try again later")

    def renew(self, stream: NemoStream, key: int) -> int:
        """Another name for a stream that begins anew: the worker may still know the old one."""
        self._streams.pop(key, None)
        fresh = next(self._ids)
        self._streams[fresh] = stream
        return fresh

    def release(self, key: int) -> None:
        """A stream is gone."""
        self._streams.pop(key, None)

    # The worker's life

    async def _start_worker(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[LoadedModel] = loop.create_future()

        def on_loop(function: Callable[..., None], *arguments: object) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
                loop.call_soon_threadsafe(function, *arguments)

        def make_batch() -> LiveBatch:
            model = self._source.open(worker.is_stopping)
            on_loop(_settle, ready, model)
            return model.batch

        worker = NemoWorker(
            make_batch,
            tick_s=self._tick_s,
            on_results=lambda results: on_loop(self._deliver, results),
            on_failure=lambda error: on_loop(self._on_failure, worker, ready, error),
        )
        worker.start()
        try:
            model = await ready
        except asyncio.CancelledError:
            worker.stop()
            raise
        if worker.failure is not None:  # as soon as it was ready: `_on_failure` did not know it yet
            raise RuntimeError(f"its first step failed: {worker.failure!r}")
        self.info = EngineInfo(
            name=self.info.name,
            summary=self.info.summary,
            capacity=model.capacity,
            lookaheads_ms=model.lookaheads_ms,
        )
        self._worker = worker
        self._failed.clear()
        self._running.set()

    def _on_failure(
        self, worker: NemoWorker, ready: asyncio.Future[LoadedModel], error: BaseException
    ) -> None:
        if not ready.done():
            is_plain = isinstance(error, Exception)
            ready.set_exception(error if is_plain else RuntimeError(repr(error)))
        elif worker is self._worker:
            logger.error("engine.failed", extra={"model": self.info.name}, exc_info=error)
            self._give_up_worker()

    def _give_up_worker(self) -> None:
        self._worker = None
        self._running.clear()
        self._fail_streams(
            TranscriptionError(f"{self.info.name} failed and is being restarted, try again")
        )
        self._failed.set()

    async def _keep_running(self) -> None:
        """Start the worker again whenever it failed or is stuck.

        The model stays unless it does not even start again, or its thread still has it.
        """
        while True:
            await self._worker_lost()
            for attempt in itertools.count():
                await asyncio.sleep(RESTART_S[min(attempt, len(RESTART_S) - 1)])
                self._stuck = [worker for worker in self._stuck if worker.is_alive]
                if len(self._stuck) >= MAX_STUCK:
                    continue
                try:
                    await self._start_worker()
                except Exception:
                    logger.exception("engine.restart_failed", extra={"model": self.info.name})
                    self._source.discard()
                else:
                    logger.info("engine.restarted", extra={"model": self.info.name})
                    break

    async def _worker_lost(self) -> None:
        while not self._failed.is_set():
            try:
                async with asyncio.timeout(STUCK_S / 10):
                    await self._failed.wait()
            except TimeoutError:
                worker = self._worker
                if worker is not None and worker.busy_s > STUCK_S:
                    logger.error("engine.stuck", extra={"model": self.info.name})
                    worker.stop()
                    self._stuck.append(worker)
                    self._source.discard()
                    self._give_up_worker()

    def _deliver(self, results: list[Result]) -> None:
        for heard in results:
            stream = self._streams.get(heard.stream)
            if stream is None:
                continue
            if isinstance(heard, Lost):
                stream.fail(TranscriptionError(f"{self.info.name}: {heard.why}"))
            else:
                stream.deliver(heard)

    def _fail_streams(self, error: TranscriptionError | Overloaded) -> None:
        for stream in list(self._streams.values()):
            stream.fail(error)


def _settle(ready: asyncio.Future[LoadedModel], model: LoadedModel) -> None:
    if not ready.done():
        ready.set_result(model)

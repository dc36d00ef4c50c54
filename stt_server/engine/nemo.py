"""NVIDIA's streaming models behind the streaming-engine interface: one batch, one worker thread."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from stt_server.engine.base import EngineInfo, EngineUnavailable, StepTimes, StreamOptions
from stt_server.engine.nemo_messages import Command, Lost, Result
from stt_server.engine.nemo_model import ModelSource
from stt_server.engine.nemo_stream import NemoStream
from stt_server.engine.nemo_worker import NemoWorker
from stt_server.engine.supervisor import PAUSES_S, Supervisor
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import SAMPLE_RATE, Audio

STUCK_S = 15.0
"""A worker that computes for so long without a pause is given up."""


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
        gating: bool = True,
        stuck_s: float = STUCK_S,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        """
        Args:
            source: of the model; asked at the start and after each failure.
            name: of the model.
            summary: one sentence for the operator.
            most_streams: bound on the capacity until it is measured.
            tick_s: how long audio waits for that of other streams.
            gating: streams take the audio of turns alone, and of a pause its beginning and end.
            stuck_s: a worker that computes for so long without a pause is given up.
            pauses_s: before each attempt to start again; the last one is repeated.
        """
        self.info = EngineInfo(name, summary, capacity=most_streams, speculates=True)
        self.on_step: Callable[[StepTimes], None] = lambda _: None
        self.refuge: Callable[[], NemoEngine | None] = lambda: None
        """Where streams may begin while this engine does not serve."""
        self.hears_silence = not gating
        self._source, self._tick_s = source, tick_s
        self._streams: dict[int, NemoStream] = {}
        self._checking = 0
        self._ids = itertools.count()
        self._supervisor = Supervisor(
            name,
            self._begin,
            self._prove,
            on_lost=self._on_lost,
            discard=source.discard,
            stuck_s=stuck_s,
            pauses_s=pauses_s,
        )

    @property
    def fault(self) -> str | None:
        """Why nothing can be recognised now; None when all is well."""
        return self._supervisor.fault

    @property
    def free_places(self) -> int:
        """How many more streams `open` takes."""
        return self.info.capacity - len(self._streams) + self._checking

    async def start(self) -> None:
        """Load and warm up.

        Raises:
            EngineUnavailable: what is missing, in one sentence.
        """
        try:
            await self._supervisor.start()
        except EngineUnavailable:
            raise
        except Exception as error:
            raise EngineUnavailable(f"{self.info.name} cannot be loaded: {error}") from error

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
        """End the thread, or leave it behind if it hangs. Never raises."""
        self._fail_streams(Overloaded("the server is shutting down"))
        await self._supervisor.stop()

    async def open(self, options: StreamOptions) -> NemoStream:
        """Take a place.

        Raises:
            Overloaded: none is free, or the engine does not serve any more.
        """
        if self.fault is not None and not self._supervisor.is_restarting:
            raise Overloaded(f"{self.fault}, try again later")
        if self.free_places <= 0:
            raise Overloaded("all places are taken, try again later")
        return self._new_stream(options)

    def _new_stream(self, options: StreamOptions) -> NemoStream:
        key = next(self._ids)
        stream = NemoStream(self, key, options, hears_silence=self.hears_silence)
        self._streams[key] = stream
        return stream

    # For streams

    def post(self, command: Command) -> None:
        """Hand a command to the worker.

        Raises:
            TranscriptionError: there is none now.
        """
        worker = self._supervisor.thread
        if worker is None:
            raise TranscriptionError(f"{self.fault}, try again")
        worker.post(command)

    async def running(self) -> None:
        """Wait for a worker that is being restarted: meanwhile the audio waits, too.

        Raises:
            TranscriptionError: it takes too long.
            Overloaded: the model is given up, or the engine was stopped.
        """
        await self._supervisor.serving()

    def settle(self, stream: NemoStream, key: int) -> "tuple[NemoEngine, int]":
        """Where a stream is to begin, and its name there: elsewhere if this engine does not serve
        and another one does."""
        engine = None if self.fault is None else self.refuge()
        if engine is None:
            return self, key
        self.release(key)
        return engine, engine.renew(stream, key=None)

    def renew(self, stream: NemoStream, key: int | None) -> int:
        """Another name for a stream that begins anew: the worker may still know the old one."""
        if key is not None:
            self.release(key)
        fresh = next(self._ids)
        self._streams[fresh] = stream
        return fresh

    def release(self, key: int) -> None:
        """A stream is gone."""
        self._streams.pop(key, None)

    # The worker's life

    def _begin(self) -> NemoWorker:
        return NemoWorker(
            self._source, tick_s=self._tick_s, on_results=self._deliver, on_step=self.on_step
        )

    async def _prove(self, worker: NemoWorker) -> None:
        model = await worker.opened
        self.info = replace(
            self.info,
            capacity=model.capacity,
            lookaheads_ms=model.lookaheads_ms,
            marks_turn_ends=model.marks_turn_ends,
        )

    def _on_lost(self, _: NemoWorker) -> None:
        self._fail_streams(
            TranscriptionError(f"{self.info.name} failed and is being restarted, try again")
        )

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

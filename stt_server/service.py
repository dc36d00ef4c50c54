"""What the sessions of one app share: models, capacity, metrics, and the server's life."""

import asyncio
import importlib
import logging
import time
from collections.abc import Callable
from enum import StrEnum
from functools import partial

from stt_server.admission import Admission
from stt_server.assembly import Assembly, hears_silence
from stt_server.auth import Authenticator
from stt_server.engine.base import (
    EngineUnavailable,
    SegmentEngine,
    SteppedEngine,
    StepTimes,
    StreamingEngine,
    SupervisedEngine,
)
from stt_server.engine.detectors import Detectors
from stt_server.engine.silero_process import SileroProcess
from stt_server.engine.vad import VoiceDetector
from stt_server.errors import ServerShutdown
from stt_server.metrics import Metrics
from stt_server.pipeline import Progress
from stt_server.protocols.base import Codec
from stt_server.session import Session, SessionParts, Transport
from stt_server.settings import LimitSettings, Settings

logger = logging.getLogger(__name__)

CHECK_EVERY_S = 30.0
"""How long a successful recognition counts as recent for `/ready`."""
CHECK_TIMEOUT_S = 10.0
CHECK_AGAIN_S = 5.0
"""How long a failed one counts: a crowd of probes must not queue behind a sick model."""
NO_ANSWER = "the model does not answer"
MAX_WITHOUT_KEY = 64
"""Connections at once that have yet to send their key in a message."""


class State(StrEnum):
    """Where the service is in its life."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "shutting down"
    FAILED = "failed"


class Service:
    """Everything the sessions of one app share."""

    def __init__(
        self,
        settings: Settings,
        engine: StreamingEngine | SegmentEngine,
        final_engine: SegmentEngine | None = None,
        detectors: Detectors | None = None,
    ) -> None:
        """
        Args:
            engine: Hears everything.
            final_engine: Makes the finals beside a streaming `engine`.
            detectors: End turns instead of those that the settings name.
        """
        self.settings = settings
        self.engine = engine
        self.final_engine = final_engine
        self.metrics = Metrics()
        self.authenticator = Authenticator(settings.auth)
        self.admission = Admission(self._capacity)
        self.metrics.capacity.set_function(self._capacity)
        self.without_key = Admission(MAX_WITHOUT_KEY)
        self.state = State.LOADING
        self.failure: Exception | None = None
        self._silero = SileroProcess()
        self._assembly: Assembly | None = None
        self._turn_detectors = detectors or Detectors.of(settings)
        self._sessions: dict[Session, asyncio.Task[None]] = {}
        self.requests: set[asyncio.Task[None]] = set()
        """Work that is no session, but is waited for when the server ends."""
        self._checked_at = self._check_failed_at = float("-inf")
        self._check_lock = asyncio.Lock()
        for supervised in self._engines:
            if isinstance(supervised, SupervisedEngine):
                serving = self.metrics.model_serving.labels(supervised.info.name)
                serving.set_function(partial(_serves, supervised))
        for stepped in self._engines:
            if isinstance(stepped, SteppedEngine):
                stepped.on_step = partial(_note_step, self.metrics, stepped.info.name)

    async def load(self) -> None:
        """Load the models and let sessions in; a failure is kept in `failure`."""
        began = time.monotonic()
        try:
            await self._start_models()
        except Exception as error:
            self.state, self.failure = State.FAILED, error
            raise
        self._checked_at = time.monotonic()
        if self.state is State.LOADING:
            self.state = State.READY
        logger.info(
            "model.ready",
            extra={
                "model": self.engine.info.name,
                **({"final_model": self.final_engine.info.name} if self.final_engine else {}),
                "detectors": sorted(map(str, self.detectors)),
                "max_sessions": self.admission.capacity,
                "load_s": round(time.monotonic() - began, 2),
            },
        )

    async def _start_models(self) -> None:
        name = self.engine.info.name
        for info in (engine.info for engine in self._engines):
            logger.info("model.loading", extra={"model": info.name, "about": info.summary})
        try:
            if isinstance(self.engine, SegmentEngine):
                _check_segments(name)
            name = "silero"
            await self._silero.start()
            name = "detectors"
            await self._turn_detectors.start()
            for engine in self._engines:
                name = engine.info.name
                await engine.start()
            name = "detectors"
            self._turn_detectors.check(self.engine.info)
            self._assembly = Assembly(
                self.settings,
                self.engine,
                self.final_engine,
                VoiceDetector(self._silero.infer, self.metrics),
                self._turn_detectors,
                self.metrics,
            )
        except Exception as error:
            trace = None if isinstance(error, EngineUnavailable) else error
            logger.error("model.failed", extra={"model": name, "error": str(error)}, exc_info=trace)
            raise

    async def not_ready_reason(self) -> str | None:
        """Why sessions cannot be served now; None when they can."""
        if self.state is not State.READY:
            return self.state.value
        if isinstance(self.engine, SupervisedEngine) and self.engine.fault is not None:
            return self.engine.fault
        async with self._check_lock:
            now = time.monotonic()
            if now - self._checked_at < CHECK_EVERY_S:
                return None
            if now - self._check_failed_at < CHECK_AGAIN_S:
                return NO_ANSWER
            try:
                async with asyncio.timeout(CHECK_TIMEOUT_S):
                    await self.engine.check()
            except Exception:  # any failure of an engine means: not ready
                logger.exception("model.check_failed")
                self._check_failed_at = time.monotonic()
                return NO_ANSWER
            self._checked_at = time.monotonic()
            return None

    @property
    def detectors(self) -> frozenset[str]:
        """What may end turns before silence does."""
        return self._turn_detectors.names(self.engine.info)

    @property
    def is_eager(self) -> bool:
        """Whether clients can be told of eager ends: their text must be the final's."""
        is_final = self.final_engine is None and not hears_silence(self.engine)
        return is_final and self.engine.info.speculates

    @property
    def degraded_reason(self) -> str | None:
        """Why the main engine does the work of another one, too; None when all is well."""
        if self.state is not State.READY:
            return None
        for engine in self._engines[1:]:
            if isinstance(engine, SupervisedEngine) and engine.fault is not None:
                return f"{engine.info.name}: {engine.fault}"
        return None

    async def drain(self) -> None:
        """Admit nobody, let live turns end up to a deadline, then close every session."""
        self.state = State.DRAINING
        self.admission.is_open = self.without_key.is_open = False
        error = ServerShutdown("the server is shutting down")
        logger.info("server.draining", extra={"sessions": len(self._sessions)})
        for session in list(self._sessions):
            session.drain(error)
        await self._wait_for_sessions(self.settings.limits.drain_s)
        for session in list(self._sessions):
            session.end(error)
        for request in self.requests:
            request.cancel()
        # Half of the time again for what was said; then each session closes by itself.
        limits = self.settings.limits
        await self._wait_for_sessions(limits.drain_s / 2 + limits.send_timeout_s)
        for task in self._sessions.values():
            task.cancel()

    async def close(self) -> None:
        """Free the models."""
        await self._silero.stop()
        await self._turn_detectors.stop()
        for engine in self._engines:
            await engine.stop()

    async def serve(
        self,
        transport: Transport,
        codec: Codec,
        authenticate: Callable[[str], bool] | None = None,
        *,
        protocol: str = "native",
        progress: Progress | None = None,
        limits: LimitSettings | None = None,
    ) -> None:
        """Run one session from accept to close; `protocol` names it in the metrics.

        Args:
            limits: In place of those that the settings have for all.
        """
        progress = progress or Progress()
        assert self._assembly is not None
        pipeline = self._assembly.pipeline(codec, progress)
        parts = SessionParts(codec, pipeline, progress, authenticate)
        session = Session(
            parts,
            transport,
            limits=limits or self.settings.limits,
            metrics=self.metrics,
            clock=time.monotonic,
        )
        task = asyncio.current_task()
        assert task is not None
        self._sessions[session] = task
        if self.state is State.DRAINING:
            session.drain(ServerShutdown("the server is shutting down"))
        try:
            with self.metrics.sessions.labels(protocol).track_inprogress():
                await session.run()
        finally:
            del self._sessions[session]

    @property
    def _engines(self) -> list[StreamingEngine | SegmentEngine]:
        others = (self.final_engine, self._turn_detectors.side_model)
        return [self.engine, *(engine for engine in others if engine is not None)]

    def _capacity(self) -> int:
        """Some engines know only once they are loaded how much they hold, and lose places later."""
        capacity = self.engine.info.capacity
        return min(capacity, self.settings.limits.max_sessions or capacity)

    async def _wait_for_sessions(self, timeout_s: float) -> None:
        running = [*self._sessions.values(), *self.requests]
        if running:
            await asyncio.wait(running, timeout=timeout_s)


def _check_segments(model: str) -> None:
    """The stage for segment engines needs strops, which servers with a streaming one do without."""
    try:
        importlib.import_module("stt_server.stages.segment_asr")
    except ImportError as error:
        raise EngineUnavailable(
            f"{model} needs {error.name}: pip install ./strops-rs in the project's folder "
            "(needs Rust; see README, Install)"
        ) from error


def _note_step(metrics: Metrics, model: str, times: StepTimes) -> None:
    metrics.step_streams.labels(model).observe(times.streams)
    metrics.step_seconds.labels(model).observe(times.seconds)
    metrics.step_lag_seconds.labels(model).observe(times.lag_s)


def _serves(engine: SupervisedEngine) -> float:
    return float(engine.fault is None)

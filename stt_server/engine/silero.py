"""Silero VAD for all streams of the process in one batch. Weights are shared, state never is."""

import asyncio
import importlib.util
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from stt_server.engine.base import EngineUnavailable
from stt_server.events import SAMPLE_RATE, WINDOW_SAMPLES, Samples
from stt_server.metrics import Metrics

logger = logging.getLogger(__name__)

CONTEXT_SAMPLES = 64
"""The model sees the end of the window before, too."""


def _model_path() -> Path:
    # Importing `silero_vad` imports torch, which this server does not need: only find it.
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise EngineUnavailable("package `silero-vad` is missing; pip install silero-vad")
    return Path(spec.submodule_search_locations[0]) / "data" / "silero_vad.onnx"


def _zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, dtype=np.float32)


@dataclass(slots=True, eq=False)
class VadState:
    """What the model remembers of one stream."""

    recurrent: NDArray[np.float32] = field(default_factory=lambda: _zeros(2, 128))
    context: Samples = field(default_factory=lambda: _zeros(CONTEXT_SAMPLES))


class SileroModel:
    """The network: windows of B streams in, B probabilities out.

    A stream's numbers do not depend on who shares its batch; a test holds this to the bit.
    """

    def __init__(self) -> None:
        options = cast("Any", ort).SessionOptions()
        # One thread: the batch is small, and the other cores belong to recognition.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The package has no type stubs.
        self._session: Any = ort.InferenceSession(
            str(_model_path()), options, providers=["CPUExecutionProvider"]
        )
        self._rate = np.array(SAMPLE_RATE, dtype=np.int64)

    def step(self, states: Sequence[VadState], windows: Sequence[Samples]) -> list[float]:
        """Advance each state by its own window of 512 samples, in place.

        Returns:
            Speech probability of each window, 0-1.
        """
        batch = np.empty((len(states), CONTEXT_SAMPLES + WINDOW_SAMPLES), dtype=np.float32)
        np.stack([state.context for state in states], out=batch[:, :CONTEXT_SAMPLES])
        np.stack(windows, out=batch[:, CONTEXT_SAMPLES:])
        recurrent = np.stack([state.recurrent for state in states], axis=1)
        probabilities, advanced = self._session.run(
            None, {"input": batch, "state": recurrent, "sr": self._rate}
        )
        for row, (state, window) in enumerate(zip(states, windows, strict=True)):
            state.context = window[-CONTEXT_SAMPLES:]
            state.recurrent = advanced[:, row].copy()
        return probabilities[:, 0].tolist()


@dataclass(slots=True, eq=False)
class _Request:
    state: VadState
    windows: Sequence[Samples]
    done: "asyncio.Future[list[float]]"
    probabilities: list[float] = field(default_factory=list[float])


class VadStream:
    """The detector of one session."""

    def __init__(self, detector: "VoiceDetector") -> None:
        self._detector = detector
        self._state = VadState()
        self._rest: Samples = _zeros(0)

    async def push(self, samples: Samples) -> list[float]:
        """Probabilities of the windows that `samples` complete, oldest first; maybe none."""
        rest = np.concatenate((self._rest, samples)) if len(self._rest) else samples
        count = len(rest) // WINDOW_SAMPLES
        self._rest = rest[count * WINDOW_SAMPLES :]
        if not count:
            return []
        windows = rest[: count * WINDOW_SAMPLES].reshape(count, WINDOW_SAMPLES)
        return await self._detector.submit(self._state, list(windows))

    def reset(self) -> None:
        """Forget what was heard: the stream breaks off here. Not while `push` is under way."""
        self._state = VadState()


class VoiceDetector:
    """Runs the model on one thread: whatever came in during a tick makes up the next batch."""

    def __init__(self, model: SileroModel, metrics: Metrics) -> None:
        self._model = model
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vad")
        self._waiting: deque[_Request] = deque()
        self._ticker: asyncio.Task[None] | None = None

    def open(self) -> VadStream:
        return VadStream(self)

    async def submit(self, state: VadState, windows: Sequence[Samples]) -> list[float]:
        """Probabilities of consecutive windows of one stream.

        A cancelled caller must not use its state again: the tick may still be at work on it.
        """
        loop = asyncio.get_running_loop()
        request = _Request(state, windows, loop.create_future())
        self._waiting.append(request)
        if self._ticker is None:
            self._ticker = loop.create_task(self._run_ticks())
        return await request.done

    def close(self) -> None:
        """Stop the thread; later calls fail."""
        self._thread.shutdown(wait=False)

    async def _run_ticks(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                # Let every session that is ready in this turn of the loop join the batch.
                await asyncio.sleep(0)
                requests = [request for request in self._waiting if not request.done.done()]
                self._waiting.clear()
                await self._tick(loop, requests)
        finally:
            self._ticker = None

    async def _tick(self, loop: asyncio.AbstractEventLoop, requests: list[_Request]) -> None:
        try:
            await loop.run_in_executor(self._thread, self._infer, requests)
        except Exception as error:  # the model worker's boundary: fails this batch, not the server
            logger.exception("vad.tick_failed", extra={"streams": len(requests)})
            for request in requests:
                if not request.done.done():
                    request.done.set_exception(error)
            return
        self._metrics.vad_batch.observe(len(requests))
        for request in requests:
            if not request.done.done():
                request.done.set_result(request.probabilities)

    def _infer(self, requests: list[_Request]) -> None:
        for step in range(max((len(request.windows) for request in requests), default=0)):
            active = [request for request in requests if len(request.windows) > step]
            probabilities = self._model.step(
                [request.state for request in active],
                [request.windows[step] for request in active],
            )
            for request, probability in zip(active, probabilities, strict=True):
                request.probabilities.append(probability)

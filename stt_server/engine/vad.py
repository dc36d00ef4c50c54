"""Voice activity detection for all streams of the process in one batch.

Weights are shared, state never is. The network itself is in `silero.py`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stt_server.events import WINDOW_SAMPLES, Samples
from stt_server.metrics import Metrics

logger = logging.getLogger(__name__)

CONTEXT_SAMPLES = 64
"""The model sees the end of the window before, too."""
BATCHES_AHEAD = 2
"""One is heard while the next one waits at the model: it must not wait for the loop, which has the
answers of the last one to work on."""
BETWEEN_TICKS_S = 0.004
"""Where windows come thick and fast, larger batches are worth waiting for: each costs the loop
about as much as three packets."""
HIDDEN = 128
"""Width of the model's recurrent layer."""

Array: TypeAlias = NDArray[np.float32]
VadWindows: TypeAlias = Array
"""(n, 512) consecutive windows of one stream."""


def _zeros(*shape: int) -> Array:
    return np.zeros(shape, dtype=np.float32)


@dataclass(slots=True, eq=False)
class VadState:
    """What the model remembers of one stream."""

    recurrent: Array = field(default_factory=lambda: _zeros(2, HIDDEN))
    context: Array = field(default_factory=lambda: _zeros(CONTEXT_SAMPLES))


Infer: TypeAlias = Callable[
    [Sequence[VadState], Sequence[VadWindows]], Awaitable[list[list[float]]]
]
"""`VadModel.run`, off the event loop."""


class VadModel(Protocol):
    """The network. A stream's numbers do not depend on who shares its batch, to the bit."""

    def run(self, states: Sequence[VadState], windows: Sequence[VadWindows]) -> list[list[float]]:
        """Hear one or more windows of each stream and advance its state in place.

        Returns:
            For each stream the speech probability of each window, 0-1.
        """
        ...


@dataclass(slots=True, eq=False)
class _Request:
    state: VadState
    windows: VadWindows
    done: "asyncio.Future[list[float]]"


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
        return await self._detector.submit(self._state, windows)

    def reset(self) -> None:
        """Forget what was heard: the stream breaks off here. Not while `push` is under way."""
        self._state = VadState()


class VoiceDetector:
    """Batches all streams: whatever came in during a tick makes up the next one."""

    def __init__(self, infer: Infer, metrics: Metrics) -> None:
        self._infer = infer
        self._metrics = metrics
        self._waiting: deque[_Request] = deque()
        self._tickers: set[asyncio.Task[None]] = set()
        self._ticked_at = float("-inf")

    def open(self) -> VadStream:
        return VadStream(self)

    async def submit(self, state: VadState, windows: VadWindows) -> list[float]:
        """Probabilities of consecutive windows of one stream.

        A cancelled caller must not use its state again: the tick may still be at work on it.
        """
        loop = asyncio.get_running_loop()
        request = _Request(state, windows, loop.create_future())
        self._waiting.append(request)
        if len(self._tickers) < BATCHES_AHEAD:
            # In no session's context: what it logs is nobody's in particular.
            ticker = loop.create_task(self._run_ticks(), context=Context())
            self._tickers.add(ticker)
        return await request.done

    async def _run_ticks(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                # At least, let every session that is ready in this turn of the loop join the batch.
                await asyncio.sleep(max(0.0, self._ticked_at + BETWEEN_TICKS_S - loop.time()))
                self._ticked_at = loop.time()
                requests = [request for request in self._waiting if not request.done.done()]
                self._waiting.clear()
                if requests:
                    await self._tick(requests)
        finally:
            # At once, not in a callback: who comes in between would wait for a ticker that left.
            ticker = asyncio.current_task()
            assert ticker is not None
            self._tickers.discard(ticker)

    async def _tick(self, requests: list[_Request]) -> None:
        states = [request.state for request in requests]
        windows = [request.windows for request in requests]
        try:
            results = await self._infer(states, windows)
        except Exception as error:  # the model worker's boundary: fails this batch, not the server
            logger.exception("vad.tick_failed", extra={"streams": len(requests)})
            for request in requests:
                if not request.done.done():
                    request.done.set_exception(error)
            return
        self._metrics.vad_batch.observe(len(requests))
        for request, probabilities in zip(requests, results, strict=True):
            if not request.done.done():
                request.done.set_result(probabilities)

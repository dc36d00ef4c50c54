"""Silero in a process of its own.

A thread would share the interpreter with the event loop and wait for it at every one of its few
dozen small steps, and the loop for the thread; measured, both together never used more than one
core. The process keeps no state: each stream's travels with its windows, so a process that dies
costs the streams nothing but the time to start the next one.

Request: int32 B, int32 windows of each stream; then float32: recurrent states (B, 2, 128),
contexts (B, 64), windows (sum, 512). Answer, float32: probabilities (sum), states (B, 2, 128).
"""

import json
import sys
from collections.abc import Sequence

import numpy as np

from stt_server.engine.base import EngineUnavailable
from stt_server.engine.vad import CONTEXT_SAMPLES, HIDDEN, Array, VadState, VadWindows
from stt_server.engine.worker_process import WorkerLimits, WorkerLost, WorkerPool, WorkerProcess
from stt_server.errors import Overloaded
from stt_server.events import WINDOW_SAMPLES

BOOT = (
    "import json, sys; sys.path[:0] = json.loads(sys.argv[1]); "
    "from stt_server.engine.silero_worker import main; main()"
)
INFER = b"V"
LIMITS = WorkerLimits(start_s=60.0, answer_s=10.0)
ATTEMPTS = 2


class SileroProcess:
    """Runs batches in the worker process; replaces it when it dies."""

    def __init__(self, *, limits: WorkerLimits = LIMITS) -> None:
        self._limits = limits
        self._worker: WorkerProcess | None = None
        self._pool = WorkerPool(
            [sys.executable, "-P", "-c", BOOT, json.dumps(sys.path)],
            size=1,
            limits=limits,
            prepare=self._prepare,
            clean=self._prepare,
        )

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker is not None else None

    async def start(self) -> None:
        """Return once a window has been heard.

        Raises:
            EngineUnavailable: the process does not start; the log has what it wrote.
        """
        try:
            self._worker = await self._pool.borrow()
        except Overloaded as error:
            raise EngineUnavailable("the voice activity detector does not start") from error

    async def stop(self) -> None:
        await self._pool.stop()

    async def infer(
        self, states: Sequence[VadState], windows: Sequence[VadWindows]
    ) -> list[list[float]]:
        """Hear the windows of each stream and advance its state.

        Raises:
            Overloaded: the process is gone and no other one starts.
        """
        request = pack_request(states, windows)
        for _ in range(ATTEMPTS):
            if self._worker is None or self._worker.is_lost:
                self._worker = await self._pool.borrow()
            try:
                answer = await self._worker.ask(INFER, request, deadline_s=self._limits.answer_s)
            except WorkerLost:
                continue
            return _take_answer(answer, states, windows)
        raise Overloaded("the voice activity detector is gone")

    async def _prepare(self, worker: WorkerProcess) -> None:
        silence = np.zeros((1, WINDOW_SAMPLES), dtype=np.float32)
        request = pack_request([VadState()], [silence])
        await worker.ask(INFER, request, deadline_s=self._limits.start_s)


def pack_request(states: Sequence[VadState], windows: Sequence[VadWindows]) -> bytes:
    """The request for one batch."""
    counts = np.array([len(states), *(len(rows) for rows in windows)], dtype="<i4")
    floats = (
        np.stack([state.recurrent for state in states]),
        np.stack([state.context for state in states]),
        *windows,
    )
    return b"".join([counts.tobytes(), *(part.tobytes() for part in floats)])


def unpack_request(payload: bytes) -> tuple[Array, Array, list[Array]]:
    """States (B, 2, 128), contexts (B, 64), and the windows of each stream."""
    count = int(np.frombuffer(payload, dtype="<i4", count=1)[0])
    counts = np.frombuffer(payload, dtype="<i4", count=count, offset=4)
    floats = np.frombuffer(payload, dtype="<f4", offset=4 * (count + 1))
    recurrent, contexts, windows = np.split(
        floats, np.cumsum([count * 2 * HIDDEN, count * CONTEXT_SAMPLES])
    )
    rows = windows.reshape(-1, WINDOW_SAMPLES)
    return (
        recurrent.reshape(count, 2, HIDDEN),
        contexts.reshape(count, CONTEXT_SAMPLES),
        np.split(rows, np.cumsum(counts)[:-1]),
    )


def pack_answer(probabilities: Array, states: Sequence[VadState]) -> bytes:
    """The answer for one batch."""
    return probabilities.tobytes() + np.stack([state.recurrent for state in states]).tobytes()


def _take_answer(
    answer: bytes, states: Sequence[VadState], windows: Sequence[VadWindows]
) -> list[list[float]]:
    total = sum(len(rows) for rows in windows)
    floats = np.frombuffer(answer, dtype="<f4")
    advanced = floats[total:].reshape(len(states), 2, HIDDEN)
    probabilities, at = floats[:total].tolist(), 0
    out: list[list[float]] = []
    for state, rows, recurrent in zip(states, windows, advanced, strict=True):
        state.recurrent = recurrent.copy()
        state.context = rows[-1, -CONTEXT_SAMPLES:].copy()
        out.append(probabilities[at : at + len(rows)])
        at += len(rows)
    return out

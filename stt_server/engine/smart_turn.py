"""smart-turn: hears whether a turn is complete, from the sound of its last 8 s (intonation, pace).

One small network for all sessions, on a few threads of its own: onnxruntime and the steps of numpy
that take long release the interpreter. Each judgement runs by itself, for a batch brings nothing: a
row costs the same, and the first would wait for the last.
"""

import asyncio
import importlib.util
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from nemo_lite import hub
from stt_server.engine.base import EngineUnavailable
from stt_server.engine.cpus import usable_cpus
from stt_server.engine.smart_turn_features import FRAMES, HEARD_SAMPLES, MELS, log_mel
from stt_server.events import SAMPLE_RATE, Audio, Samples, TurnEndReason
from stt_server.settings import ModelSettings, SmartTurnSettings

logger = logging.getLogger(__name__)

NAME = "smart-turn"
IN_PACKAGE = "audio/turn/smart_turn/data"
HOW_TO_GET = f"smart-turn is not on this machine: run `stt-server models pull {NAME}` (9 MB)"
ANSWER_S = 1.0
"""A later judgement comes too late to be of use."""
WAITING_PER_THREAD = 12
"""A judgement takes some 80 ms of a core: more that wait would not be answered in time."""
INPUT = "input_features"
SILENCE_SAMPLES = SAMPLE_RATE // 10
"""What is heard of the silence after speech: more makes it surer of an end, whatever was said."""
KEPT_SAMPLES = HEARD_SAMPLES + SAMPLE_RATE // 2
"""Of a turn: what is heard, and the silence after it that is left out."""


def find_smart_turn(settings: SmartTurnSettings, models: ModelSettings) -> Path | None:
    """Where the model is: as set, in the package that ships it, or downloaded; None if nowhere.

    Imports nothing and fetches nothing.
    """
    if settings.model is not None:
        return settings.model
    spec = importlib.util.find_spec("pipecat")
    folders = [] if spec is None else spec.submodule_search_locations or []
    shipped = (file for folder in folders for file in Path(folder, IN_PACKAGE).glob("*-cpu.onnx"))
    if (newest := max(shipped, default=None)) is not None:
        return newest
    folder = hub.cached(NAME, cache_dir=models.cache_dir)
    return None if folder is None else next(folder.glob("*.onnx"), None)


class TurnJudge(Protocol):
    """A network that any number of threads may use at once."""

    def judge(self, samples: Samples) -> float:
        """How sure it is that a turn is complete that ends with these samples, in 0..1.

        Args:
            samples: (S,) float32, 16 kHz mono; the last 8 s count.
        """
        ...


class SmartTurnModel:
    """The network itself, a `TurnJudge`."""

    def __init__(self, path: Path) -> None:
        """Load it and have it judge silence.

        Raises:
            EngineUnavailable: the file is no smart-turn model, version 3.
        """
        # Servers without this detector need no onnxruntime in their process.
        import onnxruntime as ort

        options = cast("Any", ort).SessionOptions()
        # Each judgement keeps to its core: the others belong to recognition.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            # The package has no type stubs, and its errors have no base of their own.
            self._session: Any = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            taken = [(node.name, *node.shape[1:]) for node in self._session.get_inputs()]
            if taken != [(INPUT, MELS, FRAMES)]:
                raise ValueError(f"it takes {taken}")
            check_answer(self.judge(np.zeros(HEARD_SAMPLES, dtype=np.float32)))
        except Exception as error:
            raise EngineUnavailable(f"{path} is no smart-turn v3 model: {error}") from error

    def judge(self, samples: Samples) -> float:
        (answer,) = self._session.run(None, {INPUT: log_mel(samples)[None]})
        return float(answer.item())


def check_answer(probability: float) -> float:
    """`probability` if it is one.

    Raises:
        ValueError: it is not.
    """
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"it answers {probability}")
    return probability


@dataclass(slots=True, eq=False)
class _Request:
    pieces: tuple[Samples, ...]
    leave_out: int
    is_wanted: bool = True


class SmartTurn:
    """The model of all sessions, and the threads it runs on."""

    def __init__(
        self,
        settings: SmartTurnSettings,
        models: ModelSettings,
        *,
        load: Callable[[Path], TurnJudge] = SmartTurnModel,
        answer_s: float = ANSWER_S,
    ) -> None:
        """
        Args:
            load: Makes the network from its file; called on a thread.
            answer_s: How long a judgement may take, waiting included.
        """
        self._settings = settings
        self._models = models
        self._load = load
        self._answer_s = answer_s
        threads = settings.threads or max(1, usable_cpus() // 2)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=NAME)
        self._most = threads * (1 + WAITING_PER_THREAD)
        self._work: set[asyncio.Future[float | None]] = set()
        self._model: TurnJudge | None = None
        self._told: set[str] = set()

    async def start(self) -> None:
        """Load the model; returns once it has judged something.

        Raises:
            EngineUnavailable: it is not here, or is something else.
        """
        path = find_smart_turn(self._settings, self._models)
        if path is None:
            raise EngineUnavailable(HOW_TO_GET)
        loop = asyncio.get_running_loop()
        self._model = await loop.run_in_executor(self._pool, self._load, path)
        logger.info("smart_turn.ready", extra={"file": path.name})

    async def stop(self) -> None:
        """Answer nothing any more, and end the threads."""
        self._model = None
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._work:
            await asyncio.wait(self._work, timeout=self._answer_s)

    def open(self) -> "SmartTurnDetector":
        """The detector of one session."""
        return SmartTurnDetector(self)

    async def judge(self, pieces: tuple[Samples, ...], *, leave_out: int = 0) -> float | None:
        """`TurnJudge.judge` of consecutive pieces but for so many samples at their end; None if
        that fails or comes too late."""
        model = self._model
        if model is None or len(self._work) >= self._most:
            self._tell("stopped" if model is None else "busy")
            return None
        request = _Request(pieces, leave_out)
        work = asyncio.get_running_loop().run_in_executor(self._pool, self._answer, model, request)
        # It counts until a thread is done with it, whoever still waits: what is queued is bounded.
        self._work.add(work)
        work.add_done_callback(self._work.discard)
        try:
            await asyncio.wait([work], timeout=self._answer_s)
        finally:
            request.is_wanted = False
        if not work.done():
            self._tell("late")
            return None
        return None if work.cancelled() else work.result()

    def _answer(self, model: TurnJudge, request: _Request) -> float | None:
        if not request.is_wanted:
            return None
        try:
            samples = np.concatenate(request.pieces)
            return check_answer(model.judge(samples[: len(samples) - request.leave_out]))
        except Exception as error:  # the model worker's boundary: silence ends turns, too
            self._tell(type(error).__name__, error)
            return None

    def _tell(self, kind: str, error: Exception | None = None) -> None:
        if kind not in self._told:
            self._told.add(kind)
            logger.warning("smart_turn.no_answer", extra={"why": kind}, exc_info=error)


class SmartTurnDetector:
    """The `TurnDetector` of one session: keeps the last 8 s of the open turn.

    A pause is judged once and by its first 100 ms, however long it has lasted.
    """

    def __init__(self, model: SmartTurn) -> None:
        self._model = model
        self._pieces: deque[Samples] = deque()
        self._held = 0
        self._at = 0
        self._paused_at: int | None = None
        self._answer: float | None = None

    @property
    def reason(self) -> TurnEndReason:
        return TurnEndReason.TURN_MODEL

    async def hear(self, audio: Audio) -> None:
        self._pieces.append(audio.samples)
        self._held += len(audio.samples)
        self._at = audio.end
        while self._held - len(self._pieces[0]) >= KEPT_SAMPLES:
            self._held -= len(self._pieces.popleft())

    def pause(self, at: int) -> None:
        self._paused_at, self._answer = at, None

    async def judge(self) -> float | None:
        if self._answer is None and self._held:
            pieces = tuple(self._pieces)
            until = self._at if self._paused_at is None else self._paused_at + SILENCE_SAMPLES
            self._answer = await self._model.judge(pieces, leave_out=max(0, self._at - until))
        return self._answer

    async def reset(self) -> None:
        self._pieces.clear()
        self._held = 0
        self._paused_at = self._answer = None

    async def close(self) -> None:
        await self.reset()

"""What this server can ask whether a turn is complete, and the `eou` detector of a side model."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol, TypeVar

from stt_server.engine.base import (
    EngineInfo,
    EngineUnavailable,
    SpeculativeStream,
    StreamingEngine,
    StreamOptions,
    SupervisedEngine,
    TurnDetector,
)
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import SAMPLE_RATE, Audio, TurnEndReason
from stt_server.settings import DetectorName, Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

ANSWER_S = 2.0
"""A side model that takes longer for an answer or a piece is not asked again in this turn."""
UNHEARD_SAMPLES = 3 * SAMPLE_RATE
"""Audio that may wait for the side model before its sender does: more than comes in `ANSWER_S`, so
that live audio never waits for one that hangs."""
NO_EOU = (
    "the detector eou needs a model with an <EOU> token: --model parakeet-eou, or beside another "
    "model --eou-model parakeet-eou"
)


class SideModelDetector:
    """The `TurnDetector` of one session: a stream of the side model for each turn.

    Audio goes there on a task of its own: who judges waits for the side model, nobody else does
    while it keeps up. A stream that fails or is late is given up for the rest of the turn: silence
    ends it. So is a turn while the side model restarts.
    """

    def __init__(self, engine: StreamingEngine) -> None:
        self._engine = engine
        self._stream: SpeculativeStream | None = None
        self._unheard: deque[Audio] = deque()
        self._feeding: asyncio.Task[None] | None = None
        self._is_lost = False

    @property
    def reason(self) -> TurnEndReason:
        return TurnEndReason.MODEL_EOU

    async def hear(self, audio: Audio) -> None:
        await self._heed_fault()
        if self._is_lost:
            return
        self._unheard.append(audio)
        if self._feeding is None:
            self._feeding = asyncio.create_task(self._feed(), name="side model's audio")
        elif audio.end - self._unheard[0].start > UNHEARD_SAMPLES:
            await asyncio.wait([self._feeding])

    async def judge(self) -> float | None:
        await self._heed_fault()
        if self._feeding is not None:
            await asyncio.wait([self._feeding])
        return await self._attempt(self._ask())

    async def reset(self) -> None:
        await self._let_go()
        self._is_lost = False

    async def close(self) -> None:
        await self._let_go()

    async def _heed_fault(self) -> None:
        fault = self._engine.fault if isinstance(self._engine, SupervisedEngine) else None
        if fault is not None and not self._is_lost:
            self._lose(fault)
            await self._let_go()

    async def _feed(self) -> None:
        while self._unheard and not self._is_lost:
            await self._attempt(self._push(self._unheard.popleft()))
        self._feeding = None

    async def _push(self, audio: Audio) -> None:
        if self._stream is None:
            stream = await self._engine.open(StreamOptions())
            assert isinstance(stream, SpeculativeStream)
            self._stream = stream
        await self._stream.push(audio)

    async def _ask(self) -> float | None:
        if self._stream is None:
            return None
        judged = await self._stream.pause()
        # What comes next may be speech.
        await self._stream.resume()
        return judged.ends_turn

    async def _attempt(self, work: Coroutine[Any, Any, T]) -> T | None:
        if self._is_lost:
            work.close()
            return None
        try:
            async with asyncio.timeout(ANSWER_S):
                return await work
        except (TimeoutError, TranscriptionError, Overloaded) as error:
            self._lose(str(error) or "late")
            await self._close_stream()
            return None

    def _lose(self, why: str) -> None:
        logger.warning("eou.lost", extra={"why": why})
        self._is_lost = True
        self._unheard.clear()

    async def _let_go(self) -> None:
        feeding, self._feeding = self._feeding, None
        self._unheard.clear()
        if feeding is not None:
            feeding.cancel()
            await asyncio.wait([feeding])
        await self._close_stream()

    async def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()


class SharedDetector(Protocol):
    """The part of a detector that all sessions share; `SmartTurn` is one."""

    async def start(self) -> None:
        """Load; raises `EngineUnavailable`."""
        ...

    async def stop(self) -> None: ...

    def open(self) -> TurnDetector:
        """That of one session."""
        ...


class Detectors:
    """The turn detectors that one server has beside silence."""

    def __init__(
        self,
        default: DetectorName,
        *,
        side_model: StreamingEngine | None = None,
        smart_turn: SharedDetector | None = None,
        needs_smart_turn: bool = False,
    ) -> None:
        """
        Args:
            default: What sessions use that ask for nothing else.
            side_model: Hears turns for its `<EOU>` token. Others start and stop it.
            smart_turn: It may turn out to be absent, unless `needs_smart_turn`.
        """
        self._default = default
        self.side_model = side_model
        self._smart_turn = smart_turn
        self._has_smart_turn = False
        self._needs_smart_turn = needs_smart_turn or default is DetectorName.SMART_TURN

    @classmethod
    def of(cls, settings: Settings) -> "Detectors":
        """Those that the settings name, and smart-turn if it is on this machine."""
        from stt_server.engine.select import make_eou_engine
        from stt_server.engine.smart_turn import SmartTurn

        return cls(
            settings.endpointing.detector,
            side_model=make_eou_engine(settings),
            smart_turn=SmartTurn(settings.smart_turn, settings.models),
            needs_smart_turn=settings.smart_turn.model is not None,
        )

    async def start(self) -> None:
        """Load smart-turn.

        Raises:
            EngineUnavailable: how to get it.
        """
        if self._smart_turn is None:
            return
        try:
            await self._smart_turn.start()
            self._has_smart_turn = True
        except EngineUnavailable as error:
            if self._needs_smart_turn:
                raise
            from stt_server.engine.smart_turn import HOW_TO_GET

            if str(error) != HOW_TO_GET:
                logger.warning("smart_turn.left_out", extra={"why": str(error)})

    async def stop(self) -> None:
        """Free it. Never raises."""
        if self._smart_turn is not None:
            await self._smart_turn.stop()

    def check(self, main: EngineInfo) -> None:
        """Once all models are loaded: whether sessions can have what was set.

        Raises:
            EngineUnavailable: the default detector is absent, or the side model is none.
        """
        side = self.side_model
        if side is not None and not side.info.marks_turn_ends:
            raise EngineUnavailable(f"{side.info.name}, the eou_model, has no <EOU> token")
        if self._default not in self.names(main):
            raise EngineUnavailable(NO_EOU)

    def names(self, main: EngineInfo) -> frozenset[DetectorName]:
        """What sessions may ask for beside a recogniser like `main`."""
        own = {DetectorName.EOU} if main.marks_turn_ends else set[DetectorName]()
        return frozenset({DetectorName.SILENCE, *own, *self.openers()})

    def openers(self) -> dict[DetectorName, Callable[[], TurnDetector]]:
        """What makes a session's detector, of each kind that hears the audio itself."""
        openers: dict[DetectorName, Callable[[], TurnDetector]] = {}
        if self.side_model is not None:
            openers[DetectorName.EOU] = partial(SideModelDetector, self.side_model)
        if self._smart_turn is not None and self._has_smart_turn:
            openers[DetectorName.SMART_TURN] = self._smart_turn.open
        return openers

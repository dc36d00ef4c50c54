"""One engine for several devices: each has a model, a thread and its own streams."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from stt_server.engine.base import (
    EngineInfo,
    EngineUnavailable,
    RecognitionStream,
    StepTimes,
    StreamOptions,
)
from stt_server.engine.nemo import NemoEngine
from stt_server.errors import Overloaded

logger = logging.getLogger(__name__)


class NemoPool:
    """A `StreamingEngine` of several that know the same model.

    A device that fails costs the turns on it and its places; the others go on, and its sessions
    with them as far as there is room.
    """

    def __init__(
        self, make: Callable[[], Sequence[NemoEngine]], info: EngineInfo, *, gating: bool = True
    ) -> None:
        """
        Args:
            make: the engines, one for each device; called by `start`, on a thread of its own.
            info: what is known before.
            gating: as for the engines.
        """
        self._make, self._info = make, info
        self._engines: list[NemoEngine] = []
        self.hears_silence = not gating
        self.on_step: Callable[[StepTimes], None] = lambda _: None

    @property
    def info(self) -> EngineInfo:
        """Its capacity is that of the devices that serve now."""
        if not self._engines:
            return self._info
        capacity = sum(engine.info.capacity for engine in self._serving)
        return replace(self._engines[0].info, capacity=capacity)

    @property
    def fault(self) -> str | None:
        """Why nothing can be recognised now; None while one device serves."""
        if not self._engines:
            return f"{self._info.name} is not loaded"
        return None if self._serving else self._engines[0].fault

    async def start(self) -> None:
        """Load and warm up on one device after the other, so that none disturbs the measurement of
        another's capacity; a device that cannot is left out.

        Raises:
            EngineUnavailable: none can.
        """
        engines = await asyncio.to_thread(self._make)
        faults: list[EngineUnavailable] = []
        for engine in engines:
            engine.on_step, engine.refuge = self.on_step, self._refuge
            try:
                await engine.start()
            except EngineUnavailable as error:
                faults.append(error)
                await engine.stop()
                if len(engines) > 1:
                    logger.error("device.left_out", extra={"why": str(error)})
            else:
                self._engines.append(engine)
        if not self._engines:
            raise faults[0]

    async def check(self) -> None:
        """Recognise something on every device that serves.

        Raises:
            EngineUnavailable: none does it.
        """
        if self.fault is not None:
            raise EngineUnavailable(self.fault)
        found = await asyncio.gather(
            *(engine.check() for engine in self._serving), return_exceptions=True
        )
        errors = [error for error in found if error is not None]
        for error in errors:
            logger.warning("device.check_failed", exc_info=error)
        if len(errors) == len(found):
            raise errors[0]

    async def stop(self) -> None:
        """Stop all of them. Never raises."""
        await asyncio.gather(*(engine.stop() for engine in self._engines))

    async def open(self, options: StreamOptions) -> RecognitionStream:
        """Take a place on the device that has most of them.

        Raises:
            Overloaded: no place is free.
        """
        if not self._engines:
            raise Overloaded(f"{self.fault}, try again later")
        candidates = self._serving or self._engines
        return await max(candidates, key=lambda engine: engine.free_places).open(options)

    def _refuge(self) -> NemoEngine | None:
        engine = max(self._serving, key=lambda engine: engine.free_places, default=None)
        return engine if engine is not None and engine.free_places > 0 else None

    @property
    def _serving(self) -> list[NemoEngine]:
        return [engine for engine in self._engines if engine.fault is None]

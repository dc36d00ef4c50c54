"""A server whose model fails when a line on stdin says so: `python -m tests.faulty_server [flags]`.

With `--nemo-checkpoint` it is that model, else one that hears the word `sN` in second N of each
stream's speech. Lines: `raise` (the next step does), `die` (its thread ends), `hang` (the next step
does not return), `clock SECONDS` (the wall clock jumps). Each is answered by `taken` on stderr.
"""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from stt_server import app
from stt_server.cli import main
from stt_server.engine.nemo import NemoEngine
from stt_server.engine.nemo_model import LoadedModel, ModelSource
from stt_server.engine.nemo_source import NemoSource
from stt_server.engine.tests.fake_batch import CAPACITY, Script
from stt_server.settings import Settings

STUCK_S = 1.0
DOWN_S = 1.0
"""Between a failure and the restart: for a test to see that the server is down."""


class FaultySource:
    """A `ModelSource` of batches that follow orders from outside."""

    def __init__(self, source: ModelSource) -> None:
        self._source = source
        self.order = ""

    def open(self, is_stopping: Callable[[], bool]) -> LoadedModel:
        model = self._source.open(is_stopping)
        return replace(model, batch=FaultyBatch(model.batch, self))

    def discard(self) -> None:
        self._source.discard()


class FaultyBatch:
    """Another batch but for its steps."""

    def __init__(self, batch: Any, source: FaultySource) -> None:
        self._batch, self._source = batch, source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def step(self) -> list[int]:
        order, self._source.order = self._source.order, ""
        match order:
            case "raise":
                raise RuntimeError("the device is lost")
            case "die":
                raise SystemExit
            case "hang":
                threading.Event().wait()
        return self._batch.step()


class WallClock:
    """`time.time` with jumps."""

    def __init__(self) -> None:
        self._real, self._ahead_s = time.time, 0.0

    def __call__(self) -> float:
        return self._real() + self._ahead_s

    def jump(self, seconds: float) -> None:
        self._ahead_s += seconds


def faulty_engine(settings: Settings) -> NemoEngine:
    own = NemoSource(settings) if settings.nemo.checkpoint else Script()
    source, clock = FaultySource(own), WallClock()
    time.time = clock

    def follow_orders() -> None:
        for line in sys.stdin:
            match line.split():
                case ["clock", seconds]:
                    clock.jump(float(seconds))
                case [order]:
                    source.order = order
                case words:
                    raise ValueError(words)
            print("taken", file=sys.stderr, flush=True)

    threading.Thread(target=follow_orders, daemon=True).start()
    return NemoEngine(
        source,
        name="faulty",
        summary="For tests.",
        most_streams=CAPACITY,
        stuck_s=STUCK_S,
        pauses_s=(DOWN_S,),
    )


if __name__ == "__main__":
    app.make_engine = faulty_engine
    sys.exit(main())

"""A batch without a model: hears the word `sN` in second N of each stream."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from stt_server.engine.nemo_messages import HeardWord
from stt_server.engine.nemo_worker import LoadedModel
from stt_server.events import SAMPLE_RATE, Samples

CHUNK = 2_560
CAPACITY = 4


@dataclass
class Script:
    """What goes wrong, for one batch after another. A `ModelSource`."""

    failing_steps: set[int] = field(default_factory=set[int])
    """Steps, counted over all batches, that raise."""
    failure: BaseException = field(default_factory=lambda: RuntimeError("the device is lost"))
    refused_language: str = ""
    broken: bool = False
    """Not even the first tick works."""
    failing_loads: set[int] = field(default_factory=set[int])
    hang: threading.Event | None = None
    """The next step waits for this."""
    steps: int = 0
    loads: int = 0
    discards: int = 0
    batch: "FakeBatch | None" = None

    def open(self, _is_stopping: Callable[[], bool]) -> LoadedModel:
        self.loads += 1
        if self.loads - 1 in self.failing_loads:
            raise RuntimeError("no model today")
        self.batch = FakeBatch(self, CAPACITY + 1)
        return LoadedModel(self.batch, CAPACITY, (80, 0))

    def discard(self) -> None:
        self.discards += 1


@dataclass
class _Stream:
    lookahead_ms: int | None
    language: str | None
    received: int = 0
    decoded: int = 0
    since: int = 0
    """Seconds that were forgotten."""


class FakeBatch:
    """A `LiveBatch`."""

    def __init__(self, script: Script, slots: int) -> None:
        self.slots = slots
        self.script = script
        self.streams: dict[int, _Stream] = {}
        self.sizes: list[int] = []

    @property
    def ready(self) -> bool:
        if self.script.broken:
            raise self.script.failure
        return any(stream.received - stream.decoded >= CHUNK for stream in self.streams.values())

    def open(self, lookahead_ms: int | None, language: str | None) -> int:
        if language is not None and language == self.script.refused_language:
            raise ValueError("there is no such language")
        slot = min(set(range(self.slots)) - self.streams.keys())
        self.streams[slot] = _Stream(lookahead_ms, language)
        return slot

    def push(self, slot: int, samples: Samples) -> None:
        self.streams[slot].received += len(samples)

    def pad(self, slot: int) -> int:
        padding = -self.streams[slot].received % CHUNK
        self.streams[slot].received += padding
        return padding

    def step(self) -> list[int]:
        script = self.script
        script.steps += 1
        hang, script.hang = script.hang, None
        if hang is not None:
            hang.wait()
        if script.steps - 1 in script.failing_steps:
            raise script.failure
        changed: list[int] = []
        ready = [s for s, x in self.streams.items() if x.received - x.decoded >= CHUNK]
        self.sizes.append(len(ready))
        for slot in ready:
            stream = self.streams[slot]
            before = stream.decoded // SAMPLE_RATE
            stream.decoded += CHUNK
            if stream.decoded // SAMPLE_RATE > before:
                changed.append(slot)
        return changed

    def decoded(self, slot: int) -> int:
        return self.streams[slot].decoded

    def words(self, slot: int) -> tuple[tuple[HeardWord, ...], str | None]:
        stream = self.streams[slot]
        seconds = range(stream.since, stream.decoded // SAMPLE_RATE)
        words = [HeardWord(f"s{n}", n * SAMPLE_RATE, (n + 1) * SAMPLE_RATE, 0.5) for n in seconds]
        return tuple(words), stream.language

    def forget(self, slot: int) -> None:
        stream = self.streams[slot]
        stream.since = stream.decoded // SAMPLE_RATE

    def close(self, slot: int) -> None:
        del self.streams[slot]

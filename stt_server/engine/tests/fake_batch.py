"""A batch without a model: hears the word `sN` in second N of each stream."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from stt_server.engine.nemo_messages import HeardTurn, HeardWord, TurnMark
from stt_server.engine.nemo_model import LoadedModel
from stt_server.events import SAMPLE_RATE, Samples, Token

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
    load_failure: Exception = field(default_factory=lambda: RuntimeError("no model today"))
    mark_at: int | None = None
    """The sample of each stream at which the model says that the turn is complete."""
    hang: threading.Event | None = None
    """The next step waits for this."""
    steps: int = 0
    loads: int = 0
    discards: int = 0
    batch: "FakeBatch | None" = None

    def open(self, _is_stopping: Callable[[], bool]) -> LoadedModel:
        self.loads += 1
        if self.loads - 1 in self.failing_loads:
            raise self.load_failure
        self.batch = FakeBatch(self, CAPACITY + 1)
        return LoadedModel(self.batch, CAPACITY, (80, 0), marks_turn_ends=True)

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
    finished: bool = False

    @property
    def ready(self) -> bool:
        waiting = self.received - self.decoded
        return waiting >= CHUNK or (self.finished and waiting > 0)


class FakeBatch:
    """A `LiveBatch`."""

    def __init__(self, script: Script, slots: int) -> None:
        self.slots = slots
        self.script = script
        self.streams: dict[int, _Stream] = {}
        self.sizes: list[int] = []

    @property
    def stepped(self) -> int:
        return self.sizes[-1] if self.sizes else 0

    @property
    def ready(self) -> bool:
        if self.script.broken:
            raise self.script.failure
        return any(stream.ready for stream in self.streams.values())

    def open(self, lookahead_ms: int | None, language: str | None) -> int:
        if language is not None and language == self.script.refused_language:
            raise ValueError("there is no such language")
        slot = min(set(range(self.slots)) - self.streams.keys())
        self.streams[slot] = _Stream(lookahead_ms, language)
        return slot

    def push(self, slot: int, samples: Samples) -> None:
        assert not self.streams[slot].finished
        self.streams[slot].received += len(samples)

    def has_chunk(self, slot: int) -> bool:
        return self.streams[slot].ready

    def push_tail(self, slot: int) -> int:
        return 0

    def pad(self, slot: int) -> int:
        padding = -self.streams[slot].received % CHUNK
        self.streams[slot].received += padding
        return padding

    def finish(self, slot: int) -> None:
        self.streams[slot].finished = True

    def has_ended(self, slot: int) -> bool:
        return self.streams[slot].finished and not self.streams[slot].ready

    def step(self) -> list[int]:
        script = self.script
        script.steps += 1
        hang, script.hang = script.hang, None
        if hang is not None:
            hang.wait()
        if script.steps - 1 in script.failing_steps:
            raise script.failure
        changed: list[int] = []
        ready = [slot for slot, stream in self.streams.items() if stream.ready]
        self.sizes.append(len(ready))
        for slot in ready:
            stream = self.streams[slot]
            before = stream.decoded // SAMPLE_RATE
            stream.decoded += min(CHUNK, stream.received - stream.decoded)
            if stream.decoded // SAMPLE_RATE > before:
                changed.append(slot)
        return changed

    def decoded(self, slot: int) -> int:
        return self.streams[slot].decoded

    def turn(self, slot: int) -> HeardTurn:
        stream, mark_at = self.streams[slot], self.script.mark_at
        seconds = range(stream.since, stream.decoded // SAMPLE_RATE)
        words = [HeardWord(f"s{n}", n * SAMPLE_RATE, (n + 1) * SAMPLE_RATE, 0.5) for n in seconds]
        tokens = [Token(n, 0.5) for n in seconds]
        is_marked = mark_at is not None and stream.decoded > mark_at
        mark = TurnMark(mark_at, 0.9) if mark_at is not None and is_marked else None
        return HeardTurn(tuple(words), tuple(tokens), stream.language, mark)

    def end_turn(self, slot: int, *, undecoded: bool) -> None:
        stream = self.streams[slot]
        stream.since = (stream.received if undecoded else stream.decoded) // SAMPLE_RATE

    def snapshot(self, slot: int) -> object:
        return replace(self.streams[slot])

    def restore(self, slot: int, snapshot: object) -> None:
        assert isinstance(snapshot, _Stream)
        self.streams[slot] = replace(snapshot)

    def close(self, slot: int) -> None:
        del self.streams[slot]

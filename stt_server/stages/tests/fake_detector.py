"""A turn detector on a script."""

from collections.abc import Callable
from dataclasses import dataclass, field

from stt_server.events import Audio, TurnEndReason


@dataclass
class FakeDetector:
    """Judges by how far the stream is. A `HearsPauses`."""

    judgement: Callable[[int], float | None] = lambda _: None
    heard: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Borders of each piece of audio."""
    asked: list[int] = field(default_factory=list[int])
    """How far the stream was at each question."""
    pauses: list[int] = field(default_factory=list[int])
    """Where speech stopped."""
    resets: int = 0
    closed: bool = False

    @property
    def reason(self) -> TurnEndReason:
        return TurnEndReason.TURN_MODEL

    async def hear(self, audio: Audio) -> None:
        assert not self.closed
        self.heard.append((audio.start, audio.end))

    def pause(self, at: int) -> None:
        self.pauses.append(at)

    async def judge(self) -> float | None:
        assert not self.closed
        self.asked.append(self.heard[-1][1])
        return self.judgement(self.asked[-1])

    async def reset(self) -> None:
        self.resets += 1

    async def close(self) -> None:
        self.closed = True

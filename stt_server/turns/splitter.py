"""Audio cut at the borders the endpointer finds."""

from collections.abc import Sequence

import numpy as np

from stt_server.events import (
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    Audio,
    Samples,
    SegmentEnded,
    SpeechPaused,
    SpeechStarted,
    TurnEnded,
    TurnEndReason,
)
from stt_server.settings import EndpointingSettings
from stt_server.turns.endpointer import Endpointer

SplitEvent = Audio | SpeechStarted | SpeechPaused | SegmentEnded | TurnEnded


class TurnSplitter:
    """Samples and their speech probabilities in, audio and turn events out.

    Every sample comes out exactly once, in order, in an `Audio` that says whether it belongs to
    a turn. While no turn is open the last `pre_roll_ms` are held back: an onset claims them.
    """

    def __init__(self, settings: EndpointingSettings) -> None:
        self._settings = settings
        self._endpointer = Endpointer(settings)
        self._held: Samples = np.empty(0, dtype=np.float32)
        self._released = 0

    @property
    def turn_open(self) -> bool:
        return self._endpointer.turn_open

    @property
    def held_samples(self) -> int:
        """Samples taken in and not given out yet."""
        return len(self._held)

    def configure(self, settings: EndpointingSettings) -> None:
        self._settings = settings
        self._endpointer.configure(settings)

    def push(self, samples: Samples, probabilities: Sequence[float]) -> list[SplitEvent]:
        """Take samples in and judge as many whole windows as there are probabilities.

        A last window that is not complete yet is judged with the samples that complete it.
        """
        self._held = np.concatenate((self._held, samples)) if len(self._held) else samples
        out: list[SplitEvent] = []
        for probability in probabilities:
            for event in self._endpointer.push(probability):
                if isinstance(event, SpeechStarted) and event.opens_turn:
                    pre_roll = self._settings.pre_roll_ms * SAMPLE_RATE // 1_000
                    out += self._release(event.at - pre_roll, speech=False)
                else:
                    out += self._release(self._endpointer.at, speech=True)
                out.append(event)
        return out + self._settle()

    def end_turn(self, reason: TurnEndReason) -> list[SplitEvent]:
        """End the open turn with all samples taken in so far; nothing if none is open."""
        if not self.turn_open:
            return []
        end = self._released + len(self._held)
        out = self._release(end, speech=True)
        return [*out, *self._endpointer.end_turn(reason, at=end)]

    def finish(self) -> list[SplitEvent]:
        """End the open turn and give out everything still held."""
        out = self.end_turn(TurnEndReason.FINISH)
        return out + self._release(self._released + len(self._held), speech=False)

    def _settle(self) -> list[SplitEvent]:
        if self.turn_open:
            return self._release(self._endpointer.at, speech=True)
        pre_roll = self._settings.pre_roll_ms * SAMPLE_RATE // 1_000
        # A window is judged after it has passed, and the first one may be doubted.
        return self._release(self._endpointer.at - pre_roll - 2 * WINDOW_SAMPLES, speech=False)

    def _release(self, until: int, *, speech: bool) -> list[SplitEvent]:
        count = min(until - self._released, len(self._held))
        if count <= 0:
            return []
        # Copies: a view of a few samples would keep the whole packet in memory.
        audio = Audio(self._released, self._held[:count].copy(), speech)
        self._held = self._held[count:].copy()
        self._released += count
        return [audio]

"""Audio cut at the borders the endpointer finds."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TypeAlias

import numpy as np

from stt_server.events import (
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    Audio,
    Samples,
    SegmentEnded,
    SpeechPaused,
    SpeechStarted,
    TurnCheck,
    TurnEnded,
    TurnEndReason,
)
from stt_server.settings import EndpointingMode, EndpointingSettings
from stt_server.turns.endpointer import Endpointer

SplitEvent: TypeAlias = Audio | SpeechStarted | SpeechPaused | SegmentEnded | TurnCheck | TurnEnded


class TurnSplitter:
    """Samples and their speech probabilities in, audio and turn events out.

    Every sample comes out exactly once, in order, in an `Audio` that says whether it belongs to
    a turn. While no turn is open the last `pre_roll_ms` are held back: an onset claims them. In
    mode `manual` the next sample opens a turn, whatever it is.
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
    def at(self) -> int:
        """Position behind all that was given out."""
        return self._released

    @property
    def held_samples(self) -> int:
        """Samples taken in and not given out yet."""
        return len(self._held)

    def configure(self, settings: EndpointingSettings) -> list[SplitEvent]:
        """Use other settings from here on; the open turn goes on."""
        self._settings = settings
        return [*self._endpointer.configure(settings)]

    def push(self, samples: Samples, probabilities: Sequence[float]) -> list[SplitEvent]:
        """Take samples in and judge as many whole windows as there are probabilities.

        A last window that is not complete yet is judged with the samples that complete it.
        """
        return list(chain.from_iterable(self.split(samples, probabilities)))

    def split(
        self, samples: Samples, probabilities: Sequence[float]
    ) -> Iterator[Sequence[SplitEvent]]:
        """Like `push`, window by window: the turn may be ended between what one window brings and
        the next one. Must be exhausted before anything else is taken in."""
        self._held = np.concatenate((self._held, samples)) if len(self._held) else samples
        is_manual = self._settings.mode is EndpointingMode.MANUAL
        if is_manual and not self.turn_open and len(self._held):
            yield self._endpointer.open_turn(self._released)
        for probability in probabilities:
            out: list[SplitEvent] = []
            for event in self._endpointer.push(probability):
                if isinstance(event, SpeechStarted) and event.opens_turn:
                    pre_roll = self._settings.pre_roll_ms * SAMPLE_RATE // 1_000
                    out += self._release(event.at - pre_roll, speech=False)
                else:
                    out += self._release(self._endpointer.at, speech=True)
                out.append(event)
            if out:
                yield out
        yield self._settle()

    def end_turn(self, reason: TurnEndReason) -> list[SplitEvent]:
        """End the open turn with all samples taken in so far; nothing if none is open."""
        if not self.turn_open:
            return []
        end = self._released + len(self._held)
        out = self._release(end, speech=True)
        return [*out, *self._endpointer.end_turn(reason, at=end)]

    def yield_floor(self, reason: TurnEndReason, confidence: float | None) -> list[SplitEvent]:
        """End the open turn with the last window judged: what is held is not the turn's."""
        out = self._release(self._endpointer.at, speech=True) if self.turn_open else []
        return [*out, *self._endpointer.end_turn(reason, confidence=confidence)]

    def drop_turn(self) -> list[SplitEvent]:
        """Forget the open turn, if there is one; what is held belongs to none."""
        end = self._released + len(self._held)
        self._endpointer.drop_turn(end)
        return self._release(end, speech=False)

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

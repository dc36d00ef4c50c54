"""When speech starts, pauses and ends a turn, from speech probabilities alone."""

from collections.abc import Sequence
from typing import TypeAlias

from stt_server.events import (
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    SegmentEnded,
    SpeechPaused,
    SpeechStarted,
    TurnEnded,
    TurnEndReason,
)
from stt_server.settings import EndpointingMode, EndpointingSettings

EndpointEvent: TypeAlias = SpeechStarted | SpeechPaused | SegmentEnded | TurnEnded


def _samples(milliseconds: float) -> int:
    return round(milliseconds * SAMPLE_RATE / 1_000)


class Endpointer:
    """Speech probabilities in, speech events out. Pure: no I/O, no clock, no model.

    Speech begins at `onset` and ends below `offset` (hysteresis). Silence of `small_gap_ms`
    pauses speech, and cuts a segment that holds at least `min_speech_ms` of it; silence of
    `silence_ms` ends the turn. A segment longer than `max_segment_s` is cut at its largest gap.
    """

    def __init__(self, settings: EndpointingSettings) -> None:
        self._settings = settings
        self._at = 0
        self._is_speech = False
        self._turn_open = False
        self._paused = False
        self._speech_end = 0
        self._last_turn_end = 0
        self._segment_speech = 0
        # Probability of each window since the segment began, for the forced cut.
        self._segment: list[float] = []

    @property
    def at(self) -> int:
        """Position after the last window."""
        return self._at

    @property
    def turn_open(self) -> bool:
        return self._turn_open

    def configure(self, settings: EndpointingSettings) -> None:
        """Use other thresholds from the next window on; the open turn goes on."""
        self._settings = settings

    def push(self, probability: float) -> list[EndpointEvent]:
        """Judge the next window of 512 samples."""
        start = self._at
        self._at += WINDOW_SAMPLES
        threshold = self._settings.offset if self._is_speech else self._settings.onset
        self._is_speech = probability >= threshold
        if self._is_speech:
            return self._hear_speech(start, probability)
        if self._turn_open:
            return self._hear_silence(probability)
        return []

    def end_turn(self, reason: TurnEndReason, *, at: int | None = None) -> list[EndpointEvent]:
        """End the open turn for a reason other than silence; nothing if none is open.

        Args:
            at: Where speech stops if it had not stopped yet; default: after the last window.
        """
        if not self._turn_open:
            return []
        end = max(self._at, at or 0) if self._is_speech else self._speech_end
        return self._close_turn(end, reason)

    def _hear_speech(self, start: int, probability: float) -> list[EndpointEvent]:
        events: list[EndpointEvent] = []
        if not self._turn_open:
            self._open_segment()
            # A forced end may lie inside this window; turns never overlap.
            events.append(SpeechStarted(at=max(start, self._last_turn_end), opens_turn=True))
        elif self._paused:
            events.append(SpeechStarted(at=start, opens_turn=False))
        self._turn_open, self._paused = True, False
        self._speech_end = self._at
        self._segment_speech += WINDOW_SAMPLES
        self._segment.append(probability)
        return events + self._forced_cut()

    def _hear_silence(self, probability: float) -> list[EndpointEvent]:
        events: list[EndpointEvent] = []
        settings = self._settings
        silence = self._at - self._speech_end
        self._segment.append(probability)
        if not self._paused and silence >= _samples(settings.small_gap_ms):
            self._paused = True
            events.append(SpeechPaused(at=self._speech_end))
            if self._segment_speech and self._segment_speech >= _samples(settings.min_speech_ms):
                events.append(SegmentEnded(at=self._at))
                self._open_segment()
        if settings.mode is EndpointingMode.VAD and silence >= _samples(settings.silence_ms):
            return events + self._close_turn(self._speech_end, TurnEndReason.SILENCE)
        return events + self._forced_cut()

    def _forced_cut(self) -> list[EndpointEvent]:
        length = len(self._segment)
        if length * WINDOW_SAMPLES < self._settings.max_segment_s * SAMPLE_RATE:
            return []
        if not self._segment_speech:
            # Nothing but silence since the last cut (no turn end by silence in mode `none`).
            self._open_segment()
            return []
        cut = largest_gap(self._segment, below=self._settings.offset)
        event = SegmentEnded(at=self._at - (length - cut) * WINDOW_SAMPLES)
        rest = self._segment[cut:]
        self._open_segment()
        self._segment = rest
        self._segment_speech = sum(p >= self._settings.offset for p in rest) * WINDOW_SAMPLES
        return [event]

    def _open_segment(self) -> None:
        self._segment = []
        self._segment_speech = 0

    def _close_turn(self, at: int, reason: TurnEndReason) -> list[EndpointEvent]:
        self._turn_open = self._paused = self._is_speech = False
        self._last_turn_end = at
        return [TurnEnded(at=at, reason=reason)]


def largest_gap(probabilities: Sequence[float], *, below: float) -> int:
    """Index at which to cut a segment: the middle of its longest run below `below`, the later
    one of equals; without such a run after the window least like speech.

    Only the second half is searched, so that a cut never leaves a sliver behind.
    """
    first = len(probabilities) // 2
    best_length, best_middle, run = 0, 0, 0
    for index in range(first, len(probabilities)):
        run = run + 1 if probabilities[index] < below else 0
        if run and run >= best_length:
            best_length, best_middle = run, index + 1 - run // 2
    if best_length:
        return best_middle
    return min(range(first, len(probabilities)), key=probabilities.__getitem__) + 1

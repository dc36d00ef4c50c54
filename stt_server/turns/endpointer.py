"""When speech starts, pauses and ends a turn, from speech probabilities alone."""

from collections.abc import Sequence
from typing import TypeAlias

from stt_server.events import (
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    SegmentEnded,
    SpeechPaused,
    SpeechStarted,
    TurnCheck,
    TurnEnded,
    TurnEndReason,
)
from stt_server.settings import DetectorName, EndpointingMode, EndpointingSettings

EndpointEvent: TypeAlias = SpeechStarted | SpeechPaused | SegmentEnded | TurnCheck | TurnEnded


def _samples(milliseconds: float) -> int:
    return round(milliseconds * SAMPLE_RATE / 1_000)


class Endpointer:
    """Speech probabilities in, speech events out. Pure: no I/O, no clock, no model.

    Speech begins at `onset` and ends below `offset` (hysteresis). A turn opens with the first
    window half-way between `onset` and certainty, or the second one in a row above `onset`: a
    chord or a door may look like speech for 32 ms, and the doubt costs a speaker no more than
    that. Silence of `small_gap_ms`
    pauses speech, and cuts a segment that holds at least `min_speech_ms` of it; silence of
    `silence_ms` ends the turn. A segment longer than `max_segment_s` is cut at its largest gap.
    Where another detector may end the turn before, each `check_ms` of a pause is told.

    In mode `manual` turns open by `open_turn` alone, and no pause is told: its silence might be
    left out.
    """

    def __init__(self, settings: EndpointingSettings) -> None:
        self._settings = settings
        self._at = 0
        self._is_speech = False
        self._turn_open = False
        self._doubted: float | None = None
        self._paused = False
        self._checked = 0
        self._speech_end = 0
        self._last_turn_end = 0
        self._segment_speech = 0
        # Probability of each window since the segment began, for the forced cut; and whether it
        # counted as speech, which hysteresis does not let one tell from the probability.
        self._segment: list[float] = []
        self._segment_is_speech: list[bool] = []

    @property
    def at(self) -> int:
        """Position after the last window."""
        return self._at

    @property
    def turn_open(self) -> bool:
        return self._turn_open

    @property
    def _is_manual(self) -> bool:
        return self._settings.mode is EndpointingMode.MANUAL

    def configure(self, settings: EndpointingSettings) -> list[EndpointEvent]:
        """Use other thresholds from the next window on; the open turn goes on."""
        self._settings = settings
        if not (self._is_manual and self._paused):
            return []
        self._paused = False
        return [SpeechStarted(at=self._at, opens_turn=False)]

    def open_turn(self, at: int) -> list[EndpointEvent]:
        """Open a turn at `at`, whatever is heard there."""
        self._turn_open = True
        self._doubted = None
        self._speech_end = at
        self._open_segment()
        return [SpeechStarted(at, opens_turn=True)]

    def drop_turn(self, at: int) -> None:
        """Forget the open turn, if there is one, and all that was heard before `at`."""
        self._turn_open = self._paused = self._is_speech = False
        self._doubted = None
        self._last_turn_end = max(self._last_turn_end, at)

    def push(self, probability: float) -> list[EndpointEvent]:
        """Judge the next window of 512 samples."""
        start = self._at
        self._at += WINDOW_SAMPLES
        if not self._turn_open:
            return self._listen(start, probability)
        threshold = self._settings.offset if self._is_speech else self._settings.onset
        self._is_speech = probability >= threshold
        if self._is_speech:
            return self._hear_speech(start, probability)
        return self._hear_silence(probability)

    def end_turn(
        self, reason: TurnEndReason, *, at: int | None = None, confidence: float | None = None
    ) -> list[EndpointEvent]:
        """End the open turn for a reason other than silence; nothing if none is open.

        Args:
            at: Where speech stops if it had not stopped yet; default: after the last window.
            confidence: How sure the detector is that ends it.
        """
        if not self._turn_open:
            return []
        # What a client marks is all of it the turn's, whatever is heard there.
        by_client = self._is_manual or reason is TurnEndReason.COMMIT
        end = max(self._at, at or 0) if self._is_speech or by_client else self._speech_end
        return self._close_turn(end, reason, confidence)

    def _listen(self, start: int, probability: float) -> list[EndpointEvent]:
        onset = self._settings.onset
        if probability < onset:
            self._doubted = None
            return []
        if self._doubted is None and probability < (onset + 1.0) / 2:
            self._doubted = probability
            return []
        self._turn_open = self._is_speech = True
        self._open_segment()
        begin = start
        if self._doubted is not None:
            begin -= WINDOW_SAMPLES
            self._note_window(self._doubted, is_speech=True)
            self._doubted = None
        # A forced end may lie inside this window; turns never overlap.
        opening = SpeechStarted(at=max(begin, self._last_turn_end), opens_turn=True)
        return [opening, *self._hear_speech(start, probability)]

    def _hear_speech(self, start: int, probability: float) -> list[EndpointEvent]:
        events: list[EndpointEvent] = []
        if self._paused:
            self._paused = False
            events.append(SpeechStarted(at=start, opens_turn=False))
        self._speech_end = self._at
        self._note_window(probability, is_speech=True)
        return events + self._forced_cut()

    def _hear_silence(self, probability: float) -> list[EndpointEvent]:
        events: list[EndpointEvent] = []
        settings = self._settings
        silence = self._at - self._speech_end
        self._note_window(probability, is_speech=False)
        if not self._paused and silence >= _samples(settings.small_gap_ms):
            if not self._is_manual:
                self._paused = True
                self._checked = self._at
                events.append(SpeechPaused(at=self._speech_end))
            if self._segment_speech and self._segment_speech >= _samples(settings.min_speech_ms):
                events.append(SegmentEnded(at=self._at))
                self._open_segment()
        if settings.mode is EndpointingMode.VAD and silence >= _samples(settings.silence_ms):
            return events + self._close_turn(self._speech_end, TurnEndReason.SILENCE)
        return events + self._forced_cut() + self._check()

    def _check(self) -> list[EndpointEvent]:
        settings = self._settings
        is_asked = (
            self._paused
            and settings.mode is EndpointingMode.VAD
            and settings.detector is not DetectorName.SILENCE
        )
        if not is_asked or self._at - self._checked < _samples(settings.check_ms):
            return []
        self._checked = self._at
        return [TurnCheck(at=self._at)]

    def _forced_cut(self) -> list[EndpointEvent]:
        length = len(self._segment)
        if length * WINDOW_SAMPLES < self._settings.max_segment_s * SAMPLE_RATE:
            return []
        if not self._segment_speech:
            # Nothing but silence since the last cut (no turn end by silence in mode `none`).
            self._open_segment()
            return []
        # What a cut ends must hold speech, and should be no sliver.
        first = max(length // 2, self._segment_is_speech.index(True) + 1)
        cut = largest_gap(self._segment, first=min(first, length - 1), below=self._settings.offset)
        event = SegmentEnded(at=self._at - (length - cut) * WINDOW_SAMPLES)
        self._segment = self._segment[cut:]
        self._segment_is_speech = self._segment_is_speech[cut:]
        self._segment_speech = sum(self._segment_is_speech) * WINDOW_SAMPLES
        return [event]

    def _note_window(self, probability: float, *, is_speech: bool) -> None:
        self._segment.append(probability)
        self._segment_is_speech.append(is_speech)
        self._segment_speech += WINDOW_SAMPLES if is_speech else 0

    def _open_segment(self) -> None:
        self._segment = []
        self._segment_is_speech = []
        self._segment_speech = 0

    def _close_turn(
        self, at: int, reason: TurnEndReason, confidence: float | None = None
    ) -> list[EndpointEvent]:
        self.drop_turn(at)
        return [TurnEnded(at, reason, confidence)]


def largest_gap(probabilities: Sequence[float], *, first: int, below: float) -> int:
    """Index at which to cut a segment: the middle of its longest run below `below`, the later
    one of equals; without such a run after the window least like speech.

    Only the windows from `first` on are searched.
    """
    best_length, best_middle, run = 0, 0, 0
    for index in range(first, len(probabilities)):
        run = run + 1 if probabilities[index] < below else 0
        if run and run >= best_length:
            best_length, best_middle = run, index + 1 - run // 2
    if best_length:
        return best_middle
    return min(range(first, len(probabilities)), key=probabilities.__getitem__) + 1

"""Where a file is cut into pieces for the recogniser. Pure."""

from collections.abc import Sequence

import numpy as np

from stt_server.events import (
    SAMPLE_RATE,
    Audio,
    Samples,
    SegmentEnded,
    SpeechPaused,
    SpeechStarted,
    TurnEnded,
)
from stt_server.settings import DetectorName, EndpointingMode, EndpointingSettings
from stt_server.turns.splitter import SplitEvent, TurnSplitter

LONGEST_SAMPLES = 40 * SAMPLE_RATE
"""A piece is no longer than this, whatever the recogniser takes."""


class Cutter:
    """Samples and their speech probabilities in, pieces with speech out.

    A piece is a turn as a live session would have it, up to where the pause that ends it was told,
    so that it is recognised alike. A turn longer than half of `longest` is cut at its next pause,
    whose silence goes to both sides; one without pauses where it is least like speech.
    """

    def __init__(self, endpointing: EndpointingSettings, *, longest: int = LONGEST_SAMPLES) -> None:
        """
        Args:
            longest: Samples of a piece at most.
        """
        self._cut_from = min(longest, LONGEST_SAMPLES) // 2
        own = {
            "mode": EndpointingMode.VAD,
            "detector": DetectorName.SILENCE,
            "eager": False,
            "max_segment_s": min(endpointing.max_segment_s, self._cut_from / SAMPLE_RATE),
        }
        self._splitter = TurnSplitter(endpointing.model_copy(update=own))
        self._parts: list[Audio] = []
        self._has_speech = False
        self._speech_end = 0
        self._pause_told: int | None = None
        """Where the open pause was long enough to be one."""

    def push(self, samples: Samples, probabilities: Sequence[float]) -> list[Audio]:
        """Take samples in, and the probabilities of the windows they complete."""
        return self._cut(self._splitter.push(samples, probabilities))

    def finish(self) -> list[Audio]:
        """The rest."""
        return self._cut(self._splitter.finish())

    def _cut(self, events: Sequence[SplitEvent]) -> list[Audio]:
        pieces: list[Audio] = []
        for event in events:
            match event:
                case Audio(speech=True):
                    self._parts.append(event)
                case SpeechStarted():
                    self._has_speech, self._pause_told = True, None
                case SpeechPaused(at=at):
                    self._speech_end, self._pause_told = at, self._end
                case SegmentEnded(at=at) if self._pause_told is None:
                    pieces.append(self._take(at, go_on_from=at))
                case SegmentEnded() if self._end - self._parts[0].start >= self._cut_from:
                    if self._has_speech:
                        pieces.append(self._take(self._end, go_on_from=self._speech_end))
                        self._has_speech = False
                case TurnEnded():
                    if self._has_speech:
                        end = self._end if self._pause_told is None else self._pause_told
                        pieces.append(self._take(end, go_on_from=self._end))
                    self._parts.clear()
                    self._has_speech, self._pause_told = False, None
                case _:
                    pass
        return pieces

    @property
    def _end(self) -> int:
        return self._parts[-1].end if self._parts else 0

    def _take(self, until: int, *, go_on_from: int) -> Audio:
        start = self._parts[0].start
        samples = np.concatenate([part.samples for part in self._parts])
        rest = samples[go_on_from - start :].copy()
        self._parts = [Audio(go_on_from, rest, speech=True)] if len(rest) else []
        return Audio(start, samples[: until - start], speech=True)

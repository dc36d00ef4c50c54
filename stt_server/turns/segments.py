"""A turn for engines that hear one piece of audio at a time: where to cut, what to hear again, how
to join. Pure."""

from dataclasses import replace

import numpy as np
from strops import align_overlap

from stt_server.events import SAMPLE_RATE, Audio, Samples, Transcript, Word

OVERLAP_SAMPLES = 5 * SAMPLE_RATE
"""Audio before a segment that is heard again with it, so that its first words have context."""
STRIP = ".,;:!?…\"“”‘’'()[]¿¡-–—"


def key(word: Word) -> str:
    """What two spellings of one word share: lower case, no punctuation around it."""
    return word.text.lower().strip(STRIP)


def join(before: tuple[Word, ...], after: tuple[Word, ...]) -> tuple[Word, ...]:
    """`before` continued by `after`, shared words written once, as the engine spelt them."""
    overlap = align_overlap([key(word) for word in before], [key(word) for word in after])
    if overlap is None:
        return before + after
    return before[: overlap.prev_cut] + after[overlap.new_cut :]


class TurnAudio:
    """The audio of the open turn and the words found in it, segment by segment."""

    def __init__(self, *, leading_silence_samples: int, whole_samples: int) -> None:
        """
        Args:
            leading_silence_samples: Silence kept at most ahead of a segment's speech.
            whole_samples: A longer turn is not kept whole.
        """
        self._leading_silence = leading_silence_samples
        self._whole_samples = whole_samples
        self._fits_whole = True
        self._parts: list[Audio] = []
        self._segment_start = 0
        self._words: tuple[Word, ...] = ()
        self._heard_until = 0

    @property
    def end(self) -> int:
        return self._parts[-1].end if self._parts else self._segment_start

    def append(self, audio: Audio) -> None:
        if not self._parts:
            self._segment_start = self._heard_until = audio.start
        self._parts.append(audio)
        self._fits_whole = (
            self._fits_whole and audio.end - self._turn_start() <= self._whole_samples
        )

    def speech_resumed(self, at: int) -> None:
        """Silence before `at` that leads a segment is kept only so far."""
        self._segment_start = max(self._segment_start, at - self._leading_silence)

    def cut(self, at: int) -> Audio | None:
        """The segment that ends at sample `at`, with its overlap; None if it is empty."""
        end = min(at, self.end)
        if end <= self._segment_start:
            return None
        start = max(self._segment_start - OVERLAP_SAMPLES, self._turn_start())
        if self._segment_start - self._heard_until > 0:
            # Trimmed silence lies between: there is nothing to overlap with.
            start = self._segment_start
        return self._slice(start, end)

    def heard(self, segment: Audio, transcript: Transcript) -> Transcript:
        """Join the words of a segment that `cut` gave out; the turn's transcript so far.

        Words that later segments will not hear again are stable.
        """
        overlaps = segment.start < self._heard_until
        words = transcript.words
        self._words = join(self._words, words) if overlaps else self._words + words
        self._segment_start = self._heard_until = segment.end
        border = segment.end - OVERLAP_SAMPLES
        if not self._fits_whole:
            self._parts = [part for part in self._parts if part.end > border]
        stable = next(
            (index for index, word in enumerate(self._words) if word.end > border), len(self._words)
        )
        return replace(transcript, words=self._words, stable=stable, confidence=None)

    def whole(self) -> Audio | None:
        """All audio of the turn; None if it was too long to be kept."""
        return self._slice(self._turn_start(), self.end) if self._fits_whole else None

    def so_far(self) -> Transcript:
        """The words of the segments heard."""
        return Transcript(self._words, stable=len(self._words))

    def _turn_start(self) -> int:
        return self._parts[0].start if self._parts else self._segment_start

    def _slice(self, start: int, end: int) -> Audio:
        pieces: list[Samples] = [
            part.samples[max(0, start - part.start) : max(0, end - part.start)]
            for part in self._parts
            if part.end > start and part.start < end
        ]
        samples = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.float32)
        return Audio(start, samples, speech=True)

"""A turn for engines that hear one piece of audio at a time: which piece next, what to hear again,
how to join. Pure."""

from collections import deque
from dataclasses import replace

import numpy as np
from strops import align_overlap

from stt_server.events import SAMPLE_RATE, Audio, Samples, Transcript, Word

OVERLAP_SAMPLES = 5 * SAMPLE_RATE
"""Audio before a piece that is heard again with it, so that its first words have context."""
TIME_DOUBT_SAMPLES = SAMPLE_RATE
"""How far a word may lie from where the engine says: so much older than all that is heard again
must it be to count as stable."""
STRIP = ".,;:!?…\"“”‘’'()[]¿¡-–—"


def key(word: Word) -> str:
    """What two spellings of one word share: lower case, no punctuation around it."""
    return word.text.lower().strip(STRIP)


def join(before: tuple[Word, ...], after: tuple[Word, ...], *, seam: int) -> tuple[Word, ...]:
    """`before` continued by `after`, shared words written once, as the engine spelt them.

    Args:
        seam: Where to change over, by the words' times, if no words are shared.
    """
    overlap = align_overlap([key(word) for word in before], [key(word) for word in after])
    if overlap is not None:
        return before[: overlap.prev_cut] + after[overlap.new_cut :]
    kept = tuple(word for word in before if word.start + word.end < 2 * seam)
    if not kept:
        return after
    seam = min(seam, kept[-1].end)
    return kept + tuple(word for word in after if word.start + word.end >= 2 * seam)


class TurnAudio:
    """The audio of the open turn and the words found in it, piece by piece.

    All of it is kept while the turn fits the engine's window; of a longer one what is still to be
    heard, with its overlap. Silence at the end waits apart: it counts once speech resumes.
    """

    def __init__(
        self,
        start: int,
        *,
        leading_silence_samples: int,
        window_samples: int,
        overlap_samples: int = OVERLAP_SAMPLES,
    ) -> None:
        """
        Args:
            start: Where the turn begins, until the first `append` says so itself.
            leading_silence_samples: Silence kept at most ahead of a piece's speech.
            window_samples: Longest piece.
            overlap_samples: What a piece hears again at most.
        """
        self._leading_silence = leading_silence_samples
        self._window = window_samples
        self._overlap = min(overlap_samples, window_samples // 2)
        self._parts: list[Audio] = []
        self._silence: deque[Audio] = deque()
        self._is_paused = False
        self._speech_end = start
        self._fits = True
        # What is before was heard, or left out as silence; and how far back the next piece may go.
        self._start = self._heard_until = self._floor = start
        self._cuts: list[int] = []
        self._postponed_cut = -1
        self._skips: deque[tuple[int, int]] = deque()
        self._so_far = Transcript()

    @property
    def silence_samples(self) -> int:
        """How long the open pause has lasted; 0 while there is speech."""
        if not self._is_paused:
            return 0
        return (self._silence[-1].end if self._silence else self._end) - self._speech_end

    @property
    def is_behind(self) -> bool:
        """So much is to be heard that no more should come."""
        return self._end - self._heard_until > 2 * self._window

    @property
    def whole(self) -> tuple[int, int] | None:
        """From the turn's first sample to its last, or to where the pause was told; None if that
        is longer than a piece may be."""
        return (self._start, self._end) if self._fits and self._parts else None

    def append(self, audio: Audio) -> None:
        """The next samples of the turn."""
        if self._is_paused:
            self._silence.append(audio)
            if audio.end - self._end > self._leading_silence:
                # Too little speech for a cut of its own, and it must not go with the silence.
                self.cut(self._end)
            if audio.end - self._start > self._window:
                self._thin_silence()
            return
        if not self._parts:
            self._start = self._heard_until = self._floor = audio.start
        self._parts.append(audio)
        if self._end - self._start > self._window:
            self._fits = False
        since = max(
            self._cuts[-1] if self._cuts else 0,
            self._skips[-1][1] if self._skips else 0,
            self._heard_until,
        )
        if self._end - since > self._window - self._overlap:
            self.cut(self._end)

    def pause(self, at: int) -> None:
        """Speech stopped at sample `at`; what comes from here on is silence."""
        self._is_paused = bool(self._parts)
        self._speech_end = at

    def resume(self, at: int) -> None:
        """Speech goes on at sample `at`; more silence before it than is wanted is left out."""
        if not self._is_paused:
            return
        self._is_paused = False
        end, silence = self._end, list(self._silence)
        self._silence.clear()
        skip_to = max(at - self._leading_silence, silence[0].start if silence else end)
        if skip_to > end:
            # Speech before it has been cut off already, by `append`.
            self._skips.append((end, skip_to))
        for part in silence:
            self.append(part)

    def cut(self, at: int) -> None:
        """A piece may end at sample `at`."""
        at = min(at, self._end)
        if at > max(self._cuts[-1] if self._cuts else 0, self._heard_until):
            self._cuts.append(at)

    def piece(self) -> Audio | None:
        """What to hear next: as many cuts as fit the window, with overlap; None if there is no cut
        since the last piece was heard or postponed."""
        while self._skips and self._skips[0][0] <= self._heard_until:
            _, self._heard_until = self._skips.popleft()
            self._floor = self._heard_until
        if not self._cuts or self._cuts[-1] <= max(self._heard_until, self._postponed_cut):
            return None
        start = max(self._heard_until - self._overlap, self._floor)
        last = min(start + self._window, self._skips[0][0] if self._skips else self._cuts[-1])
        fitting = [cut for cut in self._cuts if self._heard_until < cut <= last]
        return self.slice(start, fitting[-1] if fitting else last)

    def heard(self, piece: Audio, transcript: Transcript) -> Transcript:
        """Join the words of what `piece` gave out; the turn's transcript so far.

        Words that no later piece will hear again are stable.
        """
        words, stable = self._so_far.words, self._so_far.stable
        if piece.start == self._start and not stable:
            words = transcript.words
        elif piece.start < self._heard_until:
            seam = (piece.start + self._heard_until) // 2
            words = words[:stable] + join(words[stable:], transcript.words, seam=seam)
        else:
            words += transcript.words
        border = piece.end - self._overlap - TIME_DOUBT_SAMPLES
        settled = next((n for n, word in enumerate(words) if word.end > border), len(words))
        self._so_far = replace(
            transcript,
            words=words,
            stable=settled,
            confidence=None,
            estimated_times=transcript.estimated_times or self._so_far.estimated_times,
        )
        self._leave_behind(piece.end)
        return self._so_far

    def postpone(self) -> None:
        """The last piece failed: it is heard again with what the next cut ends."""
        self._postponed_cut = self._cuts[-1] if self._cuts else -1

    def give_up(self, piece: Audio) -> None:
        """Go on behind a piece without its words."""
        self._leave_behind(piece.end)

    def end(self) -> None:
        """Nothing follows: what was not heard makes the last pieces."""
        self._postponed_cut = -1
        self.cut(self._end)

    def so_far(self) -> Transcript:
        """The words of the pieces heard."""
        return replace(self._so_far, stable=len(self._so_far.words))

    def slice(self, start: int, end: int) -> Audio:
        """Audio of the turn that is still kept and has no gap."""
        pieces: list[Samples] = [
            part.samples[max(0, start - part.start) : max(0, end - part.start)]
            for part in self._parts
            if part.end > start and part.start < end
        ]
        samples = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.float32)
        return Audio(start, samples, speech=True)

    @property
    def _end(self) -> int:
        return self._parts[-1].end if self._parts else self._start

    def _leave_behind(self, until: int) -> None:
        self._heard_until = until
        self._cuts = [cut for cut in self._cuts if cut > until]
        if not self._fits:
            border = until - self._overlap
            self._parts = [part for part in self._parts if part.end > border]

    def _thin_silence(self) -> None:
        """Of silence that never ends only what may lead the next piece is kept."""
        end = self._silence[-1].end
        while len(self._silence) > 1 and end - self._silence[0].end >= self._leading_silence:
            self._silence.popleft()

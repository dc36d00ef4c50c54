"""The text of the open turn, from what the engine hears."""

from stt_server.events import Audio, Hypothesis, Token, Transcript, Word


class TurnText:
    """Numbers turns and keeps the promises about their text. Pure.

    Interims differ from the one before; the stable part never shrinks; words found before the
    engine failed stay in front of what it hears afterwards.
    """

    def __init__(self) -> None:
        self._turn = -1
        self._start = 0
        self._samples = 0
        self._kept: tuple[Word, ...] = ()
        self._kept_tokens: tuple[Token, ...] = ()
        self._lasting_tokens: tuple[Token, ...] = ()
        self._last = Transcript()
        self._stable = 0
        self._sent = ""
        self._estimated_times = False

    @property
    def has_stable_words(self) -> bool:
        """Words of the open turn were told that never change again."""
        return self._stable > 0

    def open(self, start: int) -> None:
        """A turn begins at sample `start`."""
        self._turn += 1
        self._start = start
        self._samples = 0
        self._kept, self._kept_tokens, self._lasting_tokens = (), (), ()
        self._last, self._stable, self._sent = Transcript(), 0, ""
        self._estimated_times = False

    def take(self, audio: Audio) -> None:
        """The next samples of the turn go to the engine."""
        self._samples += len(audio.samples)

    def spell(self, transcript: Transcript) -> str:
        """The text of the turn if `transcript` is what the engine hears now."""
        return _spell(self._kept + transcript.words)

    def hear(
        self, transcript: Transcript, *, at: int, is_lasting: bool = True
    ) -> Hypothesis | None:
        """An interim if the text is new, given audio up to sample `at`.

        Args:
            is_lasting: Else the engine may take back what is new, also what it calls stable.
        """
        self._last = transcript
        self._estimated_times |= transcript.estimated_times
        if is_lasting:
            self._stable = max(self._stable, len(self._kept) + transcript.stable)
            self._lasting_tokens = transcript.tokens
        words = self._kept + transcript.words
        text = _spell(words)
        if text == self._sent or not text:
            return None
        self._sent = text
        stable = _spell(words[: self._stable])
        return Hypothesis(
            turn=self._turn,
            stable=stable,
            unstable=text[len(stable) :],
            words=words,
            start=self._span_start(words),
            end=max(at, self._start),
            language=transcript.language,
            estimated_times=self._estimated_times,
            tokens=self._kept_tokens + self._lasting_tokens,
        )

    def engine_failed(self) -> None:
        """The engine forgot the turn: keep the words found so far; it starts afresh."""
        self._kept += self._last.words
        self._kept_tokens += self._last.tokens
        self._last, self._lasting_tokens = Transcript(), ()

    def close(self, transcript: Transcript, *, at: int) -> Hypothesis:
        """The final; speech ended at sample `at`."""
        words = self._kept + transcript.words
        return Hypothesis(
            turn=self._turn,
            stable=_spell(words),
            unstable="",
            words=words,
            start=self._span_start(words),
            end=max(at, self._start),
            is_final=True,
            confidence=transcript.confidence
            if transcript.confidence is not None
            else _mean_confidence(words),
            language=transcript.language,
            estimated_times=self._estimated_times or transcript.estimated_times,
            tokens=self._kept_tokens + transcript.tokens,
            audio_samples=self._samples,
        )

    def _span_start(self, words: tuple[Word, ...]) -> int:
        """A first word may begin in the pre-roll, before speech was certain."""
        return min(self._start, words[0].start) if words else self._start


def _spell(words: tuple[Word, ...]) -> str:
    return " ".join(word.text for word in words)


def _mean_confidence(words: tuple[Word, ...]) -> float | None:
    scores = [word.confidence for word in words if word.confidence is not None]
    return sum(scores) / len(scores) if scores else None

"""A turn heard twice: what the second recogniser is given, and what becomes of the final. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

import numpy as np

from stt_server.events import Audio, Hypothesis, Transcript, Word


class TurnRecording:
    """The audio of the open turn, as long as the second recogniser can hear it in one piece."""

    def __init__(self, longest: int) -> None:
        """
        Args:
            longest: Samples; a longer turn is not kept.
        """
        self._longest = longest
        self._parts: list[Audio] = []
        self._samples = 0

    def append(self, audio: Audio) -> None:
        """The next samples of the turn."""
        self._samples += len(audio.samples)
        if self._samples > self._longest:
            self._parts.clear()
        else:
            self._parts.append(audio)

    def give_up(self) -> None:
        """Keep nothing, from now on."""
        self._longest = 0
        self._parts.clear()

    @property
    def is_kept(self) -> bool:
        """There is a `whole`."""
        return bool(self._parts)

    def whole(self) -> Audio | None:
        """All of the turn so far; None if that is nothing, or too long."""
        if not self._parts:
            return None
        samples = np.concatenate([part.samples for part in self._parts])
        return Audio(self._parts[0].start, samples, speech=True)


def second_final(first: Hypothesis, second: Transcript) -> Hypothesis:
    """The final of a turn with the words that the second recogniser heard.

    Where that one does not know their times, words that both heard have those of the first.
    """
    words, estimated = second.words, second.estimated_times
    if estimated and not first.estimated_times:
        words, estimated = timed_like(first, second.words)
    return replace(
        first,
        stable=" ".join(word.text for word in words),
        unstable="",
        words=words,
        start=min(first.start, words[0].start) if words else first.start,
        confidence=_confidence(second),
        language=second.language or first.language,
        estimated_times=estimated,
        tokens=(),
    )


def timed_like(first: Hypothesis, words: Sequence[Word]) -> tuple[tuple[Word, ...], bool]:
    """`words` with the times of the same words in `first`, and whether there are others.

    Words heard in the place of others share the time of those by their length in letters; words
    that `first` lacks keep the times they have as far as their neighbours let them.
    """
    timed = first.words
    matcher = SequenceMatcher(
        None, [_key(word) for word in timed], [_key(word) for word in words], autojunk=False
    )
    out: list[Word] = []
    estimated = False
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        if kind == "equal":
            pairs = zip(timed[i1:i2], words[j1:j2], strict=True)
            out += [replace(word, start=like.start, end=like.end) for like, word in pairs]
        elif kind == "replace":
            estimated = True
            out += _spread(words[j1:j2], timed[i1].start, timed[i2 - 1].end)
        elif kind == "insert":
            estimated = True
            begin = timed[i1 - 1].end if i1 else first.start
            end = timed[i1].start if i1 < len(timed) else first.end
            out += _within(words[j1:j2], begin, max(begin, end))
    return tuple(out), estimated


def _within(words: Sequence[Word], begin: int, end: int) -> Iterator[Word]:
    for word in words:
        start, stop = (min(max(at, begin), end) for at in (word.start, word.end))
        yield replace(word, start=start, end=stop)


def _spread(words: Sequence[Word], begin: int, end: int) -> Iterator[Word]:
    letters = [max(1, len(word.text)) for word in words]
    borders = begin + np.cumsum([0, *letters]) * max(0, end - begin) // sum(letters)
    for word, start, stop in zip(words, borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        yield replace(word, start=start, end=stop)


def _key(word: Word) -> str:
    """What two spellings of a word share."""
    return "".join(letter for letter in word.text.casefold() if letter.isalnum()) or word.text


def _confidence(transcript: Transcript) -> float | None:
    if transcript.confidence is not None:
        return transcript.confidence
    sure = [word.confidence for word in transcript.words if word.confidence is not None]
    return sum(sure) / len(sure) if sure else None

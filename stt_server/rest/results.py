"""What was heard in a file, gathered for an answer. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from stt_server.events import SAMPLE_RATE, Word
from stt_server.files.transcription import Heard

SENTENCE_ENDS = (".", "?", "!", "。", "？", "！")
MAX_CUE_SAMPLES = 7 * SAMPLE_RATE
MAX_CUE_LETTERS = 84
"""Two lines of a subtitle."""
CUE_GAP_SAMPLES = SAMPLE_RATE // 2


@dataclass(frozen=True, slots=True)
class Cue:
    """Words that are shown together; at least one."""

    words: tuple[Word, ...]

    @property
    def start(self) -> int:
        return self.words[0].start

    @property
    def end(self) -> int:
        return max(self.start, self.words[-1].end)

    @property
    def text(self) -> str:
        return spell(self.words)


@dataclass(slots=True)
class FileTranscript:
    """The words of a file so far."""

    words: list[Word] = field(default_factory=list[Word])
    language: str | None = None
    _pieces: list[int] = field(default_factory=list[int])

    def add(self, heard: Heard) -> None:
        """The next words."""
        self.words += heard.words
        self.language = heard.language or self.language
        if heard.ends_piece:
            self._pieces.append(len(self.words))

    @property
    def text(self) -> str:
        return spell(self.words)

    def cues(self) -> Iterator[Cue]:
        """The words in portions: sentences where there are full stops, else what lies between
        pauses, and never more than fits under a picture."""
        borders, first = set(self._pieces), 0
        for index in range(1, len(self.words)):
            if index in borders or _parts(self.words[first:index], self.words[index]):
                yield Cue(tuple(self.words[first:index]))
                first = index
        if first < len(self.words):
            yield Cue(tuple(self.words[first:]))


def spell(words: list[Word] | tuple[Word, ...]) -> str:
    """The text of words."""
    return " ".join(word.text for word in words)


def _parts(before: list[Word], word: Word) -> bool:
    """Whether `word` begins a new cue."""
    return (
        before[-1].text.endswith(SENTENCE_ENDS)
        or word.start - before[-1].end >= CUE_GAP_SAMPLES
        or word.end - before[0].start > MAX_CUE_SAMPLES
        or len(spell(before)) + 1 + len(word.text) > MAX_CUE_LETTERS
    )

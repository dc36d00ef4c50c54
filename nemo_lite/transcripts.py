"""Tokens of one recording or stream, and the transcript they make."""

import bisect
from dataclasses import dataclass, field
from typing import Self

from nemo_lite.decoding import Decoded
from nemo_lite.decoding.words import words
from nemo_lite.results import Transcript
from nemo_lite.tokenizer import Detokenizer, Tokenizer


@dataclass(slots=True)
class TokenRun:
    """Token ids with the encoder frame and the confidence of each; frames count from the start."""

    tokens: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)

    def extend(self, new: Self) -> None:
        """Append what a step gave."""
        self.tokens += new.tokens
        self.frames += new.frames
        self.confidences += new.confidences

    def since(self, index: int) -> Self:
        """A copy without what lies before `index`."""
        return type(self)(self.tokens[index:], self.frames[index:], self.confidences[index:])

    def copy(self) -> Self:
        """An independent copy."""
        return type(self)(self.tokens.copy(), self.frames.copy(), self.confidences.copy())


@dataclass(slots=True)
class StreamText:
    """What one live stream has said and nobody has forgotten."""

    detokenizer: Detokenizer
    run: TokenRun = field(default_factory=TokenRun)
    told_frames: int = 0
    """Tokens of frames before this one are left out."""

    def take(self, new: TokenRun) -> tuple[TokenRun, str]:
        """Append what a step gave; gives what of it counts and the text that adds."""
        told = bisect.bisect_left(new.frames, self.told_frames)
        if told:
            self.detokenizer.push(new.tokens[:told])
            new = new.since(told)
        self.run.extend(new)
        return new, self.detokenizer.push(new.tokens)

    def forget(self, tokenizer: Tokenizer, *, keep_words: int) -> None:
        """Drop all but about so many of the last words."""
        if not keep_words:
            self.run = TokenRun()
            return
        begins = [
            index
            for index, token in enumerate(self.run.tokens)
            if tokenizer.pieces[token].startswith("▁")
        ]
        if len(begins) > keep_words:
            self.run = self.run.since(begins[-keep_words])

    def copy(self) -> Self:
        """An independent copy."""
        return type(self)(self.detokenizer.copy(), self.run.copy(), self.told_frames)


def token_runs(decoded: Decoded) -> list[TokenRun]:
    """One run per row of what a decoder found; copies from the device."""
    columns = (decoded.tokens, decoded.frames, decoded.confidences)
    rows = zip(*(column.tolist() for column in columns), decoded.counts.tolist(), strict=True)
    return [TokenRun(t[:count], f[:count], c[:count]) for t, f, c, count in rows]


def transcript(run: TokenRun, tokenizer: Tokenizer, frame_seconds: float) -> Transcript:
    """Text, words and times of a token run."""
    pieces = [tokenizer.pieces[token] for token in run.tokens]
    tags = [tokenizer.language_tags[t] for t in run.tokens if t in tokenizer.language_tags]
    return Transcript(
        text=tokenizer.decode(run.tokens, strip_markers=True),
        words=words(pieces, run.frames, run.confidences, frame_seconds=frame_seconds),
        token_ids=tuple(run.tokens),
        token_times=tuple(frame * frame_seconds for frame in run.frames),
        token_confidences=tuple(run.confidences),
        language=tags[-1] if tags else None,
    )

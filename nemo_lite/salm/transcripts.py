"""Transcripts of what the model wrote for pieces of audio."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from nemo_lite.results import Transcript, Word
from nemo_lite.salm.word_times import word_times

if TYPE_CHECKING:
    from nemo_lite.salm.tokenizer import PromptIds


class Spelling(Protocol):
    """What the tokens mean: `SalmTokenizer`."""

    def prompt(self, text: str | None = None) -> "PromptIds": ...
    def decode(self, tokens: Sequence[int]) -> str: ...
    def word_spans(self, tokens: Sequence[int]) -> list[tuple[str, int, int]]: ...


def transcript(
    tokenizer: Spelling,
    tokens: Sequence[int],
    probabilities: Sequence[float],
    samples: NDArray[np.float32],
    *,
    first_sample: int,
    sample_rate: int,
) -> Transcript:
    """Text and words of what was written for one piece of audio.

    A word's confidence is its least sure token's probability; its times are estimates, and its
    tokens have the time of its start.

    Args:
        tokenizer: of the tokens.
        tokens: without the one that ended them.
        probabilities: one per token.
        samples: (S,) float32, what the tokens were written for.
        first_sample: where the piece begins in its recording.
        sample_rate: in Hz.
    """
    spans = tokenizer.word_spans(tokens)
    offset = first_sample / sample_rate
    places = word_times([text for text, _, _ in spans], samples, sample_rate)
    words = tuple(
        Word(text, offset + at.start, offset + at.end, min(probabilities[first:end]))
        for (text, first, end), at in zip(spans, places, strict=True)
    )
    token_times = [offset] * len(tokens)
    for word, (_, first, _) in zip(words, spans, strict=True):
        token_times[first:] = [word.start] * (len(tokens) - first)
    return Transcript(
        text=tokenizer.decode(tokens).strip(),
        words=words,
        token_ids=tuple(tokens),
        token_times=tuple(token_times),
        token_confidences=tuple(probabilities),
        estimated_times=True,
    )


def join(parts: Mapping[int, Transcript]) -> Transcript:
    """One transcript of a recording's pieces, given by their first samples."""
    ordered = [parts[start] for start in sorted(parts)]
    if len(ordered) == 1:
        return ordered[0]
    return Transcript(
        text=" ".join(part.text for part in ordered if part.text),
        words=tuple(word for part in ordered for word in part.words),
        token_ids=tuple(token for part in ordered for token in part.token_ids),
        token_times=tuple(time for part in ordered for time in part.token_times),
        token_confidences=tuple(sure for part in ordered for sure in part.token_confidences),
        estimated_times=True,
    )

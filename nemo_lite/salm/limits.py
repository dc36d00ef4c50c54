"""How much a request may write, so that a model that runs away ends, and leaves no trace of it."""

from collections.abc import Sequence

LONGEST_SECONDS = 40
"""The longest recordings in training, says the model card of nvidia/canary-qwen-2.5b."""
POSITIONS = 1_024
"""Prompt, audio and answer together, as in training; the same source."""

_TOKENS_PER_SECOND = 10
"""Fast speech has 5 words a second of one to two tokens; digits are said at 5 a second."""
_TOKENS_AT_LEAST = 24
"""For numbers and addresses, whose written form is long for the short time they take."""

_LONGEST_LOOP = 32
_FEWEST_ROUNDS = 4
_FEWEST_LOOPED = 16


def max_new_tokens(samples: int, sample_rate: int) -> int:
    """More than anybody says in that much audio."""
    return _TOKENS_AT_LEAST + -(-samples * _TOKENS_PER_SECOND // sample_rate)


def without_loop(tokens: Sequence[int]) -> int:
    """How many tokens to keep of an answer that did not end by itself.

    Such an answer mostly ends in a phrase over and over. Where the same up to 32 tokens come at
    least four times in a row at its end, 16 tokens or more, one round is kept. An answer that ended
    by itself must not be passed: people do say "no" ten times.
    """
    for period in range(1, _LONGEST_LOOP + 1):
        start = len(tokens) - period
        while start > 0 and tokens[start - 1] == tokens[start - 1 + period]:
            start -= 1
        looped = len(tokens) - max(start, 0)
        if looped >= max(_FEWEST_ROUNDS * period, _FEWEST_LOOPED):
            return start + period
    return len(tokens)

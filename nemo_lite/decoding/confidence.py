"""How sure the decoder is: NeMo's confidence measures, and from steps to tokens.

Source: arXiv 2212.08703 (entropy-based confidence), NeMo's `ConfidenceMethodConfig`.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["min", "mean", "prod"]


def max_prob(log_probs: Tensor) -> Tensor:
    """(..., V + 1) log-probabilities → (...): the best one, scaled so that an even spread is 0."""
    classes = log_probs.shape[-1]
    return (log_probs.amax(-1).exp() * classes - 1) / (classes - 1)


def max_prob_of_scores(scores: Tensor) -> Tensor:
    """As `max_prob`, of unnormalised scores in any float type; computed and given in float32."""
    return max_prob(torch.log_softmax(scores, -1, dtype=torch.float32))


def tsallis(log_probs: Tensor, *, alpha: float = 0.33) -> Tensor:
    """(..., V + 1) → (...): exponentially normalised Tsallis entropy, NeMo's default measure.

    1 where one symbol has all the probability, 0 where all are equally likely.
    """
    classes = log_probs.shape[-1]
    entropy = (1 - (log_probs * alpha).exp().sum(-1)) / (1 - alpha)
    lowest = math.exp((1 - classes ** (1 - alpha)) / (1 - alpha))
    return (entropy.exp() - lowest) / (1 - lowest)


def per_token(
    steps: Sequence[tuple[int, int]],
    confidences: Sequence[float],
    *,
    blank: int,
    aggregation: Aggregation | None,
) -> list[float]:
    """Confidences of joint evaluations to confidences of tokens.

    Args:
        steps: (frame, label) of every evaluation in order, blanks included.
        confidences: one per step.
        blank: the blank's label.
        aggregation: None: a token has the confidence of its own step (NeMo's `exclude_blank`).
            Otherwise a token's own step and the blanks of the frames up to the next token's are
            combined.
    """
    tokens = [index for index, (_, label) in enumerate(steps) if label != blank]
    if aggregation is None:
        return [confidences[index] for index in tokens]
    combine = {"min": min, "mean": lambda run: sum(run) / len(run), "prod": math.prod}[aggregation]
    shared: list[float] = []
    # Between two tokens there are only blanks, one per frame; that of the token's own frame, which
    # came after it, does not count. One border is too many without a token.
    for index, border in zip(tokens, [*tokens[1:], len(steps)], strict=False):
        later = [at for at in range(index + 1, border) if steps[at][0] > steps[index][0]]
        shared.append(combine([confidences[at] for at in (index, *later)]))
    return shared

"""Where a stream's next token is, given the scores of several frames for one predictor output."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Emission:
    """The first token of each of A streams within W frames.

    Attributes:
        found: (A,) bool, whether there is one.
        offset: (A,) int64, its frame within the W; without one, the first frame not decided.
        token: (A,) int64, without meaning where none was found.
        duration: (A,) int64 frames from the token's frame to the next to look at; 0 without one.
    """

    found: Tensor
    offset: Tensor
    token: Tensor
    duration: Tensor


def first_emission(
    scores: Tensor, inside: Tensor, *, vocabulary_size: int, durations: tuple[int, ...]
) -> Emission:
    """Find each stream's first token.

    Args:
        scores: (A, W, V + 1 + durations) of the joint, from the frame a stream stands at.
        inside: (A, W) bool, False for frames after the stream's last one.
        vocabulary_size: V, also the blank.
        durations: what TDT's duration classes mean in frames; empty for RNN-T.

    Source: arXiv 2304.06795 (TDT).
    """
    labels = scores[..., : vocabulary_size + 1].argmax(-1)
    emits = inside & (labels != vocabulary_size)
    if durations:
        table = _table(durations, scores.device)
        skips = table[scores[..., vocabulary_size + 1 :].argmax(-1)]
        at = _follow(emits, inside, skips, longest=max(*durations, 1))
    else:
        skips = torch.zeros_like(labels)
        at = (inside & ~emits).cumprod(1).sum(1)
    column = at.clamp(max=labels.shape[1] - 1).unsqueeze(1)
    found = emits.gather(1, column).squeeze(1) & (at < labels.shape[1])
    duration = skips.gather(1, column).squeeze(1) * found
    return Emission(found, at, labels.gather(1, column).squeeze(1), duration)


def _follow(emits: Tensor, inside: Tensor, skips: Tensor, *, longest: int) -> Tensor:
    """(A,) where TDT's jumps over blanks lead from frame 0: a token, or a frame not decided.

    A blank's duration is at least 1. A jump may lead up to `longest` - 1 frames beyond the W.
    """
    width = emits.shape[1]
    here = torch.arange(width + longest, device=emits.device)
    leads = here.expand(len(emits), -1).clone()
    leads[:, :width] += skips.clamp(min=1) * (inside & ~emits)
    # Squaring the jump: after n rounds it stands for 2^n of them, and W - 1 is the most there are.
    for _ in range(width.bit_length()):
        leads = leads.gather(1, leads)
    return leads[:, 0]


@cache
def _table(durations: tuple[int, ...], device: torch.device) -> Tensor:
    # Kept, since a copy from the host cannot be part of a CUDA graph.
    return torch.tensor(durations, device=device)

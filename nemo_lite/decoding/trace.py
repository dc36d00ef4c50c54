"""Every step of a greedy decoding of one recording, one joint evaluation at a time.

Slow and plain: for confidences per frame, for scores, and as what `rnnt.py` is tested against.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_lite.decoding.joint import Joint
from nemo_lite.decoding.predictor import Predictor


@dataclass(frozen=True, slots=True)
class Trace:
    """What happened at each of N joint evaluations.

    Attributes:
        steps: (frame, label) in order, blanks included.
        log_probs: (N, V + 1) float32 over symbols; TDT's durations are left out.
        blank: the blank's label.
    """

    steps: tuple[tuple[int, int], ...]
    log_probs: Tensor
    blank: int

    @property
    def tokens(self) -> list[int]:
        """The labels that are not blank."""
        return [label for _, label in self.steps if label != self.blank]

    @property
    def token_frames(self) -> list[int]:
        """The frame of each token."""
        return [frame for frame, label in self.steps if label != self.blank]

    @property
    def score(self) -> float:
        """The sum of the tokens' log-probabilities; blanks do not count."""
        labels = torch.tensor([label for _, label in self.steps], dtype=torch.int64)
        best = self.log_probs.cpu().gather(1, labels[:, None]).squeeze(1)
        return float(best[labels != self.blank].sum())

    def by_frame(self, values: Tensor, *, frames: int) -> list[list[float]]:
        """Group (N,) values, one per step, by the frame they belong to."""
        grouped: list[list[float]] = [[] for _ in range(frames)]
        for (frame, _), value in zip(self.steps, values.tolist(), strict=True):
            grouped[frame].append(value)
        return grouped


def trace(predictor: Predictor, joint: Joint, encoded: Tensor, *, max_symbols: int = 10) -> Trace:
    """Decode (T, D) frames of one recording and keep every step."""
    blank, durations = joint.config.vocabulary_size, joint.config.durations
    hidden, cell = predictor.start()
    steps: list[tuple[int, int]] = []
    log_probs: list[Tensor] = []
    frame = symbols = 0
    while frame < len(encoded):
        scores = joint(joint.enc(encoded[frame]) + joint.pred(hidden[0, -1]))
        log_probs.append(torch.log_softmax(scores[: blank + 1], -1, dtype=torch.float32))
        label = int(scores[: blank + 1].argmax())
        steps.append((frame, label))
        duration = durations[int(scores[blank + 1 :].argmax())] if durations else 0
        if label == blank:
            duration = max(duration, 1)
        else:
            hidden, cell = predictor.step(torch.tensor([label], device=cell.device), hidden, cell)
            symbols += 1
            if duration == 0 and symbols >= max_symbols:
                duration = 1
        if duration:
            frame, symbols = frame + duration, 0
    empty = torch.zeros(0, blank + 1, device=encoded.device)
    return Trace(tuple(steps), torch.stack(log_probs) if log_probs else empty, blank)

"""What a `GenerationBatch` knows of a request, and what it gives back."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nemo_lite.salm.passes import Token

if TYPE_CHECKING:
    from nemo_lite.salm.tokenizer import PromptIds


@dataclass(frozen=True, slots=True)
class Generated:
    """What the model wrote for one request."""

    tokens: tuple[int, ...]
    """Without the token that ended it."""
    probabilities: tuple[float, ...]
    """Of each token: its share in the softmax of all."""
    failed: bool = False
    """It ended because the network gave what is no number; the tokens are those before."""


@dataclass(eq=False, slots=True)
class Request:
    """Waits, then holds a slot and encodes, reads its prompt and writes."""

    number: int
    samples: NDArray[np.float32]
    prompt: "PromptIds"
    max_new_tokens: int
    slot: int = -1
    promised: bool = False
    """Nobody wrote when it came: others may delay it by little."""
    rows: Tensor | None = None
    """(N, width), the embedded prompt, once its audio is encoded and until it is read."""
    read: int = 0
    written: list[Token] = field(default_factory=list[Token])

    @property
    def writes(self) -> bool:
        """Its prompt is read."""
        return bool(self.written)

    @property
    def unread(self) -> int:
        """Rows of the prompt that are to be read and could be."""
        return 0 if self.rows is None else len(self.rows) - self.read

    @property
    def encoded(self) -> bool:
        """Its prompt could be read, if it has not been."""
        return self.rows is not None or self.read > 0

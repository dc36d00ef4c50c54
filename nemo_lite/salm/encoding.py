"""The encoder's work for a few requests, in pieces, so that those that write need not wait."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nemo_lite.salm.network import Perception

_FRAMES_STEP = 128
"""Projected distances are kept for multiples of this many frames."""


class Encoder:
    """Makes `Encoding`s; keeps what depends on the weights alone."""

    def __init__(self, perception: Perception) -> None:
        self._perception = perception
        self._positions: list[Tensor] = []
        self._frames = 0

    def start(self, recordings: Sequence[NDArray[np.float32]]) -> "Encoding":
        """Begin to encode recordings, each (S,) at the model's rate, in one batch.

        All must be long enough for a frame.
        """
        perception = self._perception
        frames = max(perception.output_frames(len(samples)) for samples in recordings)
        if frames > self._frames:
            self._frames = -(-frames // _FRAMES_STEP) * _FRAMES_STEP
            self._positions = perception.encoder.offline_positions(self._frames)
        return Encoding(perception, recordings, self._positions)


class Encoding:
    """Recordings on their way through the encoder."""

    def __init__(
        self,
        perception: Perception,
        recordings: Sequence[NDArray[np.float32]],
        positions: Sequence[Tensor],
    ) -> None:
        """Use `Encoder.start`."""
        device = perception.preprocessor.featurizer.window.device
        sizes = [len(samples) for samples in recordings]
        padded = np.zeros((len(sizes), max(sizes)), np.float32)
        for row, samples in zip(padded, recordings, strict=True):
            row[: len(samples)] = samples
        self._counts = [perception.output_frames(size) for size in sizes]
        self._pieces = perception.piece_by_piece(
            torch.from_numpy(padded).to(device), torch.tensor(sizes, device=device), positions
        )
        self._left = perception.encoder.config.layers + 2

    def advance(self) -> list[Tensor] | None:
        """Compute the next piece; after the last, the frames (T, width) of each recording."""
        frames, _ = next(self._pieces)
        self._left -= 1
        if self._left:
            return None
        return [row[:count] for row, count in zip(frames, self._counts, strict=True)]

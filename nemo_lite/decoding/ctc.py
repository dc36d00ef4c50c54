"""CTC: the head, and greedy decoding that carries on across pieces."""

from typing import cast

import torch
from torch import Tensor, nn

from nemo_lite.decoding.base import Decoded, DecoderState, check_shapes
from nemo_lite.decoding.confidence import max_prob_of_scores


class CtcHead(nn.Module):
    """NeMo's `ConvASRDecoder`; parameter names are NeMo's."""

    def __init__(self, d_model: int, vocabulary_size: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        # NeMo writes the linear layer as a convolution of one frame, hence the weight's shape.
        layer = nn.Conv1d(d_model, vocabulary_size + 1, kernel_size=1)
        self.decoder_layers = nn.Sequential(layer)

    def forward(self, encoded: Tensor) -> Tensor:
        """(B, T, D) → (B, T, V + 1) unnormalised scores; the blank is class V."""
        layer = cast(nn.Conv1d, self.decoder_layers[0])
        return nn.functional.linear(encoded, layer.weight.squeeze(2), layer.bias)


class CtcDecoder:
    """Greedy decoder of CTC models: repeats collapse, then blanks go.

    A token stands at the first frame of its run and has that frame's confidence, so that both are
    known at once and do not depend on how the stream is cut.
    """

    def __init__(self, head: CtcHead) -> None:
        self._head = head

    def new_state(self, slots: int) -> DecoderState:
        """State for `slots` streams: the `last` label and the `frames` decoded so far."""
        device = next(self._head.parameters()).device
        fresh = {
            "last": torch.full((), self._head.vocabulary_size, device=device),
            "frames": torch.zeros((), dtype=torch.int64, device=device),
        }
        return DecoderState(fresh, slots, memory=("last",))

    def decode(
        self, encoded: Tensor, lengths: Tensor, state: DecoderState, slots: Tensor
    ) -> Decoded:
        """Decode the next frames of B streams; see `GreedyDecoder`. (B, T) tokens at most."""
        check_shapes(encoded, lengths, slots)
        scores = self._head(encoded)
        rows = state.rows(slots)
        times = torch.arange(encoded.shape[1], device=encoded.device)
        labels = torch.cat([rows["last"][:, None], scores.argmax(-1)], 1)  # (B, 1 + T)
        current, before = labels[:, 1:], labels[:, :-1]
        starts = (current != before) & (current != self._head.vocabulary_size)
        starts &= times < lengths[:, None]
        # The tokens first, each part in its order.
        order = (~starts).to(torch.int8).argsort(dim=1, stable=True)
        decoded = Decoded(
            tokens=current.gather(1, order),
            frames=rows["frames"][:, None] + order,
            confidences=max_prob_of_scores(scores).gather(1, order),
            counts=starts.sum(1),
        )
        last = labels.gather(1, lengths[:, None]).squeeze(1)
        state.store(slots, {"last": last, "frames": rows["frames"] + lengths})
        return decoded

    def decode_fixed(
        self,
        encoded: Tensor,
        lengths: Tensor,
        state: DecoderState,
        slots: Tensor,
        iterations: int,
    ) -> tuple[Decoded, Tensor]:
        """As `decode`, which has static shapes already; always done, whatever `iterations`."""
        decoded = self.decode(encoded, lengths, state, slots)
        return decoded, torch.ones_like(lengths, dtype=torch.bool)

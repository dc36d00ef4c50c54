"""The prediction network: an embedding and a stack of LSTM layers, one token at a time."""

import torch
from torch import Tensor, nn

from nemo_lite.config import PredictorConfig


class LstmStack(nn.LSTM):
    """`nn.LSTM`'s parameters with a cheaper single step.

    `nn.LSTM.forward` prepares its weights anew in every call, which for one step on a CPU costs
    several times the step itself.
    """

    def step(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by one input.

        Args:
            x: (B, H).
            hidden: (B, L, H), not changed.
            cell: (B, L, H), not changed.

        Returns:
            The new `hidden`, whose last layer is the output, and the new `cell`.
        """
        hiddens: list[Tensor] = []
        cells: list[Tensor] = []
        for layer, weights in enumerate(self.all_weights):
            x, memory = torch.lstm_cell(x, (hidden[:, layer], cell[:, layer]), *weights)
            hiddens.append(x)
            cells.append(memory)
        return torch.stack(hiddens, 1), torch.stack(cells, 1)


class _Recurrent(nn.Module):
    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.lstm = LstmStack(config.hidden, config.hidden, config.layers)


class _Prediction(nn.Module):
    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        blank = config.vocabulary_size
        weight = torch.empty(blank + 1, config.hidden)
        if (
            not weight.is_meta
        ):  # where `normal_` would import torch's compiler: seconds, for nothing
            nn.init.normal_(weight)
            weight[blank] = 0.0
        self.embed = nn.Embedding(blank + 1, config.hidden, padding_idx=blank, _weight=weight)
        self.dec_rnn = _Recurrent(config)


class Predictor(nn.Module):
    """NeMo's `RNNTDecoder`; parameter names are NeMo's.

    The start symbol is the blank, whose embedding a NeMo checkpoint keeps at zero.
    """

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        self.prediction = _Prediction(config)

    def start(self) -> tuple[Tensor, Tensor]:
        """`hidden` and `cell`, (1, L, H) each, after the start symbol."""
        weight = self.prediction.embed.weight
        blank = torch.full((1,), self.config.vocabulary_size, device=weight.device)
        zeros = weight.new_zeros(1, self.config.layers, self.config.hidden)
        return self.step(blank, zeros, zeros)

    def step(self, tokens: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by one token.

        Args:
            tokens: (B,) int64.
            hidden: (B, L, H).
            cell: (B, L, H).

        Returns:
            The new `hidden`, whose last layer is the network's output, and the new `cell`.
        """
        return self.prediction.dec_rnn.lstm.step(self.prediction.embed(tokens), hidden, cell)

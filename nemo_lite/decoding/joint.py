"""The joint network: an encoder frame and a predictor output to scores of the next symbol."""

from torch import Tensor, nn

from nemo_lite.config import JointConfig

_ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


class Joint(nn.Module):
    """NeMo's `RNNTJoint`; parameter names are NeMo's.

    Usage: project the encoder frames and the predictor output once with `enc` and `pred`, add
    them for each pair that is wanted, and give the sum to the module.
    """

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.config = config
        self.enc = nn.Linear(config.encoder_size, config.hidden)
        self.pred = nn.Linear(config.predictor_size, config.hidden)
        classes = config.vocabulary_size + 1 + len(config.durations)
        # The second place is NeMo's dropout.
        self.joint_net = nn.Sequential(
            _ACTIVATIONS[config.activation](), nn.Identity(), nn.Linear(config.hidden, classes)
        )

    def forward(self, projected: Tensor) -> Tensor:
        """(..., J) sums of projections → (..., V + 1 + durations) unnormalised scores.

        The blank is class V; the scores of TDT's durations follow it.
        """
        return self.joint_net(projected)

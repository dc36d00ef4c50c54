"""Tiny models with random or scripted weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nemo_lite.config import JointConfig, PredictorConfig
from nemo_lite.decoding import Decoded, Joint, Predictor

VOCABULARY = 6
WIDTH = 10
DURATIONS = (0, 1, 2, 3, 4)

Tokens = list[tuple[int, int]]


def random_transducer(
    *, durations: tuple[int, ...] = (), layers: int = 2, seed: int = 0
) -> tuple[Predictor, Joint]:
    """float64, so that rounding decides nothing; about half of the frames have tokens."""
    torch.manual_seed(seed)
    predictor = Predictor(PredictorConfig(VOCABULARY, 8, layers)).double().eval()
    joint = Joint(JointConfig(WIDTH, 8, 12, VOCABULARY, durations=durations)).double().eval()
    with torch.no_grad():
        for name, parameter in [*predictor.named_parameters(), *joint.named_parameters()]:
            if "bias" not in name:
                parameter.mul_(4)
        head = joint.joint_net[2]
        assert isinstance(head, nn.Linear)
        head.bias[VOCABULARY] += 3
    return predictor, joint


def scripted_transducer(*, durations: tuple[int, ...] = ()) -> tuple[Predictor, Joint]:
    """The scores are what the encoder frames say, whatever was emitted before."""
    classes = VOCABULARY + 1 + len(durations)
    predictor = Predictor(PredictorConfig(VOCABULARY, 8, 1)).eval()
    joint = Joint(JointConfig(classes, 8, classes, VOCABULARY, durations=durations)).eval()
    head = joint.joint_net[2]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        for linear in (joint.enc, joint.pred, head):
            linear.weight.zero_()
            linear.bias.zero_()
        joint.enc.weight += torch.eye(classes)
        head.weight += torch.eye(classes)
    return predictor, joint


def script(labels: list[int], durations: list[int] | None = None) -> Tensor:
    """(1, T, classes) frames for `scripted_transducer`: the label, and a duration's index."""
    classes = VOCABULARY + 1 + (len(DURATIONS) if durations else 0)
    frames = torch.zeros(1, len(labels), classes)
    for index, label in enumerate(labels):
        frames[0, index, label] = 10
        if durations:
            frames[0, index, VOCABULARY + 1 + DURATIONS.index(durations[index])] = 10
    return frames


def tokens_of(decoded: Decoded) -> list[Tokens]:
    """(token, frame) of each stream."""
    return [
        list(zip(tokens[:count], frames[:count], strict=True))
        for tokens, frames, count in zip(
            decoded.tokens.tolist(), decoded.frames.tolist(), decoded.counts.tolist(), strict=True
        )
    ]


def pad(pieces: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(T, D) each → (B, T, D), with something outrageous as padding, and lengths (B,)."""
    lengths = torch.tensor([len(piece) for piece in pieces])
    padded = pieces[0].new_full((len(pieces), max(1, int(lengths.max())), pieces[0].shape[1]), 1e3)
    for row, piece in zip(padded, pieces, strict=True):
        row[: len(piece)] = piece
    return padded, lengths


def in_pieces(
    streams: list[Tensor],
    sizes: Callable[[], list[int]],
    decode: Callable[[Tensor, Tensor], Decoded],
) -> list[Tokens]:
    """Feed streams (T, D) piece by piece until all have run out."""
    found: list[Tokens] = [[] for _ in streams]
    while any(len(stream) for stream in streams):
        cuts = sizes()
        heads = [stream[:cut] for stream, cut in zip(streams, cuts, strict=True)]
        streams = [stream[cut:] for stream, cut in zip(streams, cuts, strict=True)]
        for row, new in zip(found, tokens_of(decode(*pad(heads))), strict=True):
            row += new
    return found

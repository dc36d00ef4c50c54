"""Against the `generate` of transformers' own classes, on random tiny models."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from nemo_lite.config import JointConfig, PredictorConfig
from nemo_lite.decoding import Joint, Predictor, RnntDecoder
from nemo_lite.decoding.tests.tiny import tokens_of

transformers = pytest.importorskip("transformers")

_NAMES = {
    "decoder.embedding.": "prediction.embed.",
    "decoder.lstm.": "prediction.dec_rnn.lstm.",
    "decoder.decoder_projector.": "pred.",
    "encoder_projector.": "enc.",
    "joint.head.": "joint_net.2.",
}


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def theirs(kind: str, *, seed: int) -> Any:
    """A model that emits something: random weights, large enough to make frames differ."""
    torch.manual_seed(seed)
    encoder = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "num_mel_bins": 16,
        "subsampling_conv_channels": 8,
    }
    config = getattr(transformers, f"Parakeet{kind}Config")(
        vocab_size=12,
        blank_token_id=11,
        pad_token_id=11,
        decoder_hidden_size=16,
        num_decoder_layers=2,
        max_symbols_per_step=3,
        encoder_config=encoder,
    )
    model = getattr(transformers, f"ParakeetFor{kind}")(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.5)
    model.joint.head.bias[11] += 4
    if kind == "TDT":
        # transformers knows no bound on the symbols per frame for TDT.
        model.joint.head.bias[12] -= 1e3
    return model


def ours(model: Any) -> RnntDecoder:
    config = model.config
    size = config.vocab_size - 1
    durations = tuple(getattr(config, "durations", ()))
    hidden = config.decoder_hidden_size
    predictor = Predictor(PredictorConfig(size, hidden, config.num_decoder_layers))
    joint = Joint(
        JointConfig(config.encoder_config.hidden_size, hidden, hidden, size, durations=durations)
    )
    merged = nn.ModuleList([predictor, joint])
    known = {name: None for name, _ in merged.named_parameters()}
    state = {}
    for name, value in model.state_dict().items():
        for old, new in _NAMES.items():
            if name.startswith(old):
                part = "0." if new.startswith("prediction") else "1."
                state[part + new + name.removeprefix(old)] = value
    assert state.keys() == known.keys()
    merged.load_state_dict(state)
    return RnntDecoder(predictor.eval(), joint.eval(), max_symbols=config.max_symbols_per_step)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["RNNT", "TDT"])
def test_tokens_and_frames_are_those_of_generate(kind: str, seed: int) -> None:
    model = theirs(kind, seed=seed)
    features = torch.randn(3, 480, 16)
    mask = torch.arange(480) < torch.tensor([480, 200, 33])[:, None]
    output = model.generate(
        features,
        attention_mask=mask,
        decoder_start_token_id=11,
        max_new_tokens=60 * 4,
        # Without this, a duration's class may win over all tokens.
        suppress_tokens=[12, 13, 14, 15, 16] if kind == "TDT" else None,
    )
    encoded = model.get_audio_features(
        input_features=features, attention_mask=mask, output_attention_mask=True
    )
    lengths = encoded.attention_mask.sum(-1)
    # A frame before each step, as `generate` prepends the start symbol with a duration of 0.
    frames = output.durations.cumsum(1)[:, :-1]
    labels = output.sequences[:, 1:]
    expected = [
        [
            (token, frame)
            for token, frame in zip(row, at, strict=True)
            if token != 11 and frame < length
        ]
        for row, at, length in zip(labels.tolist(), frames.tolist(), lengths.tolist(), strict=True)
    ]
    decoder = ours(model)
    arguments = (encoded.last_hidden_state, lengths, decoder.new_state(3), torch.arange(3))
    assert tokens_of(decoder.decode(*arguments)) == expected
    assert 0 < len(expected[0]) < 180

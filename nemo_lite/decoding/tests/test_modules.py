import torch

from nemo_lite.config import JointConfig, PredictorConfig, PromptConfig
from nemo_lite.decoding import CtcHead, Joint, LanguagePrompt, Predictor
from nemo_lite.decoding.tests.tiny import random_transducer


def test_weights_can_be_assigned_to_modules_without_memory() -> None:
    sources = [
        *random_transducer(durations=(0, 1)),
        CtcHead(10, 6),
        LanguagePrompt(PromptConfig(5, 20), 10),
    ]
    with torch.device("meta"):
        targets = [
            Predictor(PredictorConfig(6, 8, 2)),
            Joint(JointConfig(10, 8, 12, 6, durations=(0, 1))),
            CtcHead(10, 6),
            LanguagePrompt(PromptConfig(5, 20), 10),
        ]
    for source, target in zip(sources, targets, strict=True):
        target.load_state_dict(source.state_dict(), strict=True, assign=True)
        assert not any(value.is_meta for value in [*target.parameters(), *target.buffers()])


def test_one_step_is_that_of_torchs_lstm() -> None:
    predictor, _ = random_transducer()
    lstm = predictor.prediction.dec_rnn.lstm
    inputs, hidden, cell = torch.randn(5, 8), torch.randn(5, 2, 8), torch.randn(5, 2, 8)
    inputs, hidden, cell = inputs.double(), hidden.double(), cell.double()
    with torch.inference_mode():
        found = lstm.step(inputs, hidden, cell)
        state = (hidden.transpose(0, 1).contiguous(), cell.transpose(0, 1).contiguous())
        _, expected = lstm(inputs[None], state)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.transpose(0, 1), theirs)


def test_a_predictor_starts_with_the_blanks_embedding() -> None:
    predictor, _ = random_transducer()
    embedding = predictor.prediction.embed.weight
    zeros = embedding.new_zeros(1, 2, 8)
    with torch.inference_mode():
        expected = predictor.prediction.dec_rnn.lstm.step(embedding[6:7], zeros, zeros)
        assert torch.equal(predictor.start()[0], expected[0])

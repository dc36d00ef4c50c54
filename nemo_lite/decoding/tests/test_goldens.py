"""Against NeMo's own numbers; tolerances are those of the goldens' README."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from nemo_lite.config import JointConfig, PredictorConfig, PromptConfig
from nemo_lite.decoding import CtcDecoder, CtcHead, Joint, LanguagePrompt, Predictor, RnntDecoder
from nemo_lite.decoding.base import Decoded
from nemo_lite.decoding.confidence import max_prob, per_token, tsallis
from nemo_lite.decoding.trace import Trace, trace
from nemo_lite.tests.goldens import Case, case_names, load_case, needs_goldens

pytestmark = needs_goldens


class Model:
    """The decoding half of a golden case."""

    def __init__(self, case: Case) -> None:
        section, size = case.config, case.config["vocab_size"]
        self.predictor = Predictor(
            PredictorConfig.from_nemo({"vocab_size": size, **section["decoder"]})
        )
        self.joint = Joint(JointConfig.from_nemo({"num_classes": size, **section["joint"]}))
        self.head = CtcHead(section["enc_hidden"], size)
        for prefix, module in (
            ("decoder.", self.predictor),
            ("joint.", self.joint),
            ("ctc_decoder.", self.head),
        ):
            weights = {
                name.removeprefix(prefix): value
                for name, value in case.weights.items()
                if name.startswith(prefix)
            }
            module.load_state_dict(weights, strict=True)
        self.max_symbols: int = section["decoding"]["greedy"]["max_symbols"]
        self.rnnt = RnntDecoder(self.predictor, self.joint, max_symbols=self.max_symbols)
        self.ctc = CtcDecoder(self.head)
        self.encoded = case.tensors["in.encoded"].transpose(1, 2)
        self.lengths = case.tensors["in.length"]


@pytest.fixture(params=case_names("rnnt"))
def case(request: pytest.FixtureRequest) -> Case:
    return load_case("rnnt", request.param)


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.inference_mode():
        yield


def rows(decoded: Decoded, row: int) -> tuple[list[int], list[int], list[float]]:
    count = int(decoded.counts[row])
    return (
        decoded.tokens[row, :count].tolist(),
        decoded.frames[row, :count].tolist(),
        decoded.confidences[row, :count].tolist(),
    )


def close(values: Any, expected: Any, tolerance: float) -> None:
    assert_close(torch.as_tensor(values), torch.as_tensor(expected), atol=tolerance, rtol=0)


def test_predictor_output_is_nemos(case: Case) -> None:
    model = Model(case)
    targets = case.tensors["in.targets"]
    hidden, cell = (value.expand(len(targets), -1, -1) for value in model.predictor.start())
    outputs = [hidden[:, -1]]
    for tokens in targets.unbind(1):
        hidden, cell = model.predictor.step(tokens, hidden, cell)
        outputs.append(hidden[:, -1])
    close(torch.stack(outputs, 2), case.tensors["out.prediction_network"], 1e-5)


def test_joint_log_probs_are_nemos(case: Case) -> None:
    model = Model(case)
    expected = case.tensors["out.joint_log_probs"]
    predicted = model.joint.pred(case.tensors["out.prediction_network"].transpose(1, 2))
    projected = model.joint.enc(model.encoded[:, : expected.shape[1]])
    scores = model.joint(projected[:, :, None] + predicted[:, None])
    close(scores.log_softmax(-1), expected, 5e-4)


def check_state(model: Model, state: Any, slot: int, case: Case, prefix: str) -> None:
    close(state["hidden"][slot], case.tensors[f"{prefix}.h"], 2e-4)
    close(state["cell"][slot], case.tensors[f"{prefix}.c"], 2e-4)
    close(
        state["predicted"][slot][None], case.tensors[f"{prefix}.predictor_output_projected"], 2e-4
    )


@pytest.mark.parametrize("blocks", [None, 7])
def test_whole_recordings_are_nemos(case: Case, blocks: int | None) -> None:
    model = Model(case)
    state = model.rnnt.new_state(4)
    slots = torch.tensor([2, 0, 3])
    arguments = (model.encoded, model.lengths, state, slots)
    if blocks:
        decoded = model.rnnt.decode_blocks(*arguments, block_frames=blocks)
    else:
        decoded = model.rnnt.decode(*arguments)
    for row, expected in enumerate(case.expected["offline"]):
        tokens, frames, confidences = rows(decoded, row)
        assert tokens == expected["tokens"]
        assert frames == expected["frames"]
        assert int(state["frames"][slots[row]]) == expected["state"]["decoded_length"]
        check_state(model, state, int(slots[row]), case, f"out.offline.state{row}")
        method = case.config["decoding"]["confidence_cfg"]
        if method["exclude_blank"] and method["method_cfg"]["name"] == "max_prob":
            close(confidences, expected["token_confidence"], 1e-3)


def trace_row(model: Model, row: int) -> Trace:
    encoded = model.encoded[row, : int(model.lengths[row])]
    return trace(model.predictor, model.joint, encoded, max_symbols=model.max_symbols)


def measure(case: Case, log_probs: Tensor) -> Tensor:
    method = case.config["decoding"]["confidence_cfg"]["method_cfg"]
    if method["name"] == "max_prob":
        return max_prob(log_probs)
    return tsallis(log_probs, alpha=method["alpha"])


def test_every_step_is_nemos(case: Case) -> None:
    model = Model(case)
    for row, expected in enumerate(case.expected["offline"]):
        traced = trace_row(model, row)
        assert [list(step) for step in traced.steps] == expected["steps"]
        assert traced.tokens == expected["tokens"]
        assert traced.token_frames == expected["frames"]
        assert traced.score == pytest.approx(expected["score"], abs=5e-4)
        top = traced.log_probs.topk(2, -1).values
        assert float((top[:, 0] - top[:, 1]).min()) == pytest.approx(
            expected["min_margin"], abs=1e-3
        )


def test_confidences_are_nemos(case: Case) -> None:
    model = Model(case)
    config = case.config["decoding"]["confidence_cfg"]
    for row, expected in enumerate(case.expected["offline"]):
        traced = trace_row(model, row)
        values = measure(case, traced.log_probs)
        frames = traced.by_frame(values, frames=int(model.lengths[row]))
        assert [len(frame) for frame in frames] == [len(f) for f in expected["frame_confidence"]]
        for ours, theirs in zip(frames, expected["frame_confidence"], strict=True):
            close(ours, theirs, 1e-3)
        aggregation = None if config["exclude_blank"] else config["aggregation"]
        tokens = per_token(
            traced.steps, values.tolist(), blank=traced.blank, aggregation=aggregation
        )
        close(tokens, expected["token_confidence"], 1e-3)


def test_pieces_carry_nemos_state(case: Case) -> None:
    model = Model(case)
    state = model.rnnt.new_state(3)
    slots = torch.arange(3)
    position = torch.zeros(3, dtype=torch.int64)
    tokens: list[list[int]] = [[], [], []]
    frames: list[list[int]] = [[], [], []]
    for index, (sizes, piece) in enumerate(
        zip(case.inputs["pieces"], case.expected["pieces"], strict=True)
    ):
        # NeMo's own lengths: a stream may run out.
        lengths = torch.minimum(torch.tensor(sizes), model.lengths - position)
        window = torch.zeros(3, int(lengths.max()), model.encoded.shape[2])
        for row in range(3):
            part = model.encoded[row, position[row] : position[row] + lengths[row]]
            window[row, : len(part)] = part
        assert lengths.tolist() == piece["sizes"]
        decoded = model.rnnt.decode(window, lengths, state, slots)
        position += lengths
        for row, expected in enumerate(piece["streams"]):
            new_tokens, new_frames, _ = rows(decoded, row)
            tokens[row] += new_tokens
            frames[row] += new_frames
            assert tokens[row] == expected["tokens"]
            assert frames[row] == expected["frames"]
            assert int(state["frames"][row]) == expected["decoded_length"]
            if f"out.piece{index}.state{row}.h" in case.tensors:
                check_state(model, state, row, case, f"out.piece{index}.state{row}")
    for row, expected in enumerate(case.expected["pieces_final"]):
        assert tokens[row] == expected["tokens"]
        assert frames[row] == expected["frames"]


def test_ctc_is_nemos(case: Case) -> None:
    model = Model(case)
    log_probs = model.head(model.encoded).log_softmax(-1)
    close(log_probs, case.tensors["out.ctc_log_probs"], 5e-4)
    decoded = model.ctc.decode(
        model.encoded, model.lengths, model.ctc.new_state(3), torch.arange(3)
    )
    for row, expected in enumerate(case.expected["ctc"]):
        tokens, frames, confidences = rows(decoded, row)
        assert tokens == expected["tokens"]
        assert frames == expected["frames"]
        close(confidences, max_prob(log_probs[row, frames]), 1e-5)


def test_language_prompt_is_nemos() -> None:
    case = load_case("prompt", "language_prompt")
    encoded = case.tensors["in.encoded"].transpose(1, 2)
    config = PromptConfig.from_nemo(case.config, d_model=encoded.shape[2])
    assert config is not None
    model = torch.nn.Module()
    model.prompt_kernel = kernel = LanguagePrompt(config, encoded.shape[2])
    model.load_state_dict(case.weights, strict=True)
    for language in case.inputs["languages"]:
        index = torch.full((len(encoded),), config.index(language))
        expected = case.tensors[f"out.{language}.encoded"].transpose(1, 2)
        close(kernel(encoded, index), expected, 2e-5)
    # Each stream of a batch has its own language.
    mixed = kernel(encoded, torch.tensor([config.index("en-US"), config.index("auto")]))
    close(mixed[0], case.tensors["out.en-US.encoded"][0].t(), 2e-5)
    close(mixed[1], case.tensors["out.auto.encoded"][1].t(), 2e-5)

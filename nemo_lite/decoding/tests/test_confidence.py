import pytest
import torch
from torch.testing import assert_close

from nemo_lite.decoding.confidence import max_prob, max_prob_of_scores, per_token, tsallis

BLANK = 9
STEPS = [(0, BLANK), (1, 4), (1, 5), (1, BLANK), (2, BLANK), (3, 6), (4, BLANK)]
VALUES = [0.1, 0.9, 0.8, 0.2, 0.5, 0.7, 0.6]


@pytest.mark.parametrize("measure", [max_prob, tsallis])
def test_measures_span_0_to_1(measure) -> None:
    even = torch.zeros(1, 50).log_softmax(-1)
    assert_close(measure(even), torch.zeros(1), atol=1e-6, rtol=0)
    sure = torch.full((1, 50), -200.0)
    sure[0, 3] = 0
    assert_close(measure(sure), torch.ones(1), atol=1e-6, rtol=0)


def test_max_prob_is_scaled_to_the_number_of_classes() -> None:
    log_probs = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    assert float(max_prob(log_probs)) == pytest.approx((0.5 * 4 - 1) / 3)


def test_half_precision_scores_are_measured_in_float32() -> None:
    scores = torch.tensor([[8.0, 0.0, 1.0]], dtype=torch.bfloat16)
    found = max_prob_of_scores(scores)
    assert found.dtype == torch.float32
    assert_close(found, max_prob(scores.float().log_softmax(-1)))


def test_a_token_alone_has_its_own_steps_confidence() -> None:
    assert per_token(STEPS, VALUES, blank=BLANK, aggregation=None) == [0.9, 0.8, 0.7]


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        # 4 is followed at once by 5; 5 shares in frame 2; 6 in frame 4, the last.
        ("min", [0.9, 0.5, 0.6]),
        ("mean", [0.9, 0.65, 0.65]),
        ("prod", [0.9, 0.4, 0.42]),
    ],
)
def test_a_token_shares_in_the_frames_up_to_the_next(aggregation, expected) -> None:
    found = per_token(STEPS, VALUES, blank=BLANK, aggregation=aggregation)
    assert found == pytest.approx(expected)


def test_the_blank_after_a_token_at_its_own_frame_does_not_count() -> None:
    steps, values = [(0, 1), (0, BLANK), (1, BLANK), (2, 3), (2, BLANK)], [1.0, 0.1, 0.6, 0.9, 0.2]
    assert per_token(steps, values, blank=BLANK, aggregation="min") == [0.6, 0.9]


def test_frames_that_a_duration_skips_do_not_count() -> None:
    steps, values = [(0, 1), (3, BLANK), (7, 2)], [1.0, 0.6, 0.9]
    assert per_token(steps, values, blank=BLANK, aggregation="min") == [0.6, 0.9]


@pytest.mark.parametrize("aggregation", [None, "mean"])
def test_no_token_no_confidence(aggregation) -> None:
    assert per_token([], [], blank=BLANK, aggregation=aggregation) == []
    assert per_token([(0, BLANK)], [0.5], blank=BLANK, aggregation=aggregation) == []

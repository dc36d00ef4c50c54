"""How much may be written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_lite.salm.limits import LONGEST_SECONDS, POSITIONS, max_new_tokens, without_loop


def test_the_longest_audio_its_answer_and_a_prompt_fit_into_the_positions() -> None:
    frames = LONGEST_SECONDS * 1_000 // 80
    assert frames + max_new_tokens(LONGEST_SECONDS * 16_000, 16_000) <= POSITIONS - 64


def test_more_audio_may_have_more_tokens() -> None:
    limits = [max_new_tokens(samples, 16_000) for samples in (0, 1, 16_000, 32_000)]
    assert limits == [24, 25, 34, 44]


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        ([], 0),
        ([1, 2, 3], 3),
        ([5] * 15, 15),
        ([5] * 16, 1),
        ([9, 8, *[5] * 20], 3),
        ([9, *[1, 2, 3, 4] * 3], 13),
        ([9, *[1, 2, 3, 4] * 4], 5),
        ([9, *[1, 2, 3, 4] * 4, 1, 2], 5),
        ([*[1, 2, 3, 4] * 9, 7], 37),
        (list(range(32)) * 4, 32),
        (list(range(33)) * 4, 132),
    ],
)
def test_only_a_loop_at_the_end_is_cut_to_one_round(tokens: list[int], kept: int) -> None:
    assert without_loop(tokens) == kept


@given(st.lists(st.integers(0, 3), max_size=60))
def test_what_is_cut_says_nothing_new(tokens: list[int]) -> None:
    kept = without_loop(tokens)
    assert kept == len(tokens) or len(tokens) - kept >= 12
    assert without_loop(tokens[:kept]) <= kept
    for at in range(kept, len(tokens)):
        assert tokens[at] in tokens[max(0, kept - 32) : kept]

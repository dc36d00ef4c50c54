"""Cutting long recordings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nemo_lite.salm.long_audio import pieces

RATE = 16_000


def noise(samples: int, *, seed: int = 0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    return random.standard_normal(samples).astype(np.float32) * np.float32(0.1)


@given(
    samples=st.integers(0, 6 * RATE),
    longest=st.integers(RATE, 3 * RATE),
    seed=st.integers(0, 9),
    quiet=st.floats(0, 1),
)
@settings(max_examples=40, deadline=None)
def test_every_sample_is_in_exactly_one_piece_and_no_piece_is_too_long(
    samples: int, longest: int, seed: int, quiet: float
) -> None:
    audio = noise(samples, seed=seed)
    audio[int(quiet * samples) :][:RATE] = 0
    found = list(pieces(audio, RATE, longest=longest))
    assert np.array_equal(np.concatenate(found), audio)
    assert all(len(piece) <= longest for piece in found)
    assert all(len(piece) >= longest * 3 // 4 for piece in found[:-1])
    assert all(len(piece) for piece in found) or not samples


def test_what_fits_is_one_piece_without_a_copy() -> None:
    audio = noise(RATE)
    (piece,) = pieces(audio, RATE, longest=RATE)
    assert piece.base is audio


@pytest.mark.parametrize("level", [0.0, 0.003])
def test_a_cut_falls_into_the_pause(level: float) -> None:
    audio = noise(15 * RATE)
    audio[8 * RATE : 8 * RATE + 6_400] *= np.float32(level)
    first, second = pieces(audio, RATE, longest=10 * RATE)
    assert 8 * RATE + 1_500 <= len(first) <= 8 * RATE + 4_900
    assert len(first) + len(second) == len(audio)


def test_a_long_pause_is_cut_late_but_not_at_the_next_word() -> None:
    audio = noise(15 * RATE)
    audio[8 * RATE : 9 * RATE] = 0
    first, _ = pieces(audio, RATE, longest=10 * RATE)
    assert 9 * RATE - 2_000 <= len(first) <= 9 * RATE - 1_440


def test_a_pause_before_the_last_quarter_does_not_make_short_pieces() -> None:
    audio = noise(15 * RATE)
    audio[RATE : 2 * RATE] = 0
    first, _ = pieces(audio, RATE, longest=10 * RATE)
    assert len(first) >= 7.5 * RATE


def test_pieces_are_found_one_at_a_time() -> None:
    audio = noise(30 * RATE)
    cut = pieces(audio, RATE, longest=10 * RATE)
    first = next(cut)
    audio[len(first) + 8 * RATE : len(first) + 9 * RATE] = 0
    second = next(cut)
    assert 8 * RATE < len(second) < 9 * RATE

"""Which numbers of streams are tried."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt_server.bench.ramp import Ramp


def climb(ramp: Ramp, capacity: int) -> list[int]:
    """The stages on a server that holds so many streams."""
    tried: dict[int, bool] = {}
    while (size := ramp.next(tried)) is not None:
        assert size not in tried
        tried[size] = size <= capacity
    return list(tried)


def test_equal_steps_end_at_the_first_that_is_not_held() -> None:
    assert climb(Ramp.parse("5:30:10"), 100) == [5, 15, 25, 30]
    assert climb(Ramp.parse("5:30:10"), 20) == [5, 15, 25]


def test_a_search_doubles_then_halves() -> None:
    assert climb(Ramp.parse("5:200"), 30) == [5, 10, 20, 40, 30, 35, 32]


def test_one_number_is_one_stage() -> None:
    assert climb(Ramp(10, 10), 100) == [10]
    assert climb(Ramp(10, 10), 3) == [10]


@given(st.integers(1, 20), st.integers(1, 3_000), st.integers(1, 3_000))
def test_a_search_finds_what_is_held(start: int, capacity: int, most: int) -> None:
    ramp = Ramp(min(start, most), most)
    stages = climb(ramp, capacity)
    held = [size for size in stages if size <= capacity]
    if capacity >= most:
        assert max(held) == most
    elif held:
        assert capacity - max(held) <= max(1, 0.06 * capacity)
    else:
        assert stages == [ramp.start]
    assert len(stages) <= 25


@pytest.mark.parametrize("text", ["", "5", "a:b", "5:2", "0:5", "1:2:0", "1:2:3:4", "1:20000"])
def test_what_is_no_ramp_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - argparse needs no more
        Ramp.parse(text)

"""The binding: the core's cases once more through Python, and what only Python can get wrong."""

import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import strops
from hypothesis import given
from hypothesis import strategies as st
from strops import HEAD_WORDS, TAIL_WORDS, Overlap, align_overlap, merge_by_overlap

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]))
ANY_TEXT = st.lists(st.text(st.characters()))  # lone surrogates included
WEIGHTS = st.integers(1, 1_000_000)


def fields(overlap: Overlap) -> dict[str, int]:
    names = [name for name in dir(Overlap) if not name.startswith("_")]
    return {name: getattr(overlap, name) for name in names}


def test_exports() -> None:
    assert strops.__all__ == [
        "HEAD_WORDS",
        "TAIL_WORDS",
        "Overlap",
        "align_overlap",
        "merge_by_overlap",
    ]
    assert (TAIL_WORDS, HEAD_WORDS) == (48, 48)


@pytest.mark.parametrize(
    ("prev", "new", "merged"),
    [
        ("The quick brown fox", "brown fox jumps", "The quick brown fox jumps"),
        ("the quick brown fox", "wn fox jumps", "the quick brown fox jumps"),
        ("the quick brown fo", "brown fox jumps over", "the quick brown fox jumps over"),
        ("a b c d e f", "c e f g h", "a b c d e f g h"),
        ("no no no", "no no yes", "no no no yes"),
        ("a the b c", "d e the f", "a the b c d e the f"),
        ("a b c", "d e", "a b c d e"),
        ("straße über", "über 東京", "straße über 東京"),
        ("", "a", "a"),
        ("a", "", "a"),
        ("", "", ""),
    ],
)
def test_merge(prev: str, new: str, merged: str) -> None:
    assert merge_by_overlap(prev.split(), new.split()) == merged.split()


def test_overlap_names_ranges_match_cut_and_score() -> None:
    overlap = align_overlap(["the", "quick", "brown", "fox"], ["wn", "fox", "jumps"])
    assert overlap is not None
    assert fields(overlap) == {
        "prev_start": 2,
        "prev_end": 4,
        "new_start": 0,
        "new_end": 2,
        "prev_match": 3,
        "new_match": 1,
        "prev_cut": 3,
        "new_cut": 1,
        "score": 1,
    }
    assert repr(overlap) == (
        "Overlap(prev_start=2, prev_end=4, new_start=0, new_end=2, prev_match=3, new_match=1, "
        "prev_cut=3, new_cut=1, score=1)"
    )


def test_overlap_is_a_frozen_value() -> None:
    one, same, other = (align_overlap(["x"], [*"x" * n]) for n in (1, 1, 0))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != align_overlap(["a", "x"], ["x"])
    with pytest.raises(AttributeError):
        one.score = 9
    with pytest.raises(TypeError):
        Overlap()


def test_keys_are_aligned_and_words_kept() -> None:
    prev, new = ["We", "saw", "the", "Red", "car."], ["Red", "car,", "and", "left."]
    overlap = align_overlap(["we", "saw", "the", "red", "car"], ["red", "car", "and", "left"])
    assert overlap is not None
    merged = prev[: overlap.prev_cut] + new[overlap.new_cut :]
    assert merged == ["We", "saw", "the", "Red", "car,", "and", "left."]


def test_empty_strings_and_lone_surrogates_are_words() -> None:
    assert merge_by_overlap(["a", "", "\ud800"], ["", "\ud800", "b"]) == ["a", "", "\ud800", "b"]
    assert merge_by_overlap(["\ud800"], ["\ud801"]) == ["\ud800", "\ud801"]


@pytest.mark.parametrize("name", ["match_reward", "mismatch_penalty", "gap_penalty"])
@pytest.mark.parametrize("bad", [0, -1, 1_000_001, 2**63, -(2**63) - 1, 10**30])
def test_weights_out_of_range(name: str, bad: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be in 1\.\.=1000000$"):
        align_overlap(["a"], ["a"], **{name: bad})


def test_weights_count() -> None:
    assert align_overlap(["a"], ["a"], match_reward=1_000_000).score == 1_000_000
    assert align_overlap(["b", "a"], ["c", "a"], mismatch_penalty=10) is None
    assert align_overlap(["a"], ["c", "a"], gap_penalty=9) is not None
    assert align_overlap(["a"], ["c", "a"]) is None


def test_signature_shows_the_defaults() -> None:
    parameters = inspect.signature(align_overlap).parameters.values()
    shown = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert list(shown) == ["match_reward", "mismatch_penalty", "gap_penalty"]
    prev, new = ["z", "a", "b", "c", "d"], ["a", "x", "c", "q", "d"]
    assert align_overlap(prev, new) == align_overlap(prev, new, **shown)
    for name in shown:
        assert align_overlap(prev, new) != align_overlap(
            prev, new, **shown | {name: shown[name] - 5}
        )


@pytest.mark.parametrize(
    "call",
    [
        lambda: align_overlap("abc", ["a"]),
        lambda: align_overlap(["a"], ("a",)),
        lambda: align_overlap(None, []),
        lambda: align_overlap([1], ["a"]),
        lambda: align_overlap(["a"], [b"a"]),
        lambda: align_overlap(["a"], ["a"], gap_penalty=1.5),
        lambda: align_overlap(["a"], ["a"], gap_penalty="1"),
        lambda: merge_by_overlap("abc", "abc"),
    ],
)
def test_wrong_types(call: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        call()


def test_only_tail_and_head_are_read() -> None:
    tail = [f"w{n}" for n in range(TAIL_WORDS)]
    # The unread entries are no words at all: reading one would raise.
    prev, new = [None] * 1_000_000 + tail, tail[:HEAD_WORDS] + [None] * 1_000_000
    overlap = align_overlap(prev, new)
    assert overlap is not None
    assert (overlap.prev_start, overlap.prev_end) == (1_000_000, len(prev))
    assert (overlap.new_start, overlap.new_end) == (0, HEAD_WORDS)
    assert prev[overlap.prev_match] == new[overlap.new_match] == "w0"
    assert overlap.prev_cut - 1_000_000 == overlap.new_cut == TAIL_WORDS // 2


def test_an_overlap_longer_than_the_bounds_is_not_found() -> None:
    words = [str(n) for n in range(2 * TAIL_WORDS)]
    assert align_overlap(words, words[: TAIL_WORDS // 2]) is None


def test_threads_may_share_the_lists() -> None:
    prev, new = [str(n) for n in range(500)], [str(n) for n in range(480, 600)]
    barrier = threading.Barrier(4)

    def work() -> bool:
        barrier.wait()
        return all(merge_by_overlap(prev, new) == [*map(str, range(600))] for _ in range(200))

    with ThreadPoolExecutor(4) as pool:
        assert all(future.result() for future in [pool.submit(work) for _ in range(4)])


@given(ANY_TEXT, ANY_TEXT)
def test_any_text_keeps_order_and_inputs(prev: list[str], new: list[str]) -> None:
    before = prev.copy(), new.copy()
    merged = merge_by_overlap(prev, new)
    assert (prev, new) == before
    assert merged is not prev
    assert merged is not new
    splices = (prev[:kept] + new[len(new) + kept - len(merged) :] for kept in range(len(prev) + 1))
    assert merged in splices


@given(WORDS, WORDS, WEIGHTS, WEIGHTS, WEIGHTS)
def test_overlaps_are_well_formed(
    prev: list[str], new: list[str], reward: int, mismatch: int, gap: int
) -> None:
    overlap = align_overlap(
        prev, new, match_reward=reward, mismatch_penalty=mismatch, gap_penalty=gap
    )
    if overlap is None:
        return
    assert overlap.score > 0
    assert overlap.prev_start <= overlap.prev_match < overlap.prev_end == len(prev)
    assert overlap.new_start == 0 <= overlap.new_match < overlap.new_end <= len(new)
    assert prev[overlap.prev_match] == new[overlap.new_match]
    assert overlap.prev_match <= overlap.prev_cut <= overlap.prev_end
    assert overlap.new_match <= overlap.new_cut <= overlap.new_end


@given(WORDS)
def test_merging_with_itself_or_nothing_changes_nothing(words: list[str]) -> None:
    words = words[:HEAD_WORDS]
    assert merge_by_overlap(words, words) == words
    assert merge_by_overlap(words, []) == merge_by_overlap([], words) == words


@given(st.integers(0, 20_000), st.integers(1, TAIL_WORDS), st.integers(0, 200))
def test_pieces_of_distinct_words_make_the_whole(start: int, shared: int, rest: int) -> None:
    whole = [str(n) for n in range(start + shared + rest)]
    assert merge_by_overlap(whole[: start + shared], whole[start:]) == whole


@given(WORDS, WORDS)
def test_nothing_in_common_is_concatenated(prev: list[str], new: list[str]) -> None:
    new = [word.upper() for word in new]
    assert align_overlap(prev, new) is None
    assert merge_by_overlap(prev, new) == prev + new

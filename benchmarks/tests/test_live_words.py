"""Lags against the truth: words are matched, timed and counted."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))

from live_finals import phases
from live_words import Found, Recorder, align

from stt_server.bench.observer import Timeline
from stt_server.clients.messages import parse_message

WORDS = st.lists(st.sampled_from("abc"), max_size=8)


@pytest.mark.parametrize(
    ("truth", "heard", "pairs", "errors"),
    [
        ("a b c", "a b c", [(0, 0), (1, 1), (2, 2)], 0),
        ("a b c", "a c", [(0, 0), (2, 1)], 1),
        ("a c", "a b c", [(0, 0), (1, 2)], 1),
        ("a b c", "a x c", [(0, 0), (2, 2)], 1),
        ("", "a", [], 1),
    ],
)
def test_words_are_matched(
    truth: str, heard: str, pairs: list[tuple[int, int]], errors: int
) -> None:
    assert align(truth.split(), heard.split()) == (pairs, errors)


@given(WORDS, WORDS)
def test_matches_are_equal_words_in_order(truth: list[str], heard: list[str]) -> None:
    pairs, errors = align(truth, heard)

    assert all(truth[i] == heard[j] for i, j in pairs)
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(pairs))
    assert abs(len(truth) - len(heard)) <= errors <= max(len(truth), len(heard))
    assert max(len(truth), len(heard)) - len(pairs) <= errors


def test_a_word_is_timed_when_it_first_stands_at_its_place() -> None:
    recorder = Recorder(Timeline(100.0, 1_600))

    def hear(at: float, text: str) -> None:
        recorder.hear(parse_message(text), at)

    def segment(*words: str, final: str = "false") -> str:
        listed = ",".join(f'{{"word":"{word}","start":0,"end":0}}' for word in words)
        text = " ".join(words)
        return f'{{"text":"{text}","isFinal":{final},"isEndOfTurn":{final},"words":[{listed}]}}'

    hear(100.7, segment("won"))
    hear(100.9, segment("one"))
    hear(101.2, segment("one", "two"))
    hear(101.3, '{"type":"speechStopped","time":1.05,"turnId":0}')
    hear(102.6, segment("one", "two", "six", final="true"))
    hear(102.6, '{"type":"endOfTurn","turnId":0,"reason":"silence"}')
    found = Found()
    found.add(recorder, [("one", 0.55), ("two", 0.95), ("six", 1.1), ("nine", 1.5)])

    assert [round(lag, 3) for lag in found.lags] == [0.3, 0.2, 1.5]
    assert [round(final, 3) for final in found.finals] == [1.5]
    assert (found.late_words, found.words, found.errors) == (1, 4, 1)


def test_every_phase_of_a_chunk_comes() -> None:
    assert list(phases(160)) == list(range(0, 160, 10))

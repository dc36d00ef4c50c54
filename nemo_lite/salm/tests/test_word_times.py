"""Estimated times of words."""

import json
from itertools import pairwise
from statistics import median

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nemo_lite.salm import word_times as word_times_module
from nemo_lite.salm.tests.fake_generation import RATE
from nemo_lite.salm.word_times import word_times
from nemo_lite.tests.goldens import SHARED

DIGITS = SHARED / "audio" / "digits"


def sounds(
    *regions: tuple[float, float], seconds: float, level: float = 0.1
) -> NDArray[np.float32]:
    """A tone in the regions, given in seconds, over faint noise."""
    time = np.arange(round(seconds * RATE)) / RATE
    on = sum((time >= start) & (time < end) for start, end in regions)
    noise = np.random.default_rng(0).standard_normal(len(time)) * level / 1_000
    return (level * np.sin(2 * np.pi * 500 * time) * on + noise).astype(np.float32)


def starts(text: str, samples: NDArray[np.float32]) -> list[float]:
    return [times.start for times in word_times(text.split(), samples, RATE)]


def test_one_word_is_where_the_sound_is() -> None:
    (word,) = word_times(["Yes."], sounds((0.5, 0.9), seconds=2), RATE)
    assert word == pytest.approx((0.5, 0.9), abs=0.03)


@pytest.mark.parametrize("level", [0.003, 0.5])
def test_each_of_several_sounds_is_a_word_at_any_level(level: float) -> None:
    samples = sounds((0.2, 0.5), (1.0, 1.4), (2.2, 2.6), seconds=3, level=level)
    assert starts("one nine seven", samples) == pytest.approx([0.2, 1.0, 2.2], abs=0.03)


def test_words_without_a_pause_share_the_sound_by_their_length() -> None:
    first, second, third = starts("a wonderful day", sounds((1, 2), seconds=3))
    assert first == pytest.approx(1, abs=0.03)
    assert second - first < third - second
    assert third < 2


def test_a_pause_goes_to_the_end_of_a_sentence() -> None:
    samples = sounds((0, 1), (1.5, 2.5), seconds=2.5)
    assert starts("aa bb cc. dd ee", samples)[3] == pytest.approx(1.5, abs=0.03)
    assert starts("aa bb. cc dd ee", samples)[2] == pytest.approx(1.5, abs=0.03)


def test_the_number_of_words_in_a_phrase_follows_its_length() -> None:
    samples = sounds((0, 0.5), (1, 3), seconds=3)
    assert starts("aa bb cc dd ee", samples)[1] == pytest.approx(1, abs=0.03)


def test_a_noise_that_no_word_accounts_for_holds_none() -> None:
    samples = sounds((0.2, 0.25), (1.0, 1.8), (2.0, 2.9), seconds=3.5)
    assert starts("wonderful, marvellous", samples) == pytest.approx([1.0, 2.0], abs=0.03)


def test_without_any_sound_words_are_spread_over_the_audio() -> None:
    times = word_times(["one", "two"], np.zeros(RATE, np.float32), RATE)
    assert times == [(0, 0.5), (0.5, 1)]


def test_no_words_have_no_times() -> None:
    assert word_times([], sounds((0, 1), seconds=1), RATE) == []


def test_more_than_speech_can_be_is_spread_over_the_sound_at_no_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = np.concatenate([sounds((0, 0.08), seconds=0.16)] * 250)
    monkeypatch.setattr(word_times_module, "_assign", lambda *_: pytest.fail("takes too long"))
    times = word_times(["go"] * 400, samples, RATE)
    assert all(first.end <= second.start for first, second in pairwise(times))
    assert all(word.start < word.end for word in times)
    assert times[0].start == pytest.approx(0, abs=0.03)
    assert times[200].start == pytest.approx(20, abs=0.1)
    assert times[-1].end == pytest.approx(39.92, abs=0.03)
    # No word begins in a silence, but for what windows of 30 ms cannot tell.
    assert all(word.start % 0.16 < 0.1 or word.start % 0.16 > 0.14 for word in times)


@given(
    words=st.lists(
        st.sampled_from(["a", "seven", "2026,", "-", "Bye.", "extraordinarily"]), max_size=40
    ),
    edges=st.lists(st.floats(0, 4), max_size=12, unique=True).map(sorted),
    seconds=st.sampled_from([0.001, 0.3, 4.0]),
    most=st.sampled_from([0, 12_000]),
)
@settings(max_examples=90, deadline=None)
def test_words_are_in_order_and_within_the_audio(
    words: list[str], edges: list[float], seconds: float, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_times_module, "_MOST", most)
        check_order(words, edges, seconds)


def check_order(words: list[str], edges: list[float], seconds: float) -> None:
    samples = sounds(*zip(edges[::2], edges[1::2], strict=False), seconds=seconds)
    times = word_times(words, samples, RATE)
    assert len(times) == len(words)
    assert all(0 <= word.start <= word.end <= seconds for word in times)
    assert all(first.end <= second.start for first, second in pairwise(times))


@pytest.mark.skipif(not DIGITS.is_dir(), reason="../shared/audio is absent")
def test_half_of_all_spoken_digits_are_found_within_50_ms_and_nine_of_ten_within_200() -> None:
    errors: list[float] = []
    for line in (DIGITS / "manifest.jsonl").read_text().splitlines():
        item = json.loads(line)
        samples, rate = soundfile.read(DIGITS / item["file"], dtype="float32")
        found = word_times(item["text"].split(), samples, rate)
        errors += [
            abs(mine.start - word["start"]) for mine, word in zip(found, item["words"], strict=True)
        ]
    assert len(errors) > 100
    assert median(errors) <= 0.05
    assert np.percentile(errors, 90) <= 0.2

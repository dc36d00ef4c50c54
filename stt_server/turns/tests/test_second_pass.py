"""Finals with the words of one recogniser and the times of another."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt_server.events import Audio, Hypothesis, Token, Transcript, Word
from stt_server.turns.second_pass import TurnRecording, second_final


def first_pass(text: str, *, estimated: bool = False) -> Hypothesis:
    """One word per 100 samples from 1000 on, with gaps of 10."""
    words = tuple(
        Word(word, 1_000 + 100 * index, 1_090 + 100 * index, 0.5)
        for index, word in enumerate(text.split())
    )
    return Hypothesis(
        turn=3,
        stable=text,
        unstable="",
        words=words,
        start=1_000,
        end=1_000 + 100 * len(words),
        is_final=True,
        confidence=0.5,
        language="en",
        estimated_times=estimated,
    )


def second_pass(text: str) -> Transcript:
    """Words whose times are guesses, one per 70 samples from 1005 on."""
    words = tuple(
        Word(word, 1_005 + 70 * index, 1_055 + 70 * index, 0.9)
        for index, word in enumerate(text.split())
    )
    return Transcript(words, stable=len(words), estimated_times=True)


def spans(final: Hypothesis) -> list[tuple[str, int, int]]:
    return [(word.text, word.start, word.end) for word in final.words]


def test_words_that_both_heard_have_the_times_of_the_first() -> None:
    final = second_final(first_pass("send the report"), second_pass("Send the report."))

    assert spans(final) == [
        ("Send", 1_000, 1_090),
        ("the", 1_100, 1_190),
        ("report.", 1_200, 1_290),
    ]
    assert not final.estimated_times
    assert (final.text, final.turn, final.is_final) == ("Send the report.", 3, True)


def test_audio_heard_is_that_of_the_turn_and_tokens_of_other_words_are_left_out() -> None:
    first = replace(first_pass("send it"), tokens=(Token(5, 0.9),), audio_samples=32_000)

    final = second_final(first, second_pass("Send it"))

    assert (final.audio_samples, final.tokens) == (32_000, ())


def test_confidence_is_that_of_the_second() -> None:
    final = second_final(first_pass("send it"), second_pass("Send it"))

    assert final.confidence == pytest.approx(0.9)
    assert {word.confidence for word in final.words} == {0.9}


def test_words_in_the_place_of_others_share_their_time_by_length() -> None:
    final = second_final(first_pass("a recognise speech b"), second_pass("a wreck a nice b"))

    # "recognise speech" lasts from 1100 to 1290; 5, 1 and 4 letters.
    assert spans(final)[1:4] == [
        ("wreck", 1_100, 1_195),
        ("a", 1_195, 1_214),
        ("nice", 1_214, 1_290),
    ]
    assert final.estimated_times


def test_word_that_only_the_second_heard_stays_between_its_neighbours() -> None:
    final = second_final(first_pass("one three"), second_pass("one two three"))

    assert spans(final) == [("one", 1_000, 1_090), ("two", 1_090, 1_100), ("three", 1_100, 1_190)]
    assert final.estimated_times


def test_words_alone_keep_their_times_within_the_turn() -> None:
    final = second_final(first_pass(""), second_pass("no one else"))

    assert spans(final) == [("no", 1_000, 1_000), ("one", 1_000, 1_000), ("else", 1_000, 1_000)]
    assert final.estimated_times


def test_times_that_are_known_are_kept() -> None:
    second = Transcript((Word("Send", 1_010, 1_020), Word("it", 1_030, 1_040)), stable=2)

    assert spans(second_final(first_pass("send it"), second)) == [
        ("Send", 1_010, 1_020),
        ("it", 1_030, 1_040),
    ]


def test_guesses_are_not_replaced_by_guesses() -> None:
    final = second_final(first_pass("send it", estimated=True), second_pass("Send it"))

    assert spans(final) == [("Send", 1_005, 1_055), ("it", 1_075, 1_125)]
    assert final.estimated_times


TEXTS = st.lists(st.sampled_from(["a", "b", "B,", "long", "...", "Long!"]), max_size=12).map(
    " ".join
)


@given(TEXTS, TEXTS)
def test_words_are_those_of_the_second_in_order_and_within_the_turn(
    first_text: str, second_text: str
) -> None:
    first = first_pass(first_text)
    final = second_final(first, second_pass(second_text))

    assert [word.text for word in final.words] == second_text.split()
    assert final.text == second_text
    borders = [at for word in final.words for at in (word.start, word.end)]
    assert borders == sorted(borders)
    assert all(first.start <= at <= first.end for at in borders)


def test_recording_gives_the_turn_as_one_piece() -> None:
    recording = TurnRecording(longest=10)
    assert recording.whole() is None

    for start in (5, 9):
        recording.append(Audio(start, np.arange(start, start + 4, dtype=np.float32), speech=True))

    whole = recording.whole()
    assert whole is not None
    assert (whole.start, whole.samples.tolist()) == (5, list(range(5, 13)))


def test_recording_that_is_too_long_is_given_up() -> None:
    recording = TurnRecording(longest=10)
    for start in range(0, 40, 4):
        recording.append(Audio(start, np.zeros(4, dtype=np.float32), speech=True))

    assert recording.whole() is None


def test_recording_that_was_given_up_takes_nothing_more() -> None:
    recording = TurnRecording(longest=10)
    recording.append(Audio(0, np.zeros(4, dtype=np.float32), speech=True))
    assert recording.is_kept

    recording.give_up()
    recording.append(Audio(4, np.zeros(4, dtype=np.float32), speech=True))

    assert not recording.is_kept
    assert recording.whole() is None

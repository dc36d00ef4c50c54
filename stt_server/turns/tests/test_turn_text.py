"""The text of turns over transcripts as engines give them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stt_server.events import Audio, Hypothesis, Token, Transcript, Word
from stt_server.turns.turn_text import TurnText

WORD_SAMPLES = 1_000


def words(text: str, *, confidence: float | None = None) -> tuple[Word, ...]:
    return tuple(
        Word(word, index * WORD_SAMPLES, (index + 1) * WORD_SAMPLES, confidence)
        for index, word in enumerate(text.split())
    )


def heard(text: str, *, stable: int = 0) -> Transcript:
    return Transcript(words(text), stable=stable)


def opened() -> TurnText:
    text = TurnText()
    text.open(0)
    return text


def test_interim_tells_the_stable_words_from_the_rest() -> None:
    interim = opened().hear(heard("please send the", stable=2), at=3_000)

    assert interim == Hypothesis(0, "please send", " the", words("please send the"), 0, 3_000)


def test_interim_spells_all_words_when_nothing_is_stable() -> None:
    interim = opened().hear(heard("please send"), at=3_000)

    assert interim is not None
    assert (interim.stable, interim.unstable) == ("", "please send")


def test_stable_words_stay_so_also_when_the_engine_takes_them_back() -> None:
    text = opened()
    text.hear(heard("please send", stable=2), at=100)
    interim = text.hear(heard("please send the"), at=200)

    assert interim is not None
    assert interim.stable == "please send"


def test_interim_without_words_is_not_told() -> None:
    assert opened().hear(heard(""), at=100) is None


def test_interim_equal_to_the_one_before_is_not_told() -> None:
    text = opened()
    text.hear(heard("yes"), at=100)

    assert text.hear(heard("yes", stable=1), at=200) is None


def test_same_text_is_told_again_in_the_next_turn() -> None:
    text = opened()
    text.hear(heard("yes"), at=100)
    text.close(heard("yes"), at=200)
    text.open(300)

    assert text.hear(heard("yes"), at=400) is not None


def test_turns_are_numbered_from_zero() -> None:
    text = TurnText()
    numbers: list[int] = []
    for start in (0, 1_000, 2_000):
        text.open(start)
        numbers.append(text.close(heard("yes"), at=start + 500).turn)

    assert numbers == [0, 1, 2]


def test_turn_spans_from_its_start_to_the_end_of_speech() -> None:
    text = TurnText()
    text.open(500)

    final = text.close(Transcript((Word("yes", 600, 800),)), at=900)

    assert (final.start, final.end) == (500, 900)


def test_turn_spans_a_first_word_in_the_pre_roll() -> None:
    text = TurnText()
    text.open(500)

    final = text.close(Transcript((Word("yes", 400, 800),)), at=900)

    assert (final.start, final.end) == (400, 900)


def test_turn_never_ends_before_it_starts() -> None:
    text = TurnText()
    text.open(500)
    interim = text.hear(heard("yes"), at=300)

    assert interim is not None
    assert interim.end == 500


def test_final_is_stable_as_a_whole() -> None:
    final = opened().close(heard("please send"), at=900)

    assert final.is_final
    assert (final.stable, final.unstable) == ("please send", "")


def test_final_without_words_has_an_empty_text() -> None:
    assert opened().close(Transcript(), at=900).text == ""


def test_final_has_the_mean_confidence_of_its_words() -> None:
    transcript = Transcript((Word("a", 0, 1, 0.5), Word("b", 1, 2, 1.0), Word("c", 2, 3)))

    assert opened().close(transcript, at=900).confidence == 0.75


def test_final_has_the_confidence_of_the_engine_when_it_gives_one() -> None:
    transcript = Transcript(words("yes", confidence=0.5), confidence=0.9)

    assert opened().close(transcript, at=900).confidence == 0.9


def test_final_has_no_confidence_when_nobody_gives_one() -> None:
    assert opened().close(heard("yes"), at=900).confidence is None


def test_language_is_passed_on() -> None:
    transcript = Transcript(words("ja"), language="de")
    text = opened()
    interim = text.hear(transcript, at=100)

    assert interim is not None
    assert interim.language == text.close(transcript, at=200).language == "de"


def test_words_found_before_the_engine_failed_stay_in_front() -> None:
    text = opened()
    text.hear(heard("please send"), at=100)
    text.engine_failed()

    assert text.close(heard("the report"), at=200).text == "please send the report"


def test_words_found_before_the_engine_failed_are_stable() -> None:
    text = opened()
    text.hear(heard("please send"), at=100)
    text.engine_failed()
    interim = text.hear(heard("the"), at=200)

    assert interim is not None
    assert (interim.stable, interim.unstable) == ("please send", " the")


def test_failure_alone_is_no_new_interim() -> None:
    text = opened()
    text.hear(heard("please send"), at=100)
    text.engine_failed()

    assert text.hear(Transcript(), at=200) is None


def test_second_failure_in_a_row_repeats_nothing() -> None:
    text = opened()
    text.hear(heard("please send"), at=100)
    text.engine_failed()
    text.engine_failed()

    assert text.close(heard("it"), at=200).text == "please send it"


def test_words_of_two_failures_stay_in_order() -> None:
    text = opened()
    for word in ("one", "two"):
        text.hear(heard(word), at=100)
        text.engine_failed()

    assert text.close(heard("three"), at=200).text == "one two three"


def test_words_kept_for_a_turn_are_forgotten_with_it() -> None:
    text = opened()
    text.hear(heard("old"), at=100)
    text.engine_failed()
    text.open(300)

    assert text.close(heard("new"), at=400).text == "new"


# Properties

VOCABULARY = st.sampled_from(["a", "be", "see"])


@st.composite
def any_recognition(draw: st.DrawFn) -> list[Transcript | None]:
    """Transcripts of a turn as an engine may give them: words become stable and stay so.

    None is a failure, after which the engine begins anew.
    """
    steps: list[Transcript | None] = []
    stable: list[str] = []
    for _ in range(draw(st.integers(1, 12))):
        if draw(st.integers(0, 5)) == 0:
            steps.append(None)
            stable = []
            continue
        rest = draw(st.lists(VOCABULARY, max_size=4))
        all_words = stable + rest
        stable = all_words[: len(stable) + draw(st.integers(0, len(rest)))]
        steps.append(heard(" ".join(all_words), stable=len(stable)))
    return steps


def told(steps: list[Transcript | None]) -> tuple[list[Hypothesis], Hypothesis]:
    """The interims and the final of one turn."""
    text = opened()
    interims: list[Hypothesis] = []
    for step in steps:
        if step is None:
            text.engine_failed()
        elif (interim := text.hear(step, at=0)) is not None:
            interims.append(interim)
    return interims, text.close(steps[-1] or Transcript(), at=0)


@given(any_recognition())
def test_stable_text_never_changes_within_a_turn(steps: list[Transcript | None]) -> None:
    interims, final = told(steps)

    for before, after in pairwise([*interims, final]):
        assert after.stable.startswith(before.stable)


@given(any_recognition())
def test_consecutive_interims_differ(steps: list[Transcript | None]) -> None:
    interims, _ = told(steps)

    assert all(before.text != after.text for before, after in pairwise(interims))


@given(any_recognition())
def test_words_joined_with_spaces_spell_the_text(steps: list[Transcript | None]) -> None:
    interims, final = told(steps)

    for hypothesis in [*interims, final]:
        assert " ".join(word.text for word in hypothesis.words) == hypothesis.text


def test_times_that_are_guesses_stay_marked_until_the_turn_ends() -> None:
    text = TurnText()
    text.open(0)
    interim = text.hear(Transcript((Word("yes", 0, 10),), estimated_times=True), at=10)
    final = text.close(Transcript((Word("yes", 0, 10),)), at=10)
    text.open(20)
    next_final = text.close(Transcript((Word("no", 20, 30),)), at=30)

    assert interim is not None
    assert interim.estimated_times
    assert final.estimated_times
    assert not next_final.estimated_times


def test_words_that_may_be_taken_back_are_shown_but_neither_stable_nor_with_tokens() -> None:
    text = opened()
    text.hear(heard("please", stable=1), at=100)
    transcript = Transcript(words("please send"), stable=2, tokens=(Token(1, 0.5), Token(2, 0.5)))

    interim = text.hear(transcript, at=200, is_lasting=False)

    assert interim is not None
    assert (interim.stable, interim.unstable, interim.tokens) == ("please", " send", ())


def test_what_may_be_taken_back_has_the_tokens_that_may_not() -> None:
    text = TurnText()
    text.open(0)
    lasting = Transcript(words("please send"), stable=1, tokens=(Token(1, 0.5), Token(2, 0.5)))
    text.hear(replace(lasting, stable=0), at=100, is_lasting=False)
    assert text.hear(lasting, at=200) is None
    more = Transcript(words("please send it"), tokens=(*lasting.tokens, Token(3, 0.5)))
    interim = text.hear(more, at=300, is_lasting=False)
    assert interim is not None
    assert interim.tokens == lasting.tokens


def test_final_has_the_tokens_of_all_its_words() -> None:
    text = opened()
    text.hear(Transcript(words("please"), tokens=(Token(7, 0.5),)), at=100)
    text.engine_failed()

    final = text.close(Transcript(words("send"), tokens=(Token(8, 0.5), Token(9, 0.5))), at=200)

    assert [token.id for token in final.tokens] == [7, 8, 9]


def test_final_counts_the_audio_of_its_own_turn() -> None:
    text = opened()
    text.take(Audio(0, np.zeros(700, dtype=np.float32), speech=True))
    text.take(Audio(700, np.zeros(300, dtype=np.float32), speech=True))
    first = text.close(heard("yes"), at=900)
    text.open(2_000)
    second = text.close(heard(""), at=2_100)

    assert (first.audio_samples, second.audio_samples) == (1_000, 0)


def test_text_of_what_is_heard_now_holds_the_words_kept_from_before_a_failure() -> None:
    text = opened()
    text.hear(heard("please"), at=100)
    text.engine_failed()

    assert text.spell(heard("send it")) == "please send it"

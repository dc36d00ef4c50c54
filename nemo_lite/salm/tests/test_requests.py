"""Requests: cutting, joining, silence, words, limits; without a network."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nemo_lite.errors import RecognitionError, ShapeError
from nemo_lite.results import Transcript
from nemo_lite.salm.requests import RequestBatch, Window
from nemo_lite.salm.tests.fake_generation import RATE, FakeGeneration, Letters, sureness, voice

WINDOW = Window(sample_rate=RATE, frame_samples=1_280, samples=4 * RATE, positions=200)


def length_of(samples: NDArray[np.float32]) -> str:
    return f"n{len(samples)} ok"


def make(generation: FakeGeneration, *, window: Window = WINDOW) -> RequestBatch:
    return RequestBatch(generation, Letters(), window, slots=generation.slots)


def run(batch: RequestBatch) -> dict[int, Transcript]:
    found: dict[int, Transcript] = {}
    for _ in range(1_000):
        if not batch.active + batch.waiting:
            return found
        for number, transcript in batch.step():
            assert number not in found
            assert isinstance(transcript, Transcript)
            found[number] = transcript
    raise AssertionError("it does not end")


def test_a_request_gives_text_words_and_tokens() -> None:
    batch = make(FakeGeneration(lambda _: " Good day. "))
    number = batch.add(voice(1.5))
    transcript = run(batch)[number]
    assert transcript.text == "Good day."
    assert [word.text for word in transcript.words] == ["Good", "day."]
    assert bytes(transcript.token_ids) == b" Good day. "
    assert transcript.token_confidences == tuple(sureness(" Good day. "))
    assert transcript.estimated_times


def test_a_word_is_as_sure_as_its_least_sure_token() -> None:
    batch = make(FakeGeneration(lambda _: "ab dc"))
    batch.add(voice(1))
    (transcript,) = run(batch).values()
    assert [word.confidence for word in transcript.words] == [
        min(sureness("ab")),
        min(sureness("dc")),
    ]


def test_tokens_have_the_start_of_their_word() -> None:
    batch = make(FakeGeneration(lambda _: "ab cd"))
    batch.add(np.concatenate([np.zeros(RATE, np.float32), voice(1.1)]))
    (transcript,) = run(batch).values()
    first, second = (word.start for word in transcript.words)
    assert first == pytest.approx(1, abs=0.05)
    assert transcript.token_times == (first, first, first, second, second)


@pytest.mark.parametrize("samples", [np.zeros(0, np.float32), np.zeros(RATE, np.float32)])
def test_silence_has_no_text_and_never_reaches_the_model(samples: NDArray[np.float32]) -> None:
    generation = FakeGeneration(lambda _: "Thank you.")
    batch = make(generation)
    number = batch.add(samples)
    assert (batch.active, batch.waiting) == (0, 1)
    assert dict(batch.step()) == {number: Transcript("", (), (), (), (), estimated_times=True)}
    assert (batch.active, batch.waiting) == (0, 0)
    assert generation.taken == []


def test_long_audio_is_joined_in_order_with_times_of_the_whole() -> None:
    generation = FakeGeneration(lambda _: "one two")
    batch = make(generation)
    batch.add(voice(14))
    (transcript,) = run(batch).values()
    parts = len(generation.taken)
    assert parts >= 4
    assert sum(count for count, _, _ in generation.taken) == 14 * RATE
    assert transcript.text == " ".join(["one two"] * parts)
    assert len(transcript.words) == 2 * parts
    starts = [word.start for word in transcript.words]
    assert starts == sorted(starts)
    assert starts[-1] > 10
    assert transcript.words[-1].end <= 14
    assert len(transcript.token_times) == len(transcript.token_ids) == 7 * parts


def test_pieces_that_finish_out_of_order_are_joined_in_order() -> None:
    texts = iter(["the first takes long", "second", "third", "fourth", "fifth"])
    batch = make(FakeGeneration(lambda _: next(texts), slots=4))
    batch.add(voice(11))
    (transcript,) = run(batch).values()
    assert transcript.text.startswith("the first takes long second third")


def test_a_silent_stretch_of_a_long_recording_is_skipped() -> None:
    generation = FakeGeneration(lambda _: "word")
    batch = make(generation)
    batch.add(np.concatenate([voice(3.5), np.zeros(12 * RATE, np.float32), voice(3)]))
    (transcript,) = run(batch).values()
    assert len(generation.taken) < 5
    assert transcript.words[0].start < 3.5
    assert transcript.words[-1].start > 14


def test_hours_of_audio_are_handed_on_little_by_little() -> None:
    generation = FakeGeneration(lambda _: "word", slots=2)
    batch = make(generation)
    batch.add(np.tile(voice(4), 100))
    for _ in range(3):
        batch.step()
    assert len(generation.taken) == 4
    run(batch)
    assert generation.most == 4


def test_hours_of_silence_do_not_keep_those_waiting_that_write() -> None:
    """One step looks at as much silence as two pieces hold, and at as many pieces as are slots."""
    batch = make(FakeGeneration(lambda _: "w " * 20, slots=3))
    batch.add(voice(1))
    silent = batch.add(np.zeros(80 * RATE, np.float32))
    steps = 1
    while not any(number == silent for number, _ in batch.step()):
        steps += 1
    assert steps >= 10
    pauses = [batch.add(np.zeros(1_000, np.float32)) for _ in range(7)]
    assert [[number for number, _ in batch.step()] for _ in range(3)] == [
        pauses[:3],
        pauses[3:6],
        pauses[6:],
    ]


def test_a_request_whose_result_is_not_finite_fails_alone() -> None:
    generation = FakeGeneration(lambda samples: "a\0b" if len(samples) < RATE else "fine")
    batch = make(generation)
    failing, sound = batch.add(voice(0.5)), batch.add(voice(1))
    found = [answer for _ in range(4) for answer in batch.step()]
    assert [number for number, _ in found] == [failing, sound]
    (_, error), (_, transcript) = found
    assert isinstance(error, RecognitionError)
    assert "not finite" in str(error)
    assert isinstance(transcript, Transcript)
    assert transcript.text == "fine"


def test_nothing_is_done_for_other_pieces_of_a_request_that_failed() -> None:
    texts = iter(["long enough", "\0", *["no"] * 20])
    generation = FakeGeneration(lambda _: next(texts))
    batch = make(generation)
    failing = batch.add(voice(60))
    ((number, error),) = batch.step()
    assert number == failing
    assert isinstance(error, RecognitionError)
    assert (batch.active, batch.waiting) == (generation.active, generation.waiting) == (0, 0)
    assert batch.step() == []
    assert len(generation.taken) == 2


def test_two_pieces_of_a_request_that_fail_in_one_step_are_one_failure() -> None:
    batch = make(FakeGeneration(lambda _: "\0"))
    failing = batch.add(voice(7))
    assert [number for number, _ in batch.step()] == [failing]
    assert batch.step() == []


def test_a_short_request_does_not_wait_for_all_of_a_long_one() -> None:
    generation = FakeGeneration(length_of)
    batch = make(generation)
    batch.add(voice(60))
    short = batch.add(voice(1))
    steps = 0
    while not any(number == short for number, _ in batch.step()):
        steps += 1
    assert steps < 30
    assert batch.active == 1


def test_a_request_is_given_in_the_step_that_finishes_it() -> None:
    generation = FakeGeneration(lambda _: "w", slots=1)
    batch = make(generation)
    numbers = [batch.add(voice(1)) for _ in range(5)]
    assert [number for _ in numbers for number, _ in batch.step()] == numbers


def test_preparing_prepares_what_writes_the_tokens() -> None:
    generation = FakeGeneration(lambda _: "w")
    make(generation).prepare()
    assert generation.is_prepared


def test_a_cancelled_request_leaves_nothing_behind() -> None:
    generation = FakeGeneration(length_of)
    batch = make(generation)
    first, second = batch.add(voice(20)), batch.add(voice(1))
    batch.step()
    batch.cancel(first)
    assert (batch.active, batch.waiting) == (1, 0)
    assert list(run(batch)) == [second]
    assert generation.active + generation.waiting == 0


def test_cancelling_what_waits_what_is_silent_and_what_is_not_there_is_no_error() -> None:
    batch = make(FakeGeneration(length_of))
    batch.cancel(batch.add(voice(1)))
    batch.cancel(batch.add(np.zeros(100, np.float32)))
    batch.cancel(99)
    assert run(batch) == {}


def test_the_answer_is_bounded_by_the_length_of_the_audio() -> None:
    generation = FakeGeneration(lambda _: "no end " * 200)
    batch = make(generation)
    batch.add(voice(1))
    batch.add(voice(3))
    run(batch)
    assert [limit for _, _, limit in generation.taken] == [34, 54]


def test_the_loop_of_an_answer_without_an_end_is_cut() -> None:
    batch = make(FakeGeneration(lambda _: "We go to the " + "sea " * 200))
    batch.add(voice(2))
    (transcript,) = run(batch).values()
    assert transcript.text == "We go to the sea"
    assert bytes(transcript.token_ids) == b"We go to the sea"
    assert len(transcript.token_confidences) == len(transcript.token_times) == 16


def test_repetition_in_an_answer_that_ends_is_kept() -> None:
    batch = make(FakeGeneration(lambda _: "no " * 10 + "no"))
    batch.add(voice(2))
    (transcript,) = run(batch).values()
    assert transcript.text.count("no") == 11


def test_the_prompt_is_handed_on() -> None:
    generation = FakeGeneration(length_of)
    batch = make(generation)
    batch.add(voice(1), prompt="Names:")
    run(batch)
    assert generation.taken[0][1] == Letters().prompt("Names:")


def test_a_prompt_without_room_for_the_answer_is_refused_at_once() -> None:
    batch = make(FakeGeneration(length_of), window=replace(WINDOW, positions=150))
    batch.add(voice(3), prompt="x" * 40)
    with pytest.raises(ValueError, match="no room"):
        batch.add(voice(3), prompt="x" * 60)
    assert len(run(batch)) == 1


def test_samples_of_another_dtype_are_refused() -> None:
    batch = make(FakeGeneration(length_of))
    with pytest.raises(ShapeError):
        batch.add(np.zeros(100, np.int16))  # type: ignore[arg-type]
    assert (batch.active, batch.waiting) == (0, 0)


@given(
    seconds=st.lists(st.sampled_from([0.0, 0.05, 0.5, 2.0, 5.0, 9.0]), max_size=5),
    slots=st.integers(1, 3),
    cancelled=st.sets(st.integers(1, 5)),
)
@settings(max_examples=25, deadline=None)
def test_every_request_is_given_once_and_is_what_it_is_alone(
    seconds: list[float], slots: int, cancelled: set[int]
) -> None:
    batch = make(FakeGeneration(length_of, slots=slots))
    numbers = [batch.add(voice(length)) for length in seconds]
    found = {number: done for number, done in batch.step() if isinstance(done, Transcript)}
    for number in cancelled:
        batch.cancel(number)
    found |= run(batch)
    assert set(numbers) - cancelled <= set(found) <= set(numbers)
    for number, length in zip(numbers, seconds, strict=True):
        alone = make(FakeGeneration(length_of))
        alone.add(voice(length))
        if number in found:
            assert found[number] == next(iter(run(alone).values()))

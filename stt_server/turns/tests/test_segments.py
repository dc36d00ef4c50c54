"""Segments of a turn: cuts, overlaps and joins."""

import numpy as np

from stt_server.events import SAMPLE_RATE, Audio, Transcript, Word
from stt_server.turns.segments import OVERLAP_SAMPLES, TurnAudio, join

SECOND = SAMPLE_RATE


def words(text: str, *, start: int = 0, step: int = SECOND // 2) -> tuple[Word, ...]:
    return tuple(
        Word(word, start + index * step, start + (index + 1) * step)
        for index, word in enumerate(text.split())
    )


def spoken(joined: tuple[Word, ...]) -> str:
    return " ".join(word.text for word in joined)


def turn(seconds: int, *, whole_s: int = 40, silence_s: int = 3) -> TurnAudio:
    audio = TurnAudio(leading_silence_samples=silence_s * SECOND, whole_samples=whole_s * SECOND)
    for second in range(seconds):
        samples = np.full(SECOND, second, dtype=np.float32)
        audio.append(Audio(SECOND + second * SECOND, samples, speech=True))
    return audio


def test_join_aligns_without_case_and_punctuation_and_keeps_the_engines_spelling() -> None:
    joined = join(words("Please send the report,"), words("the report. To Anna today."))
    assert spoken(joined) in {
        "Please send the report, To Anna today.",
        "Please send the report. To Anna today.",
    }


def test_join_without_overlap_concatenates() -> None:
    assert spoken(join(words("one two"), words("three four"))) == "one two three four"


def test_a_second_segment_begins_with_overlap() -> None:
    audio = turn(12)
    first = audio.cut(9 * SECOND)
    assert first is not None
    assert (first.start, first.end) == (SECOND, 9 * SECOND)
    audio.heard(first, Transcript(words("a b c")))
    second = audio.cut(13 * SECOND)
    assert second is not None
    assert (second.start, second.end) == (9 * SECOND - OVERLAP_SAMPLES, 13 * SECOND)
    assert second.samples[0] == 3.0


def test_a_failed_segment_is_part_of_the_next_one() -> None:
    audio = turn(6)
    assert audio.cut(3 * SECOND) is not None
    again = audio.cut(7 * SECOND)
    assert again is not None
    assert (again.start, again.end) == (SECOND, 7 * SECOND)


def test_leading_silence_of_a_segment_is_trimmed_and_then_nothing_overlaps() -> None:
    audio = turn(20)
    first = audio.cut(5 * SECOND)
    assert first is not None
    audio.heard(first, Transcript())
    audio.speech_resumed(17 * SECOND)
    second = audio.cut(21 * SECOND)
    assert second is not None
    assert second.start == 14 * SECOND


def test_words_no_later_segment_hears_are_stable() -> None:
    audio = turn(12)
    segment = audio.cut(13 * SECOND)
    assert segment is not None
    transcript = audio.heard(segment, Transcript(words("a b c d", start=SECOND, step=3 * SECOND)))
    # Heard until 13 s, so what ends after 8 s is heard again.
    assert transcript.stable == 2


def test_a_turn_longer_than_the_window_is_not_kept() -> None:
    audio = turn(12, whole_s=12)
    assert audio.whole() is not None
    audio = turn(13, whole_s=12)
    assert audio.whole() is None
    segment = audio.cut(14 * SECOND)
    assert segment is not None
    audio.heard(segment, Transcript(words("a b")))
    again = audio.cut(14 * SECOND)
    assert again is None
    assert audio.so_far().words == words("a b")


def test_an_empty_cut_is_none() -> None:
    assert turn(2).cut(SECOND) is None

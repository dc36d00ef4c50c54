"""Pieces of a turn: cuts, overlaps and joins."""

import weakref
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stt_server.events import SAMPLE_RATE, Audio, Samples, Transcript, Word
from stt_server.turns.segments import TurnAudio, join

SECOND = SAMPLE_RATE


def words(text: str, *, start: int = 0, step: int = SECOND // 2) -> tuple[Word, ...]:
    return tuple(
        Word(word, start + index * step, start + (index + 1) * step)
        for index, word in enumerate(text.split())
    )


def spoken(joined: tuple[Word, ...]) -> str:
    return " ".join(word.text for word in joined)


def second(at: int) -> Audio:
    """One second of a turn that begins at second 1; its samples say which one."""
    return Audio((1 + at) * SECOND, np.full(SECOND, at, dtype=np.float32), speech=True)


def turn(seconds: int, *, window_s: int = 40, silence_s: int = 3) -> TurnAudio:
    audio = TurnAudio(
        0, leading_silence_samples=silence_s * SECOND, window_samples=window_s * SECOND
    )
    for at in range(seconds):
        audio.append(second(at))
    return audio


def span(piece: Audio | None) -> tuple[float, float] | None:
    return None if piece is None else (piece.start / SECOND, piece.end / SECOND)


def next_piece(audio: TurnAudio) -> Audio:
    piece = audio.piece()
    assert piece is not None
    return piece


# Joining


def test_join_aligns_without_case_and_punctuation_and_keeps_the_engines_spelling() -> None:
    joined = join(words("Please send the report,"), words("the report. To Anna today."), seam=0)
    assert spoken(joined) in {
        "Please send the report, To Anna today.",
        "Please send the report. To Anna today.",
    }


def test_join_without_shared_words_changes_over_at_the_seam() -> None:
    before, after = words("one two thrum fur"), words("free for five six", start=SECOND)
    # Both heard 1.0-2.0 s, and nothing alike: the seam lies between its two words.
    assert spoken(join(before, after, seam=SECOND * 3 // 2)) == "one two thrum for five six"


def test_join_keeps_what_only_the_later_piece_heard() -> None:
    before, after = words("one two"), words("three four", start=4 * SECOND)
    assert spoken(join(before, after, seam=7 * SECOND)) == "one two three four"
    assert spoken(join((), after, seam=7 * SECOND)) == "three four"


# Pieces


def test_a_second_piece_begins_with_overlap() -> None:
    audio = turn(12)
    audio.cut(9 * SECOND)
    first = next_piece(audio)
    assert span(first) == (1, 9)
    audio.heard(first, Transcript(words("a b c")))
    audio.cut(13 * SECOND)
    second_piece = next_piece(audio)
    assert span(second_piece) == (4, 13)
    assert second_piece.samples[0] == 3.0


def test_without_a_cut_there_is_no_piece() -> None:
    assert turn(12).piece() is None


def test_cuts_that_wait_make_one_piece() -> None:
    audio = turn(12)
    for at in (3, 6, 9):
        audio.cut(at * SECOND)
    assert span(audio.piece()) == (1, 9)


def test_a_postponed_piece_is_part_of_the_next_one() -> None:
    audio = turn(6)
    audio.cut(3 * SECOND)
    assert audio.piece() is not None
    audio.postpone()
    assert audio.piece() is None
    audio.cut(7 * SECOND)
    assert span(audio.piece()) == (1, 7)


def test_a_postponed_piece_is_heard_at_the_end_in_any_case() -> None:
    audio = turn(6)
    audio.cut(7 * SECOND)
    assert audio.piece() is not None
    audio.postpone()
    audio.end()
    assert span(audio.piece()) == (1, 7)


def test_what_waited_too_long_is_heard_in_pieces_that_fit_and_end_at_cuts() -> None:
    audio = turn(0, window_s=12)
    for at in range(30):
        audio.append(second(at))
        if at + 2 in (5, 11, 14, 20, 26):
            audio.cut((at + 2) * SECOND)
    audio.end()
    spans: list[tuple[float, float] | None] = []
    while (piece := audio.piece()) is not None:
        spans.append(span(piece))
        audio.heard(piece, Transcript())
    assert spans == [(1, 11), (6, 14), (9, 20), (15, 26), (21, 31)]


def test_a_turn_without_cuts_is_cut_before_the_window_is_full() -> None:
    audio = turn(16, window_s=20)
    assert span(audio.piece()) == (1, 17)


# Silence inside a turn


def silence_after(audio: TurnAudio, *, first: int, seconds: int) -> None:
    audio.pause((1 + first) * SECOND)
    for at in range(first, first + seconds):
        audio.append(second(at))


def test_leading_silence_of_a_piece_is_left_out_and_then_nothing_overlaps() -> None:
    audio = turn(4)
    audio.cut(5 * SECOND)
    audio.heard(next_piece(audio), Transcript())
    silence_after(audio, first=4, seconds=12)
    audio.resume(17 * SECOND)
    for at in range(16, 20):
        audio.append(second(at))
    audio.cut(21 * SECOND)
    assert span(audio.piece()) == (14, 21)


def test_speech_too_short_for_a_cut_does_not_go_with_the_silence_after_it() -> None:
    audio = turn(1)
    silence_after(audio, first=1, seconds=12)
    audio.resume(14 * SECOND)
    audio.append(second(13))
    audio.cut(15 * SECOND)
    yes = next_piece(audio)
    assert span(yes) == (1, 2)
    audio.heard(yes, Transcript(words("yes", start=SECOND)))
    assert span(audio.piece()) == (11, 15)


def test_speech_too_short_for_a_cut_is_heard_once_the_silence_is_long() -> None:
    audio = turn(1)
    silence_after(audio, first=1, seconds=3)
    assert audio.piece() is None
    silence_after(audio, first=4, seconds=1)
    assert span(audio.piece()) == (1, 2)


def test_a_failed_piece_does_not_go_with_the_silence_after_it() -> None:
    audio = turn(4)
    audio.cut(5 * SECOND)
    assert audio.piece() is not None
    audio.postpone()
    silence_after(audio, first=4, seconds=12)
    audio.resume(17 * SECOND)
    audio.append(second(16))
    audio.cut(18 * SECOND)
    assert span(audio.piece()) == (1, 5)


def test_endless_silence_is_not_kept() -> None:
    audio = turn(2, window_s=10)
    silence_after(audio, first=2, seconds=3_590)
    kept: list[weakref.ref[Samples]] = []
    for at in range(3_592, 3_602):
        part = second(at)
        kept.append(weakref.ref(part.samples))
        audio.append(part)
        del part
    assert sum(samples() is not None for samples in kept) <= 4
    audio.resume(3_603 * SECOND)
    audio.end()
    first = next_piece(audio)
    assert span(first) == (1, 3)
    audio.heard(first, Transcript())
    last = next_piece(audio)
    assert span(last) == (3_600, 3_603)
    assert len(last.samples) == 3 * SECOND
    assert audio.whole is None


def test_silence_is_counted_from_where_speech_stopped() -> None:
    audio = turn(4)
    assert audio.silence_samples == 0
    silence_after(audio, first=4, seconds=2)
    assert audio.silence_samples == 2 * SECOND
    audio.resume(7 * SECOND)
    assert audio.silence_samples == 0


def test_the_whole_turn_ends_where_the_pause_was_told() -> None:
    audio = turn(4)
    silence_after(audio, first=4, seconds=2)
    assert audio.whole == (SECOND, 5 * SECOND)
    audio.resume(7 * SECOND)
    assert audio.whole == (SECOND, 7 * SECOND)


# Words


def test_words_no_later_piece_hears_are_stable() -> None:
    audio = turn(12)
    audio.cut(13 * SECOND)
    text = words("a b c d", start=3 * SECOND // 2, step=2 * SECOND)
    # What ends after 8 s is heard again, and the 7.5 s of "c" may be wrong by a second.
    assert audio.heard(next_piece(audio), Transcript(text)).stable == 2


def test_stable_words_stay_whatever_a_later_piece_says() -> None:
    audio = turn(20)
    audio.cut(13 * SECOND)
    first = audio.heard(next_piece(audio), Transcript(words("no no no no", start=SECOND)))
    assert first.stable == 4
    audio.cut(20 * SECOND)
    again = audio.heard(next_piece(audio), Transcript(words("no yes", start=8 * SECOND)))
    assert spoken(again.words) == "no no no no no yes"


def test_a_piece_that_begins_with_the_turn_replaces_all_words() -> None:
    audio = turn(6)
    audio.cut(4 * SECOND)
    audio.heard(next_piece(audio), Transcript(words("pleas sent", start=SECOND)))
    audio.cut(7 * SECOND)
    heard = audio.heard(next_piece(audio), Transcript(words("Please send it", start=SECOND)))
    assert spoken(heard.words) == "Please send it"


def test_a_turn_longer_than_the_window_is_not_whole() -> None:
    assert turn(12, window_s=12).whole == (SECOND, 13 * SECOND)
    assert turn(13, window_s=12).whole is None


def test_a_piece_given_up_is_left_behind() -> None:
    audio = turn(4)
    audio.cut(3 * SECOND)
    audio.give_up(next_piece(audio))
    audio.end()
    assert span(audio.piece()) == (1, 5)
    assert audio.so_far().words == ()


@dataclass(frozen=True)
class Step:
    speech: int
    silence: int
    cut: bool
    hear: str


STEPS = st.builds(
    Step,
    speech=st.integers(1, 9),
    silence=st.integers(0, 12),
    cut=st.booleans(),
    hear=st.sampled_from(["heard", "postpone", "wait"]),
)


@given(st.lists(STEPS, min_size=1, max_size=12), st.integers(4, 40), st.integers(0, 6))
def test_every_second_of_speech_is_in_a_piece_and_pieces_fit_the_window(
    steps: list[Step], window_s: int, silence_s: int
) -> None:
    audio = turn(0, window_s=window_s, silence_s=silence_s)
    speech: set[int] = set()
    covered: set[int] = set()

    def hear(piece: Audio) -> None:
        assert len(piece.samples) <= window_s * SECOND
        seconds = range(int(piece.start / SECOND - 1), int(piece.end / SECOND - 1))
        # What is in it is what was said there, without a gap.
        assert piece.samples[::SECOND].tolist() == list(seconds)
        covered.update(seconds)
        audio.heard(piece, Transcript())

    at = 0
    for step in steps:
        for _ in range(step.speech):
            audio.append(second(at))
            speech.add(at)
            at += 1
        audio.pause((1 + at) * SECOND)
        if step.cut:
            audio.cut((1 + at) * SECOND)
        for _ in range(step.silence):
            audio.append(second(at))
            at += 1
        piece = audio.piece()
        if piece is not None and step.hear == "heard":
            hear(piece)
        elif piece is not None and step.hear == "postpone":
            audio.postpone()
        audio.resume((1 + at) * SECOND)
    audio.end()
    while (piece := audio.piece()) is not None:
        hear(piece)
    assert speech <= covered

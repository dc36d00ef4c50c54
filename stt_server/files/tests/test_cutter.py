"""Where files are cut."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stt_server.events import SAMPLE_RATE, WINDOW_SAMPLES, Audio
from stt_server.files.cutter import Cutter
from stt_server.settings import EndpointingMode, EndpointingSettings

SETTINGS = EndpointingSettings()
PRE_ROLL = SETTINGS.pre_roll_ms * SAMPLE_RATE // 1_000
GAP = SETTINGS.small_gap_ms * SAMPLE_RATE // 1_000


def windows(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE / WINDOW_SAMPLES)


def timeline(*spans: float) -> list[float]:
    """Probabilities: silence and speech in turn, each of so many seconds."""
    return [
        probability
        for index, span in enumerate(spans)
        for probability in [0.99 if index % 2 else 0.01] * windows(span)
    ]


def cut(
    probabilities: list[float],
    *,
    settings: EndpointingSettings = SETTINGS,
    longest_s: float = 40.0,
    step: int = 31,
) -> list[Audio]:
    """The pieces of a file whose samples are their own positions."""
    cutter = Cutter(settings, longest=round(longest_s * SAMPLE_RATE))
    pieces: list[Audio] = []
    for at in range(0, len(probabilities), step):
        part = probabilities[at : at + step]
        samples = np.arange(at * WINDOW_SAMPLES, (at + len(part)) * WINDOW_SAMPLES)
        pieces += cutter.push(samples.astype(np.float32), part)
    return pieces + cutter.finish()


def spans(pieces: list[Audio]) -> list[tuple[int, int]]:
    return [(piece.start, piece.end) for piece in pieces]


def test_silence_gives_nothing() -> None:
    assert cut(timeline(30.0)) == []


def test_a_turn_is_a_piece_with_its_pre_roll_and_a_gap_behind() -> None:
    (piece,) = cut(timeline(2.0, 3.0, 4.0))
    start, end = windows(2.0) * WINDOW_SAMPLES, windows(5.0) * WINDOW_SAMPLES

    assert piece.start == start - PRE_ROLL
    assert end + GAP <= piece.end <= end + GAP + 2 * WINDOW_SAMPLES


def test_turns_are_pieces_of_their_own() -> None:
    assert len(cut(timeline(1.0, 2.0, 2.0, 0.3, 3.0, 5.0, 2.0))) == 3


def test_a_short_word_is_not_lost() -> None:
    assert len(cut(timeline(3.0, 0.2, 3.0))) == 1


def test_speech_at_the_end_of_a_file_is_kept_to_its_last_sample() -> None:
    probabilities = timeline(1.0, 2.0)
    (piece,) = cut(probabilities)

    assert piece.end == len(probabilities) * WINDOW_SAMPLES


def test_pauses_do_not_cut_a_turn_that_is_short_enough() -> None:
    assert len(cut(timeline(1.0, 4.0, 0.6, 4.0, 0.6, 4.0, 2.0))) == 1


def test_a_long_turn_is_cut_at_its_pauses_and_both_sides_have_the_silence() -> None:
    pieces = cut(timeline(0.5, *[12.0, 0.6] * 5, 12.0, 2.0))

    assert len(pieces) == 3
    for left, right in pairwise(pieces):
        assert GAP <= left.end - right.start <= GAP + 2 * WINDOW_SAMPLES


def test_speech_without_pauses_is_cut_without_a_gap_or_an_overlap() -> None:
    pieces = cut(timeline(0.5, 100.0, 2.0))

    assert len(pieces) >= 3
    for left, right in pairwise(pieces):
        assert left.end == right.start


def test_the_pause_behind_a_cut_is_no_piece_when_the_turn_ends_there() -> None:
    assert len(cut(timeline(0.5, 25.0, 5.0))) == len(cut(timeline(0.5, 25.0, 0.5)))


def test_a_server_whose_turns_end_by_flush_alone_still_cuts_files_at_silences() -> None:
    settings = EndpointingSettings(mode=EndpointingMode.NONE)

    assert len(cut(timeline(1.0, 2.0, 3.0, 2.0, 3.0), settings=settings)) == 2


spoken = st.lists(st.floats(0.1, 30.0), min_size=2, max_size=12)


@given(spoken, st.integers(1, 200), st.sampled_from([10.0, 30.0, 40.0]))
def test_pieces_hold_all_speech_in_order_and_are_no_longer_than_allowed(
    lengths: list[float], step: int, longest_s: float
) -> None:
    probabilities = timeline(*lengths)
    pieces = cut(probabilities, longest_s=longest_s, step=step)

    held = np.zeros(len(probabilities) * WINDOW_SAMPLES, dtype=bool)
    for piece in pieces:
        assert np.array_equal(piece.samples, np.arange(piece.start, piece.end, dtype=np.float32))
        assert len(piece.samples) <= longest_s * SAMPLE_RATE
        held[piece.start : piece.end] = True
    assert spans(pieces) == sorted(spans(pieces))
    speech = np.repeat(np.array(probabilities) > 0.5, WINDOW_SAMPLES)
    assert held[speech].all()


@given(spoken, st.integers(1, 200))
def test_how_a_file_is_read_does_not_change_where_it_is_cut(
    lengths: list[float], step: int
) -> None:
    probabilities = timeline(*lengths)

    assert spans(cut(probabilities, step=step)) == spans(cut(probabilities))

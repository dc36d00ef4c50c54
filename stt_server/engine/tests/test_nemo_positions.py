"""Where samples of the worker's stream are in the session, and what is kept of a pause."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stt_server.engine.nemo_positions import (
    HANGOVER_SAMPLES,
    UNHEARD_SAMPLES,
    Clock,
    HeldSilence,
)
from stt_server.events import Audio

spans = st.lists(
    st.tuples(st.integers(0, 50_000), st.integers(1, 50_000), st.integers(0, 20_000)), min_size=1
)


@given(spans=spans, forgets=st.booleans())
def test_positions_come_back_across_gaps_and_padding(
    spans: list[tuple[int, int, int]], forgets: bool
) -> None:
    clock, mine, theirs = Clock(), 0, 0
    for gap, length, padding in spans:
        theirs += gap
        clock.at(mine, theirs)
        clock.at(mine + length // 2, theirs + length // 2)
        assert clock.session(mine) == theirs
        assert clock.session(mine + length - 1) == theirs + length - 1
        if forgets:
            clock.forget(mine)
            assert clock.session(mine) == theirs
        mine, theirs = mine + length + padding, theirs + length


@given(spans=spans)
def test_positions_never_run_backwards(spans: list[tuple[int, int, int]]) -> None:
    clock, mine, theirs = Clock(), 0, 0
    for gap, length, padding in spans:
        theirs += gap
        clock.at(mine, theirs)
        mine, theirs = mine + length + padding, theirs + length
    found = [clock.session(sample) for sample in range(0, mine, max(1, mine // 50))]
    assert found == sorted(found)


packets = st.lists(st.integers(1, 9_000), max_size=30)


def audio_of(sizes: list[int]) -> list[Audio]:
    """Packets of a ramp, so that each sample has its position as its value."""
    ends = np.cumsum(sizes).tolist()
    return [
        Audio(end - size, np.arange(end - size, end, dtype=np.float32))
        for size, end in zip(sizes, ends, strict=True)
    ]


@given(sizes=packets)
def test_the_newest_silence_is_kept_and_no_more_than_two_seconds(sizes: list[int]) -> None:
    silence, end = HeldSilence(), sum(sizes)
    for audio in audio_of(sizes):
        silence.keep(audio)
    hangover = silence.hangover()
    if not end:
        assert hangover is None
        return
    assert hangover is not None
    start = max(0, end - HANGOVER_SAMPLES)
    assert (hangover.start, hangover.end) == (start, end)
    assert hangover.samples.tolist() == list(range(start, end))
    unheard = silence.take_unheard()
    assert unheard.tolist() == list(range(max(0, end - UNHEARD_SAMPLES), end))


@given(before=packets, after=packets)
def test_silence_is_unheard_once(before: list[int], after: list[int]) -> None:
    silence, middle = HeldSilence(), sum(before)
    for index, audio in enumerate(audio_of(before + after)):
        if index == len(before):
            silence.take_unheard()
        silence.keep(audio)
    end = middle + sum(after)
    if not after:
        silence.take_unheard()
    assert silence.take_unheard().tolist() == list(range(max(middle, end - UNHEARD_SAMPLES), end))

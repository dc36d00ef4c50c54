"""The simulation is what it says it is, and the stage's final is the best text of a turn."""

import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("strops")
sys.path.insert(0, str(Path(__file__).parents[1]))

import segment_stage
import simulated_speech
from segment_stage import LONG_S, errors_in, measure
from simulated_speech import SimulatedEngine, say

from stt_server.engine.base import StreamOptions
from stt_server.events import SAMPLE_RATE, Audio, Transcript
from stt_server.stages.tests.virtual_time import run


def hear(engine: SimulatedEngine, start_s: float, end_s: float) -> Transcript:
    start, end = round(start_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE)
    silence = np.zeros(end - start, dtype=np.float32)
    return run(engine.transcribe(Audio(start, silence), StreamOptions()))


def text(transcript: Transcript) -> list[str]:
    return [word.text for word in transcript.words]


def test_speech_has_words_in_order_and_pauses_that_cut() -> None:
    speech = say(random.Random(1), 20.0)
    gaps = [b.start - a.end for a, b in zip(speech.words, speech.words[1:], strict=False)]
    assert min(gaps) >= 0
    assert sum(gap > 0.3 * SAMPLE_RATE for gap in gaps) >= 3
    assert 2.0 < len(speech.words) / speech.seconds < 3.5


def test_without_errors_a_whole_turn_is_heard_as_it_was_said() -> None:
    speech = say(random.Random(1), 20.0)
    engine = SimulatedEngine(speech, 0.0, seed=1)
    assert errors_in(speech, text(hear(engine, 0, speech.samples / SAMPLE_RATE))) == 0


def test_errors_come_at_about_their_rate_and_are_the_same_for_the_same_piece() -> None:
    speech = say(random.Random(1), 400.0)
    engine = SimulatedEngine(speech, 0.1, seed=1)
    end_s = speech.samples / SAMPLE_RATE
    heard = hear(engine, 0, end_s)
    assert heard == hear(engine, 0, end_s)
    assert 0.07 < errors_in(speech, text(heard)) / len(speech.words) < 0.15


def test_some_errors_depend_on_the_piece() -> None:
    speech = say(random.Random(1), 400.0)
    engine = SimulatedEngine(speech, 0.2, seed=1)
    end_s = speech.samples / SAMPLE_RATE
    one, other = (set(text(hear(engine, start_s, end_s))) for start_s in (0.0, 0.5))
    assert one != other


def test_the_final_beats_the_interim_and_that_beats_plain_joining() -> None:
    tally = measure(0.05, 5, 8)
    assert tally.final < tally.interim < tally.plain


def test_overlap_helps_turns_that_are_stitched() -> None:
    with_overlap, without = (measure(0.1, overlap_s, 3, LONG_S) for overlap_s in (5, 0))
    assert with_overlap.final < without.final


def test_stable_words_never_change() -> None:
    tally = measure(0.2, 5, 4, LONG_S)
    assert tally.interims > 20
    assert tally.unstable == 0


def test_most_finals_are_nearly_ready_when_the_turn_ends() -> None:
    tally = measure(0.0, 5, 8)
    longest_call_s = (
        simulated_speech.CALL_S + simulated_speech.CALL_S_PER_S * segment_stage.SHORT_S[1]
    )
    assert sorted(tally.waits_s)[len(tally.waits_s) // 2] < longest_call_s / 4


def test_the_report_has_a_row_per_overlap_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_stage, "ERROR_RATES", (0.0, 0.05))
    monkeypatch.setattr(segment_stage, "LONG_S", (41.0, 42.0))
    rows = re.findall(r"^\| (?!---)", segment_stage.report(turns=1), re.MULTILINE)
    assert len(rows) == 1 + 2 * len(segment_stage.OVERLAPS_S)

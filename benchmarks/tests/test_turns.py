"""The clips are what they say, and a replay of recorded answers ends turns where asking did."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1]))

import turn_clips
from turn_clips import HESITATION_S, LEAD_S, Clip, digits, english
from turn_report import Curve
from turn_runs import AGAIN_SAMPLES, Heard, Outcome, Point, Recorder, decide, measure, separation
from turn_voices import Voice

from stt_server.events import SAMPLE_RATE, WINDOW_SAMPLES, Audio, Samples, TurnEndReason
from stt_server.settings import DetectorName, EndpointingSettings

WORD_S = 0.4
SMART_TURN = DetectorName.SMART_TURN


# Clips


def say(text: str) -> Samples:
    """0.4 s of sound for each word."""
    return np.full(round(len(text.split()) * WORD_S * SAMPLE_RATE), 0.5, dtype=np.float32)


@dataclass
class Part:
    word: str
    start_frame: int
    end_frame: int


class Aligner:
    """Finds each word where `say` put it."""

    def set_align_text(self, text: str) -> None:
        self._words = text.split()

    def start_utt(self) -> None: ...

    def process_raw(self, sound: bytes, *, full_utt: bool) -> None: ...

    def end_utt(self) -> None: ...

    def seg(self) -> list[Part]:
        frames = round(100 * WORD_S)
        starts = [20 + frames * index for index in range(len(self._words))]
        words = zip(self._words, starts, strict=True)
        return [Part("<sil>", 0, 19), *(Part(word, at, at + frames - 1) for word, at in words)]


def loud_runs(clip: Clip) -> list[tuple[float, float]]:
    """Start and end of each stretch of sound, in seconds."""
    loud = np.flatnonzero(np.diff(np.concatenate(([0], np.abs(clip.samples) > 0.1, [0]))))
    return [(start / SAMPLE_RATE, end / SAMPLE_RATE) for start, end in loud.reshape(-1, 2)]


def test_a_speaker_stops_where_the_text_says_for_as_long_as_a_hesitation_takes() -> None:
    clips = english([Voice(say, Aligner())])
    clip = next(clip for clip in clips if clip.name == "hesitant 0 0")

    (start, stop), (resumed, end) = loud_runs(clip)

    text = turn_clips.HESITATIONS[0].split(" | ")
    assert start == pytest.approx(LEAD_S, abs=0.01)
    assert stop - start == pytest.approx(len(text[0].split()) * WORD_S, abs=0.02)
    assert HESITATION_S[0] < resumed - stop < HESITATION_S[1] + 0.02
    assert end - resumed == pytest.approx(len(text[1].split()) * WORD_S, abs=0.02)
    assert clip.end == pytest.approx(end * SAMPLE_RATE, abs=160)


def test_there_are_clips_of_every_kind_and_each_is_whole_windows() -> None:
    clips = english([Voice(say, Aligner())])

    assert {clip.kind for clip in clips} == {
        "sentence",
        "hesitant",
        "one word",
        "long",
        "in a row",
    }
    assert all(len(clip.samples) % WINDOW_SAMPLES == 0 for clip in clips)
    assert all(len(loud_runs(clip)) == 1 for clip in clips if clip.kind == "one word")


def test_digits_are_taken_turn_by_turn(tmp_path: Path) -> None:
    samples = np.zeros(10 * SAMPLE_RATE, dtype=np.float32)
    words = [(1.0, 1.4), (1.5, 1.9), (5.0, 5.5)]
    for start, end in words:
        samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)] = 0.5
    soundfile.write(tmp_path / "two.flac", samples, SAMPLE_RATE)
    entry = {
        "file": "two.flac",
        "kind": "long",
        "words": [{"start": start, "end": end} for start, end in words],
        "turns": [{"start": 1.0, "end": 1.9}, {"start": 5.0, "end": 5.5}],
    }
    (tmp_path / "manifest.jsonl").write_text(json.dumps(entry))

    clips = [clip for clip in digits(tmp_path) if clip.kind != "hesitant"]

    assert [clip.kind for clip in clips] == ["sentence", "one word"]
    assert [len(loud_runs(clip)) for clip in clips] == [2, 1]
    assert clips[1].end == round((LEAD_S + 0.5) * SAMPLE_RATE)


# Runs


def windows(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE / WINDOW_SAMPLES)


def scripted(*spans_s: float) -> Heard:
    """Silence, speech, silence, speech ... of these lengths, and 4 s of silence."""
    levels: list[float] = []
    for index, span_s in enumerate(spans_s):
        levels += [float(index % 2)] * windows(span_s)
    end = len(levels) * WINDOW_SAMPLES
    levels += [0.0] * windows(4.0)
    samples = np.zeros(len(levels) * WINDOW_SAMPLES, dtype=np.float32)
    return Heard(Clip("scripted", "sentence", samples, end), levels)


class Patient:
    """A `TurnDetector` that is surer the more it has heard."""

    reason = TurnEndReason.TURN_MODEL

    def __init__(self) -> None:
        self._heard = 0
        self.asked = 0

    async def hear(self, audio: Audio) -> None:
        self._heard += len(audio.samples)

    async def judge(self) -> float | None:
        self.asked += 1
        return min(1.0, self._heard / (6 * SAMPLE_RATE))

    async def reset(self) -> None:
        self._heard = 0

    async def close(self) -> None: ...


async def test_silence_ends_a_turn_after_its_time_and_not_in_a_shorter_pause() -> None:
    heard = scripted(0.5, 1.0, 0.6, 1.0)

    outcome = await decide(heard, EndpointingSettings(silence_ms=800))

    assert outcome is not None
    assert not outcome.is_cut
    assert 0.8 <= outcome.delay_s <= 0.84
    assert outcome.reason is TurnEndReason.SILENCE


async def test_a_turn_that_ends_in_its_own_pause_is_cut_off() -> None:
    outcome = await decide(scripted(0.5, 1.0, 0.6, 1.0), EndpointingSettings(silence_ms=500))

    assert outcome is not None
    assert outcome.is_cut


async def test_a_clip_in_which_no_speech_is_found_has_no_outcome() -> None:
    assert await decide(scripted(2.0), EndpointingSettings()) is None


@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.6, 0.7, 0.8])
async def test_replayed_answers_end_the_turn_where_the_detector_did(threshold: float) -> None:
    heard = scripted(0.5, 1.0, 0.7, 1.0)
    settings = EndpointingSettings(detector=SMART_TURN, small_gap_ms=200, check_ms=160)
    detector = Patient()
    await decide(heard, settings, Recorder(detector, heard.answers.setdefault(SMART_TURN, {})))
    assert detector.asked > 8
    chosen = settings.model_copy(update={"turn_threshold": threshold})

    live = await decide(heard, chosen, Patient())
    (replayed,) = (await measure([heard], chosen, [SMART_TURN])).outcomes

    assert replayed == live


# What is reported


def point(cut: int, delay_s: float) -> Point:
    """Of ten turns."""
    silence = TurnEndReason.SILENCE
    outcomes = [Outcome("sentence", -1.0, silence)] * cut
    outcomes += [Outcome("sentence", delay_s, silence)] * (10 - cut)
    return Point(EndpointingSettings(), outcomes, 0)


def test_the_best_settings_are_the_soonest_of_those_that_cut_off_few_enough() -> None:
    soon, slow, slower = point(5, 0.2), point(1, 0.9), point(0, 1.5)
    curve = Curve("silence", [soon, slow, slower], ())

    assert [curve.best(limit) for limit in (60, 20, 5)] == [soon, slow, slower]
    assert Curve("silence", [soon], ()).best(5) is None


def test_cut_turns_have_no_delay_and_answers_of_detectors_cost_time() -> None:
    turns = [
        Outcome("sentence", -1.0, TurnEndReason.TURN_MODEL),
        Outcome("sentence", 0.3, TurnEndReason.TURN_MODEL),
        Outcome("sentence", 1.5, TurnEndReason.SILENCE),
    ]
    measured = Point(EndpointingSettings(), turns, 0)

    assert measured.cut_percent == pytest.approx(100 / 3)
    assert measured.delay_ms(0.0, 0.1) == pytest.approx(400)
    assert measured.delay_ms(1.0, 0.1) == pytest.approx(1_500)


def test_only_the_first_answer_in_a_pause_tells_ends_and_pauses_apart() -> None:
    heard = scripted(0.5, 1.0, 0.7, 1.0)
    end = heard.clip.end
    first, later = (0, end - 20_000), (0, end - 20_000 + AGAIN_SAMPLES)
    heard.answers[SMART_TURN] = {first: 0.4, later: 0.99, (0, end + 4_000): 0.6}

    assert separation([heard], SMART_TURN) == 1.0
    heard.answers[SMART_TURN][first] = 0.6
    assert separation([heard], SMART_TURN) == 0.5
    assert separation([heard], DetectorName.EOU) is None

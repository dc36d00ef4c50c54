"""From messages and times to lags."""

import json
from typing import Any

import pytest

from stt_server.bench.measured import Measured
from stt_server.bench.observer import NativeObserver, SiblingObserver, Timeline, Window
from stt_server.clients.messages import parse_message
from stt_server.clients.siblings import FastConformerDialect, ParakeetDialect
from stt_server.protocols.native_messages import TranscriptionSegment

PACKET = 1_600
BEGAN = 100.0
"""The first packet, of 100 ms, is due at 100.1."""
READY = {"type": "ready", "sessionId": "s", "config": {"endpointing": {"silenceMs": 700}}}


class Heard:
    """A native client that hears messages at times."""

    def __init__(self, window: Window | None = None) -> None:
        self.measured = Measured()
        timeline = Timeline(BEGAN, PACKET)
        self.observer = NativeObserver(timeline, window or Window(), self.measured)

    def hear(self, at: float, **message: Any) -> None:
        self.observer.hear(parse_message(json.dumps(message)), at)

    def interim(self, at: float, *words: tuple[str, float], **more: Any) -> None:
        self.hear(at, **segment(words, is_final=False), **more)

    def final(self, at: float, *words: tuple[str, float], stopped: float, reason: str) -> None:
        self.hear(at, type="speechStopped", time=stopped, turnId=0)
        self.hear(at, **segment(words, is_final=True))
        self.hear(at, type="endOfTurn", turnId=0, reason=reason)


def segment(words: tuple[tuple[str, float], ...], *, is_final: bool) -> dict[str, Any]:
    listed = [{"word": word, "start": end - 0.2, "end": end} for word, end in words]
    return {
        "text": " ".join(word for word, _ in words),
        "isFinal": is_final,
        "isEndOfTurn": is_final,
        "start": 0.0,
        "end": 2.0,
        "words": listed,
    }


def ms(durations: list[float]) -> list[float]:
    return [round(duration * 1_000) for duration in durations]


def test_audio_is_due_with_its_packet() -> None:
    timeline = Timeline(BEGAN, PACKET)

    assert [timeline.due(sample) for sample in (0, 1, 1_600, 1_601)] == pytest.approx(
        [100.1, 100.1, 100.1, 100.2]
    )
    assert [timeline.sent(at) for at in (99.0, 100.09, 100.1, 100.25)] == [0, 0, 1_600, 3_200]


def test_each_new_word_has_a_lag_from_its_end() -> None:
    heard = Heard()
    heard.interim(100.65, ("please", 0.5))
    heard.interim(101.05, ("please", 0.5), ("send", 0.8), ("the", 0.95))

    # The end of 0.95 s is due with the packet that ends at 1.0 s.
    assert ms(heard.measured.lags) == [150, 250, 50]
    assert heard.measured.lag_kinds == {"word": 3}


def test_a_word_that_changes_is_not_new() -> None:
    heard = Heard()
    heard.interim(100.65, ("pleas", 0.5))
    heard.interim(101.65, ("please", 0.5))
    heard.interim(101.65)
    heard.interim(101.65, ("please", 0.5))

    assert ms(heard.measured.lags) == [150]


def test_words_start_anew_with_each_turn_and_those_of_finals_are_counted_apart() -> None:
    heard = Heard()
    heard.interim(100.65, ("yes", 0.5))
    heard.final(101.5, ("yes", 0.5), ("please", 0.7), stopped=0.7, reason="silence")
    heard.interim(103.15, ("no", 3.0))

    assert ms(heard.measured.lags) == [150, 150]
    assert heard.measured.words_first_in_final == 1


def test_guessed_word_times_are_not_used() -> None:
    heard = Heard()
    heard.interim(102.3, ("yes", 0.5), wordTimes="estimated")

    assert ms(heard.measured.lags) == [300]  # since the audio up to 2.0 s, the segment's end
    assert heard.measured.lag_kinds == {"heard": 1}


def test_the_silence_is_not_the_servers_share_of_a_final() -> None:
    heard = Heard()
    heard.hear(100.0, **READY)
    heard.final(102.75, ("yes", 0.5), stopped=2.0, reason="silence")

    assert ms(heard.measured.to_final) == [750]
    assert ms(heard.measured.own_share) == [50]


@pytest.mark.parametrize(("reason", "finals"), [("model_eou", 1), ("finish", 0), ("flush", 0)])
def test_only_silence_has_a_share_to_take_away(reason: str, finals: int) -> None:
    heard = Heard()
    heard.hear(100.0, **READY)
    heard.final(102.75, ("yes", 0.5), stopped=2.0, reason=reason)

    assert len(heard.measured.to_final) == finals
    assert heard.measured.own_share == []


def test_the_beginning_of_speech_is_timed() -> None:
    heard = Heard()
    heard.hear(100.62, type="speechStarted", time=0.5, turnId=0)

    assert ms(heard.measured.to_onset) == [120]


def test_what_comes_outside_the_window_does_not_count() -> None:
    heard = Heard(Window(opens=101.0, closes=102.0))
    heard.interim(100.65, ("a", 0.5))
    heard.interim(101.65, ("a", 0.5), ("b", 1.5))
    heard.interim(102.65, ("a", 0.5), ("b", 1.5), ("c", 2.5))
    heard.final(102.75, ("a", 0.5), stopped=2.0, reason="silence")

    assert ms(heard.measured.lags) == [150]
    assert heard.measured.to_final == []


def test_errors_are_counted_but_not_those_that_end_the_session() -> None:
    heard = Heard()
    heard.hear(100.1, error="no", code="INVALID_AUDIO")
    heard.hear(100.1, type="error", error="full", code="OVERLOADED", fatal=True)

    assert heard.measured.errors == {"INVALID_AUDIO": 1}


def speech_end(sample: int) -> int | None:
    """Speech in the first second of every two."""
    second = sample // 16_000
    return None if second % 2 == 0 else second * 16_000


class Listener:
    """A client of another protocol in audio with speech in the first second of every two."""

    def __init__(self) -> None:
        self.measured = Measured()
        timeline = Timeline(BEGAN, PACKET)
        self.observer = SiblingObserver(timeline, Window(), self.measured, speech_end)

    def hear(self, at: float, text: str, *, is_final: bool = False) -> None:
        message = TranscriptionSegment(text=text, is_final=is_final, is_end_of_turn=is_final)
        self.observer.hear(message, at)


def test_without_times_the_last_text_before_speech_goes_on_has_a_lag() -> None:
    heard = Listener()
    heard.hear(100.9, "one")  # while somebody speaks: nobody knows of what it is
    heard.hear(101.2, "one two")
    heard.hear(101.3, "one two three")
    heard.hear(102.4, "one two three four")
    heard.hear(103.1, "one two three four five")
    heard.observer.finish()

    assert ms(heard.measured.lags) == [300, 100]
    assert heard.measured.lag_kinds == {"tail": 2}


def test_without_times_a_final_is_timed_from_the_end_of_speech() -> None:
    heard = Listener()
    heard.hear(101.1, "one")
    heard.hear(101.8, "one", is_final=True)
    heard.hear(103.2, "two")
    heard.observer.finish()
    heard.hear(103.3, "two", is_final=True)  # asked for: no silence ended it

    assert ms(heard.measured.to_final) == [800]
    assert ms(heard.measured.lags) == [100, 200]


def test_errors_of_the_other_protocols_are_counted() -> None:
    heard = Listener()
    message = ParakeetDialect()
    message.parse('{"type":"hello","stream_id":1,"sample_rate":16000}')
    heard.observer.hear(message.parse('{"type":"error","message":"no"}'), 101.0)
    error = '{"op":"error","sid":"a","code":"INVALID_AUDIO","message":"no"}'
    heard.observer.hear(FastConformerDialect().parse(error), 101.0)

    assert heard.measured.errors == {"error": 1, "INVALID_AUDIO": 1}

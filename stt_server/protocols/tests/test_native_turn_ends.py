"""How the native protocol tells probable and real ends of turns, and answers to a flush."""

import json
from typing import Any

import pytest

from stt_server.errors import InvalidMessage
from stt_server.events import (
    SAMPLE_RATE,
    Flush,
    Hypothesis,
    SegmentEnded,
    SpeechStarted,
    StreamEvent,
    TurnCheck,
    TurnEagerEnd,
    TurnEnded,
    TurnEndReason,
    TurnResumed,
    Word,
)
from stt_server.protocols.base import ClientEvent
from stt_server.protocols.native import NativeCodec
from stt_server.protocols.native_config import Abilities
from stt_server.settings import SessionOptions

OPENED = SpeechStarted(0, opens_turn=True)
WORDS = tuple(
    Word(text, index * SAMPLE_RATE, (index + 1) * SAMPLE_RATE)
    for index, text in enumerate(("please", "send", "it"))
)


def codec_with(**query: str) -> NativeCodec:
    return NativeCodec(
        session_id="s-1",
        defaults=SessionOptions(),
        abilities=Abilities(
            frozenset({"scripted"}), detectors=frozenset({"silence", "eou"}), eager=True
        ),
        max_audio_bytes=2**20,
        query=query,
    )


def shown(codec: NativeCodec, *events: StreamEvent) -> list[dict[str, Any]]:
    return [json.loads(message) for event in events for message in codec.encode(event)]


def text(count: int, *, stable: int = 0, final: bool = False) -> Hypothesis:
    spelled = " ".join(word.text for word in WORDS[:count])
    settled = " ".join(word.text for word in WORDS[:stable])
    return Hypothesis(
        0,
        spelled if final else settled,
        "" if final else spelled[len(settled) :],
        WORDS[:count],
        0,
        count * SAMPLE_RATE,
        is_final=final,
        audio_samples=56_000 if final else 0,
    )


def eager(count: int) -> TurnEagerEnd:
    return TurnEagerEnd(count * SAMPLE_RATE, 0.4567, text(count).text)


def test_turn_with_an_eager_end_and_a_withdrawal_in_the_order_of_the_document() -> None:
    ended = TurnEnded(3 * SAMPLE_RATE, TurnEndReason.TURN_MODEL, 0.93)
    out = shown(
        codec_with(features="events"),
        OPENED,
        text(1),
        eager(1),
        TurnResumed(SAMPLE_RATE),
        text(3),
        TurnCheck(4 * SAMPLE_RATE),
        eager(3),
        ended,
        text(3, final=True),
    )

    assert [message for message in out if "type" in message] == [
        {"type": "speechStarted", "time": 0.0, "turnId": 0},
        {"type": "eagerEndOfTurn", "turnId": 0, "text": "please", "confidence": 0.457},
        {"type": "turnResumed", "turnId": 0},
        {"type": "eagerEndOfTurn", "turnId": 0, "text": "please send it", "confidence": 0.457},
        {"type": "speechStopped", "time": 3.0, "turnId": 0},
        {"type": "endOfTurn", "turnId": 0, "reason": "turn_model", "confidence": 0.93},
    ]


@pytest.mark.parametrize("query", [{}, {"eager": "true"}, {"features": "ids,times,words"}])
def test_client_without_events_is_told_of_neither(query: dict[str, str]) -> None:
    assert shown(codec_with(**query), OPENED, eager(1), TurnResumed(1)) == []


def test_eager_end_of_a_turn_in_pieces_tells_what_its_final_will_say() -> None:
    out = shown(
        codec_with(features="events", segment_finals="true", interim="false"),
        OPENED,
        SegmentEnded(2 * SAMPLE_RATE),
        text(3, stable=2),
        eager(3),
        TurnEnded(3 * SAMPLE_RATE, TurnEndReason.SILENCE),
        text(3, final=True),
    )

    texts = [message["text"] for message in out if "text" in message]
    assert texts == ["please send", "it", "it"]


def test_eager_end_is_not_told_when_all_words_are_final_already() -> None:
    out = shown(
        codec_with(features="events", segment_finals="true"),
        OPENED,
        SegmentEnded(2 * SAMPLE_RATE),
        text(2, stable=2),
        eager(2),
        TurnResumed(3 * SAMPLE_RATE),
    )

    assert {message.get("type") for message in out} <= {"speechStarted", None}


def test_usage_is_the_audio_of_the_turn_and_comes_with_its_final_alone() -> None:
    out = shown(
        codec_with(features="usage"),
        OPENED,
        text(2),
        TurnEnded(0, TurnEndReason.SILENCE),
        text(2, final=True),
    )

    assert ["usage" in message for message in out] == [False, True]
    assert out[1]["usage"] == {"type": "duration", "seconds": 3.5}


# Flush


def flushed(given: dict[str, object]) -> list[dict[str, Any]]:
    codec = codec_with()
    events: list[ClientEvent] = list(codec.decode(json.dumps({"type": "flush", **given})))
    return shown(codec, *(event for event in events if isinstance(event, Flush)))


@pytest.mark.parametrize("given", ["a" * 256, "é", "", 7, -1, 10**100, 0.5, True, False])
def test_answer_to_a_flush_bears_its_id(given: object) -> None:
    assert flushed({"id": given}) == [{"type": "flushed", "id": given}]


@pytest.mark.parametrize("given", [{}, {"id": None}])
def test_flush_needs_no_id(given: dict[str, object]) -> None:
    assert flushed(given) == [{"type": "flushed"}]


@pytest.mark.parametrize("given", ["a" * 257, 10**300, 10**4_000, [1], {"a": 1}])
def test_id_of_a_flush_is_short_and_simple(given: object) -> None:
    with pytest.raises(InvalidMessage, match="id of a flush"):
        flushed({"id": given})

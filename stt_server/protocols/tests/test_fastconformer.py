"""The FastConformer codec in both directions, message by message."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt_server.errors import BadMessage, BadOpening, ErrorCode, InvalidConfig
from stt_server.events import Finished, Hypothesis, StreamError, TurnEnded, TurnEndReason, Word
from stt_server.protocols.base import AudioFormat, Finish, Packet
from stt_server.protocols.fastconformer import (
    INTERIMS_PER_SECOND,
    MAX_OPENING,
    MAX_SID,
    FastConformerCodec,
    Opening,
    encode_error,
    endpointing_of,
    parse_opening,
)
from stt_server.settings import EndpointingSettings

MIB = 2**20
NOW = 1_790_000_000_123


class Clock:
    """Unix milliseconds that a test moves."""

    now = NOW

    def __call__(self) -> int:
        return self.now


def new_codec(sample_rate: int = 16_000, clock: Clock | None = None) -> FastConformerCodec:
    return FastConformerCodec(
        Opening("demo1", sample_rate),
        endpointing=endpointing_of({}, EndpointingSettings()),
        max_audio_bytes=MIB,
        now_ms=clock or Clock(),
    )


def heard(text: str, *, final: bool = False) -> Hypothesis:
    words = tuple(Word(word, 0, 1) for word in text.split())
    return Hypothesis(0, text if final else "", "" if final else text, words, 0, 1, final)


def sent(codec: FastConformerCodec, *events: Any) -> list[tuple[str, bool]]:
    """Text and `final` of each message."""
    messages = [json.loads(message) for event in events for message in codec.encode(event)]
    return [(message["text"], message["final"]) for message in messages]


def turn(*texts: str, reason: TurnEndReason = TurnEndReason.SILENCE) -> list[Any]:
    """Interims, then the last text as the final."""
    *interims, last = texts
    return [*map(heard, interims), TurnEnded(0, reason), heard(last, final=True)]


# The opening


@pytest.mark.parametrize(
    ("message", "opening"),
    [
        ('{"op":"init","sid":"a","sr":8000}', Opening("a", 8_000)),
        ('{"op":"init","sid":""}', Opening("", 16_000)),
        ('{"op":"init","sid":"ä","sr":48000,"model":"x"}', Opening("ä", 48_000)),
    ],
)
def test_openings(message: str, opening: Opening) -> None:
    assert parse_opening(message) == opening


@pytest.mark.parametrize(
    "message",
    [
        b'{"op":"init","sid":"a"}',
        b"\0\0",
        "",
        "init",
        "[]",
        '{"op":"init"}',
        '{"op":"init","sid":5}',
        '{"op":"init","sid":null}',
        '{"op":"init","sid":"a","sr":7999}',
        '{"op":"init","sid":"a","sr":48001}',
        '{"op":"init","sid":"a","sr":"16000"}',
        '{"op":"init","sid":"a","sr":16000.0}',
        '{"op":"init","sid":"a","sr":true}',
        '{"op":"init","sid":"a","sr":null}',
        '{"op":"close","sid":"a"}',
        '{"sid":"a","sr":16000}',
        json.dumps({"op": "init", "sid": "x" * (MAX_SID + 1)}),
        json.dumps({"op": "init", "sid": "x", "more": "x" * MAX_OPENING}),
    ],
)
def test_everything_else_is_a_bad_init(message: str | bytes) -> None:
    with pytest.raises(BadOpening, match=r"^Bad init$") as caught:
        parse_opening(message)
    assert caught.value.close_code == 1002


def test_silence_is_the_protocols_own_unless_the_url_says_so() -> None:
    defaults = EndpointingSettings(silence_ms=3_000, onset=0.6)

    own, asked = endpointing_of({}, defaults), endpointing_of({"silence_ms": "500"}, defaults)

    assert (own.silence_ms, own.stall_ms, own.onset) == (800, 0, 0.6)
    assert asked.silence_ms == 500


@pytest.mark.parametrize("silence_ms", ["", "soon", "99", "10001", "500.5", "-1"])
def test_silence_out_of_bounds_is_refused(silence_ms: str) -> None:
    with pytest.raises(InvalidConfig, match="silence_ms"):
        endpointing_of({"silence_ms": silence_ms}, EndpointingSettings())


# From the client


@pytest.mark.parametrize("size", [0, 2, 640, 1_280, MIB])
def test_binary_messages_are_audio_of_any_length(size: int) -> None:
    assert list(new_codec(8_000).decode(bytes(size))) == [Packet(bytes(size), AudioFormat(8_000))]


def test_close_ends_the_session_whatever_sid_it_names() -> None:
    assert list(new_codec().decode('{"op":"close","sid":"demo1"}')) == [Finish()]
    assert list(new_codec().decode('{"op":"close"}')) == [Finish()]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", ErrorCode.INVALID_JSON),
        ("", ErrorCode.INVALID_JSON),
        ("[]", ErrorCode.INVALID_MESSAGE),
        ("{}", ErrorCode.INVALID_MESSAGE),
        ('{"op":"dance"}', ErrorCode.INVALID_MESSAGE),
        ('{"op":"init","sid":"again"}', ErrorCode.INVALID_MESSAGE),
        (bytes(MIB + 1), ErrorCode.FRAME_TOO_LARGE),
        ("x" * (MIB + 1), ErrorCode.FRAME_TOO_LARGE),
    ],
)
def test_mistakes_have_their_codes(message: str | bytes, code: ErrorCode) -> None:
    with pytest.raises(BadMessage) as caught:
        new_codec().decode(message)
    assert caught.value.code is code


# To the client


def test_messages_are_exact() -> None:
    assert list(new_codec().encode(heard("the quick"))) == [
        '{"op":"interim","sid":"demo1","text":"the quick","final":false,"ts":1790000000123}'
    ]
    assert encode_error("demo1", StreamError("INVALID_JSON", "no")) == (
        '{"op":"error","sid":"demo1","code":"INVALID_JSON","message":"no"}'
    )


def test_text_is_that_of_the_whole_stream_and_each_turn_has_a_final() -> None:
    events = [*turn("one", "one two"), *turn("three", "three four"), Finished(9)]

    assert sent(new_codec(), *events) == [
        ("one", False),
        ("one two", True),
        ("one two three", False),
        ("one two three four", True),
        ("one two three four", True),
    ]


def test_turn_that_the_close_ends_has_one_final() -> None:
    events = [*turn("one", "one two", reason=TurnEndReason.FINISH), Finished(9)]

    assert sent(new_codec(), *events) == [("one", False), ("one two", True)]


def test_final_of_a_session_that_ends_in_an_error_is_not_lost() -> None:
    codec = new_codec()
    for event in turn("one", "one two", reason=TurnEndReason.FINISH):
        codec.encode(event)

    final, error = map(json.loads, codec.encode(StreamError("SERVER_SHUTDOWN", "bye", fatal=True)))

    assert (final["text"], final["final"]) == ("one two", True)
    assert (error["op"], error["code"]) == ("error", "SERVER_SHUTDOWN")


def test_turn_without_words_is_not_shown() -> None:
    assert sent(new_codec(), *turn("")) == []
    assert sent(new_codec(), *turn("hm", "")) == [("hm", False), ("", True)]


def test_session_without_speech_ends_with_empty_text() -> None:
    assert sent(new_codec(), Finished(0)) == [("", True)]


def test_only_another_text_is_worth_an_interim() -> None:
    assert len(sent(new_codec(), heard("one"), heard("one"))) == 1


def test_a_second_has_at_most_fifty_messages_and_the_final_is_among_them() -> None:
    clock = Clock()
    codec = new_codec(clock=clock)
    messages = sent(codec, *(heard(f"word {number}") for number in range(200)))
    assert len(messages) == INTERIMS_PER_SECOND < 50

    clock.now += 999
    assert sent(codec, heard("word 200")) == []
    assert sent(codec, TurnEnded(0, TurnEndReason.SILENCE), heard("word 200", final=True))
    clock.now += 1
    assert sent(codec, heard("more"))


# Anything


json_text = st.dictionaries(
    st.sampled_from(["op", "sid", "sr", "x"]),
    st.sampled_from(["init", "close", "interim", 16_000, None, [], {}]) | st.text(max_size=5),
).map(json.dumps)


@given(json_text | st.text(max_size=40) | st.binary(max_size=40))
def test_any_message_is_understood_or_refused(message: str | bytes) -> None:
    with suppress(BadMessage):
        assert all(isinstance(event, Packet | Finish) for event in new_codec().decode(message))
    with suppress(BadOpening):
        assert len(parse_opening(message).sid) <= MAX_SID

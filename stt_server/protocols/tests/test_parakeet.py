"""The parakeet codec in both directions, message by message."""

import base64
import json
import struct
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt_server.errors import BadMessage, BadOpening, ErrorCode, InvalidJson, MessageTooLarge
from stt_server.events import (
    Finished,
    Hypothesis,
    SpeechStarted,
    StreamError,
    Token,
    TurnEnded,
    TurnEndReason,
    Word,
)
from stt_server.protocols.base import (
    AudioFormat,
    Authenticate,
    ClientEvent,
    Encoding,
    Finish,
    Message,
    Packet,
    Refused,
    Reply,
)
from stt_server.protocols.parakeet import (
    MAX_MESSAGE_BYTES,
    NO_FREE_STREAM,
    ParakeetCodec,
    encode_error,
    encode_status,
)
from stt_server.settings import EndpointingSettings

PCM16 = AudioFormat(16_000, 1, Encoding.PCM16)
F32 = AudioFormat(16_000, 1, Encoding.F32)


def new_codec() -> ParakeetCodec:
    return ParakeetCodec(stream_id=17, endpointing=EndpointingSettings())


def decoded(message: Message) -> list[ClientEvent]:
    return list(new_codec().decode(message))


def refusals(message: Message) -> list[tuple[str, str]]:
    return [
        (event.error.code, str(event.error))
        for event in decoded(message)
        if isinstance(event, Refused)
    ]


def audio(**fields: object) -> str:
    return json.dumps({"type": "audio", **fields})


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def heard(text: str, *, stable: int = 0, final: bool = False, **fields: Any) -> Hypothesis:
    """A hypothesis of `text`, the first `stable` words of which will stay."""
    words = text.split()
    firm = " ".join(words[:stable])
    return Hypothesis(
        turn=0,
        stable=text if final else firm,
        unstable="" if final else text[len(firm) :],
        words=tuple(Word(word, 0, 1, fields.get("confidence")) for word in words),
        start=0,
        end=1,
        is_final=final,
    )


def results(codec: ParakeetCodec, *events: Any) -> list[dict[str, Any]]:
    return [json.loads(message) for event in events for message in codec.encode(event)]


# From the client


def test_greeting_is_exact() -> None:
    assert new_codec().hello == '{"type":"hello","stream_id":17,"sample_rate":16000}'


def test_status_and_refusal_are_exact() -> None:
    assert encode_status(3) == '{"type":"status","connected_streams":3}'
    refusal = encode_error(StreamError(ErrorCode.OVERLOADED, NO_FREE_STREAM, fatal=True))
    assert refusal == (
        '{"type":"error","message":"No free streaming state available.","code":"OVERLOADED"}'
    )


@pytest.mark.parametrize(
    ("message", "packet"),
    [
        (audio(data="AQIDBA=="), Packet(b"\1\2\3\4", PCM16)),
        (audio(data="AQIDBA==", encoding="pcm16", final=False), Packet(b"\1\2\3\4", PCM16)),
        (audio(data="AQIDBA==", encoding="f32"), Packet(b"\1\2\3\4", F32)),
        (audio(data="AQ\nIDBA=="), Packet(b"\1\2\3\4", PCM16)),
        (audio(data=""), Packet(b"", PCM16)),
        (audio(data="", encoding=None, final=None), Packet(b"", PCM16)),
        (audio(samples=[0, 0.5, -1]), Packet(struct.pack("<3f", 0, 0.5, -1), F32)),
        (audio(samples=[]), Packet(b"", F32)),
        (audio(data="AQIDBA==", language="de", seq=4), Packet(b"\1\2\3\4", PCM16)),
    ],
)
def test_audio_may_be_written_in_many_ways(message: str, packet: Packet) -> None:
    assert decoded(message) == [packet]
    assert decoded(message.encode()) == [packet]


@pytest.mark.parametrize("fields", [{"data": "AQI="}, {"data": ""}, {}, {"samples": []}])
def test_final_ends_the_stream_with_audio_or_without(fields: dict[str, object]) -> None:
    packet, finish = decoded(audio(final=True, **fields))

    assert isinstance(packet, Packet)
    assert finish == Finish()


def test_control_messages() -> None:
    assert decoded('{"type":"close"}') == [Finish()]
    assert decoded('{"type":"ping","id":3}') == [Reply('{"type":"pong"}')]
    assert decoded('{"type":"auth","token":"k"}') == [Authenticate("k")]
    assert decoded('{"type":"auth"}') == [Authenticate("")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\n\n \n"])
def test_several_lines_may_come_at_once(end: str) -> None:
    message = '{"type":"ping"}' + end + '{"type":"close"}' + end

    assert decoded(message) == [Reply('{"type":"pong"}'), Finish()]


def test_nothing_at_all_is_no_mistake() -> None:
    assert decoded("") == decoded("\r\n\n") == []


def test_a_backslash_and_an_n_end_an_object_as_a_newline_does() -> None:
    pong = Reply('{"type":"pong"}')

    assert decoded('{"type":"ping"}\\n') == [pong]
    assert decoded('{"type":"ping"}\\n{"type":"close"}') == [pong, Finish()]
    assert decoded('{"type":"ping"}\\n\n{"type":"ping"}') == [pong, pong]


def test_what_looks_like_that_mark_inside_a_string_is_left_alone() -> None:
    assert decoded(audio(data="", note="}\n")) == [Packet(b"", PCM16)]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ('{"type":"dance"}', ("INVALID_MESSAGE", "unknown message type")),
        ('{"data":""}', ("INVALID_MESSAGE", "unknown message type")),
        ('{"type":["audio"]}', ("INVALID_MESSAGE", "unknown message type")),
        ("[]", ("INVALID_MESSAGE", "unknown message type")),
        ("null", ("INVALID_MESSAGE", "unknown message type")),
        ("{", ("INVALID_JSON", "invalid JSON")),
        ("hello", ("INVALID_JSON", "invalid JSON")),
        ('{"type":"ping"}{"type":"ping"}', ("INVALID_JSON", "invalid JSON")),
        ('{"type":"audio","samples":[NaN]}', ("INVALID_JSON", "invalid JSON")),
        ("[" * 100_000, ("INVALID_JSON", "invalid JSON")),
        (audio(data="", encoding="mp3"), ("UNSUPPORTED_ENCODING", "unsupported encoding: mp3")),
        (audio(data="", encoding=""), ("UNSUPPORTED_ENCODING", "unsupported encoding: ")),
        (audio(data="", encoding=5), ("UNSUPPORTED_ENCODING", "unsupported encoding: 5")),
        (audio(data="AA!A"), ("INVALID_MESSAGE", "data is not valid base64")),
        (audio(data=[1, 2]), ("INVALID_MESSAGE", "data must be a string of base64")),
        (audio(samples="AAAA"), ("INVALID_MESSAGE", "samples must be a list of numbers")),
        (audio(samples=["1"]), ("INVALID_MESSAGE", "samples must be a list of numbers")),
        (audio(samples=[1e300]), ("INVALID_MESSAGE", "samples must be a list of numbers")),
        (audio(samples=[0], data=""), ("INVALID_MESSAGE", "audio has data or samples, not both")),
        (audio(data="", final="yes"), ("INVALID_MESSAGE", "final must be true or false")),
    ],
)
def test_mistakes_have_their_documented_answers(message: str, told: tuple[str, str]) -> None:
    assert refusals(message) == [told]


def test_bytes_that_are_no_text_are_invalid_json() -> None:
    with pytest.raises(InvalidJson, match="invalid JSON"):
        decoded(b"\xff\xfe")


def test_a_bad_line_does_not_take_its_neighbours_along() -> None:
    events = decoded('{"type":"ping"}\nnonsense\n{"type":"close"}')

    assert [type(event) for event in events] == [Reply, Refused, Finish]


def test_too_large_a_message_ends_the_stream() -> None:
    with pytest.raises(MessageTooLarge, match=r"^message too large$") as caught:
        decoded("x" * (MAX_MESSAGE_BYTES + 1))
    assert caught.value.close_code == 1009
    # Umlauts are two bytes each.
    with pytest.raises(MessageTooLarge):
        decoded("ä" * (MAX_MESSAGE_BYTES // 2 + 1))
    assert refusals("x" * MAX_MESSAGE_BYTES) == [("INVALID_JSON", "invalid JSON")]


def test_a_browser_that_was_made_to_post_is_sent_away() -> None:
    with pytest.raises(BadOpening):
        decoded(b"POST / HTTP/1.1\r")


def test_a_flood_of_lines_is_not_read_ahead_of_its_answers() -> None:
    events = iter(new_codec().decode('{"type":"ping"}\n' * 100_000))

    assert next(events) == Reply('{"type":"pong"}')


# To the client


def test_results_are_exact() -> None:
    codec = new_codec()

    (first,) = codec.encode(heard("the quick", stable=1, confidence=0.9876))

    assert first == (
        '{"type":"result","stream_id":17,"text":"the quick","token_ids":[1011183078],'
        '"confidence_scores":[0.988],"is_final":false}'
    )


def test_text_is_that_of_the_whole_stream() -> None:
    messages = results(
        new_codec(),
        SpeechStarted(0, opens_turn=True),
        heard("one"),
        heard("one two"),
        TurnEnded(0, TurnEndReason.SILENCE),
        heard("one two three", final=True),
        heard("four"),
        heard("for", final=True),
        Finished(9),
    )

    assert [message["text"] for message in messages] == [
        "one",
        "one two",
        "one two three",
        "one two three four",
        "one two three for",
        "one two three for",
    ]
    assert [message["is_final"] for message in messages] == [False] * 5 + [True]


def test_only_another_text_is_worth_a_message() -> None:
    events = [heard("one", stable=0), heard("one", stable=1), heard("one", final=True)]

    assert len(results(new_codec(), *events)) == 1


def test_stream_without_speech_ends_with_empty_text() -> None:
    (last,) = results(new_codec(), heard("", final=True), Finished(16_000))

    assert last["text"] == ""
    assert last["token_ids"] == last["confidence_scores"] == []
    assert last["is_final"] is True


def test_by_turns_each_turn_with_words_has_its_own_text_and_final() -> None:
    codec = ParakeetCodec(stream_id=17, endpointing=EndpointingSettings(), by_turns=True)

    messages = results(
        codec,
        heard("one"),
        heard("one two", final=True),
        heard("", final=True),
        heard("three", final=True),
        Finished(9),
    )

    assert [(message["text"], message["is_final"]) for message in messages] == [
        ("one", False),
        ("one two", True),
        ("three", True),
    ]


@pytest.mark.parametrize("rest", [[], [heard("", final=True)]])
def test_by_turns_who_ends_the_stream_gets_one_more_final(rest: list[Hypothesis]) -> None:
    codec = ParakeetCodec(stream_id=17, endpointing=EndpointingSettings(), by_turns=True)

    first = results(codec, heard("one", final=True))
    list(codec.decode('{"type":"close"}'))
    last = results(codec, *rest, Finished(9))

    assert [(message["text"], message["is_final"]) for message in first + last] == [
        ("one", True),
        ("", True),
    ]


def test_by_turns_the_final_of_a_turn_that_the_end_cut_off_is_the_last() -> None:
    codec = ParakeetCodec(stream_id=17, endpointing=EndpointingSettings(), by_turns=True)
    list(codec.decode('{"type":"close"}'))

    assert len(results(codec, heard("one", final=True), Finished(9))) == 1


def test_each_word_is_emitted_once_and_when_it_is_certain() -> None:
    messages = results(
        new_codec(),
        heard("the quick", stable=1),
        heard("the thick brown", stable=1),
        heard("the thick brown fox", stable=3),
        heard("the thick brown fox", final=True),
        heard("the", stable=0),
        heard("the end", final=True),
        Finished(1),
    )

    ids = [token for message in messages for token in message["token_ids"]]
    assert len(ids) == len(set(ids)) + 1 == 6
    assert ids[0] == ids[4]
    assert all(
        len(message["token_ids"]) == len(message["confidence_scores"]) for message in messages
    )
    assert [len(message["token_ids"]) for message in messages] == [1, 0, 2, 1, 2, 0]


def test_the_models_own_tokens_are_emitted_once_each() -> None:
    def of(text: str, *ids: int, final: bool = False) -> Hypothesis:
        tokens = tuple(Token(identity, 0.5) for identity in ids)
        return replace(heard(text, final=final), tokens=tokens)

    messages = results(
        new_codec(),
        of("the", 5),
        of("the quick", 5, 8, 9),
        of("the quick", final=True),
        of("so", 7),
        of("so", 7, 42, final=True),
        Finished(1),
    )

    assert [message["token_ids"] for message in messages] == [[5], [8, 9], [7], [42]]
    assert messages[0]["confidence_scores"] == [0.5]


def test_confidence_that_is_not_known_hides_no_word() -> None:
    (message,) = results(new_codec(), heard("one", final=True))

    assert message["confidence_scores"] == [1.0]


def test_errors_carry_their_message_and_code() -> None:
    error = StreamError(ErrorCode.TRANSCRIPTION_ERROR, "a turn was lost")

    assert results(new_codec(), error) == [
        {"type": "error", "message": "a turn was lost", "code": "TRANSCRIPTION_ERROR"}
    ]


def test_a_silent_client_is_left_alone() -> None:
    assert new_codec().options.endpointing.stall_ms == 0


# Anything


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
fields = st.dictionaries(
    st.sampled_from(["type", "data", "samples", "encoding", "final", "token"]),
    json_values | st.sampled_from(["audio", "close", "ping", "auth", "pcm16", "f32", "AAAA"]),
)
lines = fields.map(json.dumps) | st.text(max_size=40)


@given(st.lists(lines, max_size=4).map("\n".join) | st.binary(max_size=60))
def test_any_message_is_understood_or_refused(message: str | bytes) -> None:
    with suppress(BadMessage, BadOpening):
        for event in new_codec().decode(message):
            assert isinstance(event, ClientEvent)

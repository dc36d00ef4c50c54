"""The native codec in both directions, row by row of its error table and feature by feature."""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stt_server.errors import BadMessage, ErrorCode, FrameTooLarge, InvalidMessage
from stt_server.events import (
    SAMPLE_RATE,
    Audio,
    Backlog,
    Configure,
    Finished,
    Flush,
    Hypothesis,
    SegmentEnded,
    SpeechPaused,
    SpeechStarted,
    Stall,
    StreamError,
    StreamEvent,
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
    Packet,
    Reply,
)
from stt_server.protocols.native import NativeCodec
from stt_server.protocols.native_config import Abilities
from stt_server.settings import SessionOptions

MAX_AUDIO_BYTES = 2**20


def new_codec(**query: str) -> NativeCodec:
    return NativeCodec(
        session_id="s-1",
        defaults=SessionOptions(),
        abilities=Abilities(frozenset({"scripted"})),
        max_audio_bytes=MAX_AUDIO_BYTES,
        query=query,
    )


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def frame(**changes: object) -> str:
    """A good audio frame but for `changes`; None leaves a field out."""
    fields: dict[str, object] = {
        "samples": base64_of(b"\x01\x02\x03\x04"),
        "sampleRate": 16_000,
        "channels": 1,
    } | changes
    return json.dumps({key: value for key, value in fields.items() if value is not None})


def refusal(codec: NativeCodec, message: str | bytes) -> ErrorCode:
    with pytest.raises(BadMessage) as caught:
        codec.decode(message)
    return caught.value.code


def configured(codec: NativeCodec, **fields: object) -> dict[str, Any]:
    """Sends a config message; returns the config of the answer."""
    events = codec.decode(json.dumps({"type": "config", **fields}))
    (ready,) = encoded(codec, *(event for event in events if isinstance(event, Configure)))
    assert ready["type"] == "ready"
    return ready["config"]


def encoded(codec: NativeCodec, *events: StreamEvent) -> list[dict[str, Any]]:
    return [json.loads(message) for event in events for message in codec.encode(event)]


# Audio from the client


def test_audio_frame_becomes_a_packet_of_its_own_format() -> None:
    events = new_codec().decode(frame(sampleRate=44_100, channels=2))

    assert events == [Packet(b"\x01\x02\x03\x04", AudioFormat(44_100, 2))]


@pytest.mark.parametrize(
    "changes",
    [
        {"sampleRate": None, "sample_rate": 16_000},
        {"type": "audio"},
        {"type": None},
        {"encoding": "pcm16"},
        {"encoding": "linear16"},
        {"userId": 5, "time": {"a": []}},
    ],
)
def test_audio_frame_may_be_written_in_other_ways(changes: dict[str, object]) -> None:
    assert new_codec().decode(frame(**changes)) == [Packet(b"\x01\x02\x03\x04", AudioFormat())]


def test_format_may_change_between_frames() -> None:
    codec = new_codec()

    formats = [
        event.format
        for rate in (8_000, 48_000, 8_000)
        for event in codec.decode(frame(sampleRate=rate))
        if isinstance(event, Packet)
    ]

    assert [audio_format.sample_rate for audio_format in formats] == [8_000, 48_000, 8_000]


@pytest.mark.parametrize("encoding", Encoding)
def test_frame_may_name_its_encoding(encoding: Encoding) -> None:
    (packet,) = new_codec().decode(frame(encoding=encoding.value))

    assert isinstance(packet, Packet)
    assert packet.format.encoding is encoding


def test_frame_without_samples_in_it_is_legal() -> None:
    assert new_codec().decode(frame(samples="")) == [Packet(b"", AudioFormat())]


@pytest.mark.parametrize("samples", [" AQID\nBA==", "AQ ID\r\n\tBA==\n", "A Q I D B A = ="])
def test_whitespace_in_base64_does_not_matter(samples: str) -> None:
    assert new_codec().decode(frame(samples=samples)) == [
        Packet(b"\x01\x02\x03\x04", AudioFormat())
    ]


def test_binary_message_is_audio_of_the_sessions_format() -> None:
    codec = new_codec(sample_rate="8000", encoding="mulaw", channels="2")

    assert codec.decode(b"\x01\x02") == [
        Packet(b"\x01\x02", AudioFormat(8_000, 2, Encoding.MULAW), splits_samples=True)
    ]


def test_json_audio_does_not_change_the_format_of_binary_audio() -> None:
    codec = new_codec()
    codec.decode(frame(sampleRate=48_000))

    assert codec.decode(b"\x01\x02") == [Packet(b"\x01\x02", AudioFormat(), splits_samples=True)]


# Refusals, in the order in which a frame is checked

JSON_REFUSED = ["", "hello", "{", '{"a":1} x', "NaN", '{"id":NaN}', "[1,", '"\\ud800"', "1" * 5_000]
SHAPE_REFUSED = [
    "5",
    "[]",
    '"samples"',
    "null",
    "true",
    "{}",
    '{"type":"hello"}',
    '{"type":"audio"}',
    '{"type":5}',
    '{"type":["ping"]}',
    '{"type":null}',
    '{"sampleRate":16000,"channels":1}',
]
FIELD_REFUSED: list[dict[str, object]] = [
    {"sampleRate": None},
    {"channels": None},
    {"samples": 5},
    {"samples": ["AQI="]},
    {"sampleRate": "16000"},
    {"sampleRate": 16_000.0},
    {"sampleRate": True},
    {"channels": "1"},
    {"channels": 1.0},
    {"channels": True},
    {"encoding": 5},
    {"type": 5},
]
BASE64_REFUSED = [
    "A",
    "AQ",
    "AQIDBA",
    "AQI",
    "AQ==AQ==",
    "AQI=\x00",
    "AQ-_",
    "AQI*",
    "é",
    "=",
    "====",
]


@pytest.mark.parametrize("message", JSON_REFUSED)
def test_text_that_is_not_json_is_refused(message: str) -> None:
    assert refusal(new_codec(), message) is ErrorCode.INVALID_JSON


def test_json_nested_without_end_is_refused() -> None:
    assert refusal(new_codec(), "[" * 100_000) is ErrorCode.INVALID_JSON


@pytest.mark.parametrize("message", SHAPE_REFUSED)
def test_json_of_an_unknown_shape_is_refused(message: str) -> None:
    assert refusal(new_codec(), message) is ErrorCode.INVALID_MESSAGE


@pytest.mark.parametrize("changes", FIELD_REFUSED)
def test_missing_or_wrongly_typed_field_is_refused(changes: dict[str, object]) -> None:
    assert refusal(new_codec(), frame(**changes)) is ErrorCode.INVALID_MESSAGE


@pytest.mark.parametrize("samples", BASE64_REFUSED)
def test_bad_base64_is_refused(samples: str) -> None:
    assert refusal(new_codec(), frame(samples=samples)) is ErrorCode.INVALID_MESSAGE


@pytest.mark.parametrize("rate", [0, -1, 7_999, 48_001, 10**30])
def test_sample_rate_out_of_range_is_refused(rate: int) -> None:
    assert refusal(new_codec(), frame(sampleRate=rate)) is ErrorCode.UNSUPPORTED_SAMPLE_RATE


@pytest.mark.parametrize("rate", [8_000, 11_025, 48_000])
def test_any_sample_rate_in_range_is_taken(rate: int) -> None:
    assert new_codec().decode(frame(sampleRate=rate)) == [
        Packet(b"\x01\x02\x03\x04", AudioFormat(rate))
    ]


@pytest.mark.parametrize("channels", [0, -1, 3, 10**30])
def test_other_numbers_of_channels_are_refused(channels: int) -> None:
    assert refusal(new_codec(), frame(channels=channels)) is ErrorCode.UNSUPPORTED_CHANNELS


@pytest.mark.parametrize("encoding", ["", "opus", "PCM16", "x" * 10_000])
def test_unknown_encoding_is_refused(encoding: str) -> None:
    assert refusal(new_codec(), frame(encoding=encoding)) is ErrorCode.UNSUPPORTED_ENCODING


def test_too_much_audio_in_one_json_message_is_refused() -> None:
    largest, larger = base64_of(bytes(MAX_AUDIO_BYTES)), base64_of(bytes(MAX_AUDIO_BYTES + 1))

    assert new_codec().decode(frame(samples=largest))
    assert refusal(new_codec(), frame(samples=larger)) is ErrorCode.FRAME_TOO_LARGE


def test_too_much_audio_in_one_binary_message_is_refused() -> None:
    assert new_codec().decode(bytes(MAX_AUDIO_BYTES))
    assert refusal(new_codec(), bytes(MAX_AUDIO_BYTES + 1)) is ErrorCode.FRAME_TOO_LARGE


# Each row is wrong in one more way than the row before: the first wrong thing is named.
LARGE = base64_of(bytes(MAX_AUDIO_BYTES + 1))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"channels": 3, "sampleRate": 1}, ErrorCode.UNSUPPORTED_CHANNELS),
        ({"channels": 3, "sampleRate": 1, "samples": LARGE}, ErrorCode.FRAME_TOO_LARGE),
        ({"channels": 3, "sampleRate": 1, "samples": "*" + LARGE}, ErrorCode.INVALID_MESSAGE),
        ({"channels": 3, "sampleRate": "x", "samples": LARGE}, ErrorCode.INVALID_MESSAGE),
    ],
)
def test_first_wrong_thing_is_the_one_told(changes: dict[str, object], code: ErrorCode) -> None:
    assert refusal(new_codec(), frame(**changes)) is code


def test_length_is_checked_last_and_not_here() -> None:
    odd = base64_of(b"\x01\x02\x03")

    assert refusal(new_codec(), frame(samples=odd, sampleRate=1)) is (
        ErrorCode.UNSUPPORTED_SAMPLE_RATE
    )
    assert new_codec().decode(frame(samples=odd)) == [Packet(b"\x01\x02\x03", AudioFormat())]


def test_refused_message_leaves_no_trace() -> None:
    codec = new_codec()
    for changes in FIELD_REFUSED:
        refusal(codec, frame(**changes))
    refusal(codec, frame(samples="*"))

    # The format may still change: no audio has been taken.
    assert configured(codec, sampleRate=8_000)["sampleRate"] == 8_000


# Control messages


@pytest.mark.parametrize(
    "identity",
    ["abc", "", 7, -1, 2**70, 0.5, 1e22, True, False, None, [1, None], {"a": {"b": None}}],
)
def test_ping_is_answered_with_its_own_id(identity: object) -> None:
    (reply,) = new_codec().decode(json.dumps({"type": "ping", "id": identity}))

    assert isinstance(reply, Reply)
    assert json.loads(reply.message) == {"type": "pong", "id": identity}


def test_ping_without_id_is_answered_without_one() -> None:
    assert new_codec().decode('{"type":"ping"}') == [Reply('{"type":"pong"}')]


def test_flush_is_passed_on_and_answered_in_its_turn() -> None:
    codec = new_codec()

    assert codec.decode('{"type":"flush"}') == [Flush()]
    assert codec.encode(Flush()) == ['{"type":"flushed"}']


@pytest.mark.parametrize("kind", ["finish", "close"])
def test_finish_and_close_end_the_stream(kind: str) -> None:
    assert new_codec().decode(json.dumps({"type": kind})) == [Finish()]


def test_finished_tells_the_length_of_the_audio_and_the_turns_shown() -> None:
    codec = new_codec()
    codec.encode(final(words("yes")))

    assert codec.encode(Finished(197_440)) == ['{"type":"finished","audioSeconds":12.34,"turns":1}']


def test_control_messages_opt_in_to_nothing_else() -> None:
    codec = new_codec()
    for kind in ("ping", "flush"):
        codec.decode(json.dumps({"type": kind}))

    assert one_turn(codec) == PLAIN_TURN


# Segments


def words(text: str, *, start: int = SAMPLE_RATE, **fields: Any) -> tuple[Word, ...]:
    """Words of half a second each."""
    half = SAMPLE_RATE // 2
    return tuple(
        Word(word, start + n * half, start + (n + 1) * half, **fields)
        for n, word in enumerate(text.split())
    )


def interim(heard: tuple[Word, ...], *, stable: int = 0, start: int = SAMPLE_RATE) -> Hypothesis:
    text = " ".join(word.text for word in heard)
    fixed = " ".join(word.text for word in heard[:stable])
    end = heard[-1].end if heard else start
    return Hypothesis(0, fixed, text.removeprefix(fixed), heard, start, end)


def final(heard: tuple[Word, ...], *, start: int = SAMPLE_RATE, **fields: Any) -> Hypothesis:
    text = " ".join(word.text for word in heard)
    end = heard[-1].end if heard else start
    return Hypothesis(0, text, "", heard, start, end, is_final=True, **fields)


def turn_events(text: str = "please send", **fields: Any) -> list[StreamEvent]:
    heard = words(text)
    end = heard[-1].end if heard else 2 * SAMPLE_RATE
    return [
        SpeechStarted(SAMPLE_RATE, opens_turn=True),
        *([interim(heard)] if heard else []),
        SpeechPaused(end),
        SpeechStarted(end, opens_turn=False),
        TurnEnded(end, TurnEndReason.SILENCE),
        final(heard, **fields),
    ]


def one_turn(codec: NativeCodec) -> list[str | bytes]:
    return [message for event in turn_events() for message in codec.encode(event)]


PLAIN_TURN = [
    '{"text":"please send","isFinal":false,"isEndOfTurn":false}',
    '{"text":"please send","isFinal":true,"isEndOfTurn":true}',
]


def test_plain_client_gets_segments_of_exactly_three_keys() -> None:
    assert one_turn(new_codec()) == PLAIN_TURN


def test_text_is_written_as_it_is() -> None:
    (message,) = new_codec().encode(final(words('naïve "quote" \\ 東京 \u2028')))

    assert isinstance(message, str)
    assert json.loads(message)["text"] == 'naïve "quote" \\ 東京'


@pytest.mark.parametrize(
    "event",
    [
        Audio(0, None),  # type: ignore[arg-type]
        SpeechStarted(0, opens_turn=True),
        SpeechStarted(0, opens_turn=False),
        SpeechPaused(0),
        SegmentEnded(0),
        TurnEnded(0, TurnEndReason.SILENCE),
        Stall(),
        Backlog(12.0),
    ],
)
def test_plain_client_is_told_of_nothing_else(event: StreamEvent) -> None:
    assert new_codec().encode(event) == []


def test_turn_without_words_is_not_shown() -> None:
    assert encoded(new_codec(), *turn_events("")) == []


def test_turn_without_words_takes_no_number() -> None:
    codec = new_codec(features="ids")
    out = encoded(codec, *turn_events("one"), *turn_events(""), *turn_events("two"))

    assert [message["turnId"] for message in out] == [0, 0, 1, 1]
    assert encoded(codec, Finished(0))[0]["turns"] == 2


def test_turn_that_lost_its_words_still_gets_its_final_after_an_interim() -> None:
    out = encoded(new_codec(), interim(words("hm")), final(()))

    assert out[-1] == {"text": "", "isFinal": True, "isEndOfTurn": True}


def test_turn_without_words_gets_its_final_when_its_start_was_told() -> None:
    out = encoded(new_codec(features="events"), *turn_events(""))

    assert out == [
        {"type": "speechStarted", "time": 1.0, "turnId": 0},
        {"type": "speechStopped", "time": 2.0, "turnId": 0},
        {"text": "", "isFinal": True, "isEndOfTurn": True},
        {"type": "endOfTurn", "turnId": 0, "reason": "silence"},
    ]


def test_equal_interims_are_told_once() -> None:
    out = encoded(new_codec(), interim(words("yes")), interim(words("yes"), stable=1))

    assert len(out) == 1


def test_interim_without_words_is_not_told() -> None:
    assert encoded(new_codec(), interim(())) == []


def test_without_interim_results_only_finals_are_told() -> None:
    out = encoded(new_codec(interim="false"), *turn_events())

    assert [message["isFinal"] for message in out] == [True]


def test_without_interim_results_a_turn_without_words_is_not_shown() -> None:
    assert encoded(new_codec(interim="false"), interim(words("hm")), final(())) == []


# Features: the fields and messages each adds

THREE_KEYS = {"text", "isFinal", "isEndOfTurn"}


def test_ids_number_segments_turns_and_messages() -> None:
    out = encoded(new_codec(features="ids"), *turn_events(), *turn_events())

    numbers = [(message["segmentId"], message["turnId"], message["sequence"]) for message in out]
    assert numbers == [("t0s0", 0, 0), ("t0s0", 0, 1), ("t1s0", 1, 2), ("t1s0", 1, 3)]
    assert all(set(message) == THREE_KEYS | {"segmentId", "turnId", "sequence"} for message in out)


def test_sequence_counts_messages_sent_before_ids_were_asked_for() -> None:
    codec = new_codec()
    one_turn(codec)
    configured(codec, features=["ids"])

    assert encoded(codec, final(words("yes")))[0]["sequence"] == 2


def test_times_are_seconds_of_the_stream() -> None:
    out = encoded(new_codec(features="times"), *turn_events())

    assert [(message["start"], message["end"]) for message in out] == [(1.0, 2.0), (1.0, 2.0)]
    assert all(set(message) == THREE_KEYS | {"start", "end"} for message in out)


def test_times_are_rounded_to_milliseconds() -> None:
    (message,) = encoded(new_codec(features="times"), final(words("yes", start=1), start=1))

    assert (message["start"], message["end"]) == (0.0, 0.5)


def test_words_come_with_their_times_and_confidence() -> None:
    heard = (Word("please", 0, 8_000, 0.98765), Word("send", 8_000, 12_345))

    (message,) = encoded(new_codec(features="words"), final(heard))

    assert message["words"] == [
        {"word": "please", "start": 0.0, "end": 0.5, "confidence": 0.988},
        {"word": "send", "start": 0.5, "end": 0.772},
    ]
    assert set(message) == THREE_KEYS | {"words"}


@pytest.mark.parametrize("hypothesis", ["interim", "final"])
def test_word_times_that_are_guesses_are_marked(hypothesis: str) -> None:
    heard = {"interim": interim, "final": final}[hypothesis](words("yes"))
    guessed = replace(heard, estimated_times=True)

    (known,) = encoded(new_codec(features="words"), heard)
    (marked,) = encoded(new_codec(features="words"), guessed)
    (without,) = encoded(new_codec(features="ids,times,confidence"), guessed)

    assert marked == known | {"wordTimes": "estimated"}
    assert "wordTimes" not in known
    assert "wordTimes" not in without


def test_words_of_an_empty_final_are_an_empty_list() -> None:
    out = encoded(new_codec(features="words,events"), *turn_events(""))

    assert [message["words"] for message in out if "text" in message] == [[]]


def test_speakers_come_with_the_words() -> None:
    heard = words("yes", speaker="1")

    (without,) = encoded(new_codec(features="words"), final(heard))
    (message,) = encoded(new_codec(features="words,speaker"), final(heard))

    assert "speaker" not in without["words"][0]
    assert message["words"][0]["speaker"] == "1"


def test_confidence_comes_with_finals() -> None:
    out = encoded(new_codec(features="confidence"), *turn_events(confidence=0.95678))

    assert [message.get("confidence") for message in out] == [None, 0.957]
    assert "confidence" not in out[0]


def test_language_comes_when_it_is_known() -> None:
    codec = new_codec(features="language")

    with_language = encoded(codec, final(words("ja"), language="de"))
    without = encoded(codec, final(words("ja")))

    assert with_language[0]["language"] == "de"
    assert "language" not in without[0]


def test_events_frame_the_turn() -> None:
    out = encoded(new_codec(features="events"), *turn_events())

    assert out == [
        {"type": "speechStarted", "time": 1.0, "turnId": 0},
        {"text": "please send", "isFinal": False, "isEndOfTurn": False},
        {"type": "speechStopped", "time": 2.0, "turnId": 0},
        {"text": "please send", "isFinal": True, "isEndOfTurn": True},
        {"type": "endOfTurn", "turnId": 0, "reason": "silence"},
    ]


def test_events_asked_for_inside_a_turn_stop_nothing_that_was_not_started() -> None:
    codec = new_codec()
    started, *rest = turn_events()
    encoded(codec, started)
    configured(codec, features=["events"])

    kinds = [message.get("type", "segment") for message in encoded(codec, *rest)]

    assert kinds == ["segment", "segment"]


def test_end_of_turn_tells_the_confidence_of_a_turn_model() -> None:
    codec = new_codec(features="events")
    codec.encode(SpeechStarted(0, opens_turn=True))
    codec.encode(TurnEnded(0, TurnEndReason.TURN_MODEL, confidence=0.93))

    assert encoded(codec, final(words("yes")))[-1] == {
        "type": "endOfTurn",
        "turnId": 0,
        "reason": "turn_model",
        "confidence": 0.93,
    }


def test_backlog_is_a_warning() -> None:
    assert new_codec(features="events").encode(Backlog(12.04)) == [
        '{"type":"warning","code":"BACKLOG","seconds":12.0}'
    ]


def test_transcript_of_the_documented_session() -> None:
    codec = new_codec()
    codec.decode('{"type":"config","features":["ids","events"],"endpointing":{"silenceMs":700}}')
    (ready,) = encoded(codec, Configure(codec.options))
    heard = words("please send", start=8_000)
    better = words("Please send the report.", start=8_000)
    ended = TurnEnded(33_600, TurnEndReason.SILENCE)

    out = [
        message
        for event in (
            SpeechStarted(8_000, opens_turn=True),
            interim(heard),
            ended,
            final(better),
            Finished(54_400),
        )
        for message in codec.encode(event)
    ]

    assert (ready["sessionId"], ready["config"]["endpointing"]["silenceMs"]) == ("s-1", 700)
    assert out == [
        '{"type":"speechStarted","time":0.5,"turnId":0}',
        '{"text":"please send","isFinal":false,"isEndOfTurn":false,'
        '"segmentId":"t0s0","turnId":0,"sequence":0}',
        '{"type":"speechStopped","time":2.1,"turnId":0}',
        '{"text":"Please send the report.","isFinal":true,"isEndOfTurn":true,'
        '"segmentId":"t0s0","turnId":0,"sequence":1}',
        '{"type":"endOfTurn","turnId":0,"reason":"silence"}',
        '{"type":"finished","audioSeconds":3.4,"turns":1}',
    ]


# Errors to the client


def test_error_for_a_plain_client_has_exactly_two_keys() -> None:
    assert new_codec().encode(StreamError("INVALID_JSON", "message is not valid JSON")) == [
        '{"error":"message is not valid JSON","code":"INVALID_JSON"}'
    ]


@pytest.mark.parametrize("fatal", [True, False])
def test_error_tells_more_when_any_feature_is_on(fatal: bool) -> None:
    (message,) = encoded(new_codec(features="ids"), StreamError("X", "why", fatal=fatal))

    assert message == {"error": "why", "code": "X", "fatal": fatal, "type": "error"}


# Finals of segments inside a turn


def pieces_of(codec: NativeCodec, *events: StreamEvent) -> list[tuple[str, bool, bool]]:
    return [
        (message["text"], message["isFinal"], message["isEndOfTurn"])
        for message in encoded(codec, *events)
    ]


FOUR = words("one two three four")
"""From 1.0 s on, half a second each."""


def test_words_before_a_cut_become_final_once_they_are_stable() -> None:
    out = pieces_of(
        new_codec(segment_finals="true"),
        interim(FOUR[:2]),
        SegmentEnded(2 * SAMPLE_RATE),
        interim(FOUR[:3], stable=1),
        interim(FOUR, stable=3),
        final(FOUR),
    )

    assert out == [
        ("one two", False, False),
        ("one two three", False, False),
        ("one two", True, False),
        ("three four", False, False),
        ("three four", True, True),
    ]


def test_words_before_an_earlier_cut_are_final_although_those_before_a_later_one_may_change() -> (
    None
):
    out = pieces_of(
        new_codec(segment_finals="true", interim="false"),
        SegmentEnded(3 * SAMPLE_RATE // 2),
        SegmentEnded(2 * SAMPLE_RATE),
        SegmentEnded(3 * SAMPLE_RATE),
        interim(FOUR, stable=3),
        final(FOUR),
    )

    assert out == [("one two", True, False), ("three four", True, True)]


def test_cut_counts_only_when_it_has_been_heard() -> None:
    out = pieces_of(
        new_codec(segment_finals="true"),
        SegmentEnded(2 * SAMPLE_RATE),
        interim(FOUR[:1], stable=1),
    )

    assert out == [("one", False, False)]


def test_final_behind_a_piece_may_be_empty() -> None:
    out = pieces_of(
        new_codec(segment_finals="true"),
        SegmentEnded(2 * SAMPLE_RATE),
        interim(FOUR[:2], stable=2),
        final(FOUR[:2]),
    )

    assert out == [("one two", True, False), ("", True, True)]


def test_pieces_are_segments_of_their_own_in_the_same_turn() -> None:
    out = encoded(
        new_codec(segment_finals="true", features="ids"),
        SegmentEnded(2 * SAMPLE_RATE),
        interim(FOUR, stable=4),
        final(FOUR),
        final(FOUR),
    )

    assert [message["segmentId"] for message in out] == ["t0s0", "t0s1", "t0s1", "t1s0"]


def test_finals_do_not_overlap_in_time() -> None:
    out = encoded(
        new_codec(segment_finals="true", features="times", interim="false"),
        SegmentEnded(2 * SAMPLE_RATE),
        interim(FOUR, stable=4),
        final(FOUR),
    )

    assert [(message["start"], message["end"]) for message in out] == [(1.0, 2.0), (2.0, 3.0)]


def test_cuts_of_one_turn_are_forgotten_in_the_next() -> None:
    codec = new_codec(segment_finals="true")
    encoded(codec, SegmentEnded(2 * SAMPLE_RATE), final(()))

    assert pieces_of(codec, interim(FOUR, stable=4)) == [("one two three four", False, False)]


@pytest.mark.parametrize(("left", "rest"), [(FOUR[:1], ""), (FOUR[:3], "three")])
def test_final_that_disagrees_with_the_pieces_still_ends_the_turn(
    left: tuple[Word, ...], rest: str
) -> None:
    out = pieces_of(
        new_codec(segment_finals="true", interim="false"),
        SegmentEnded(2 * SAMPLE_RATE),
        interim(FOUR, stable=4),
        final(left),
    )

    assert out == [("one two", True, False), (rest, True, True)]


def test_turn_whose_piece_was_shown_keeps_its_number_when_its_final_is_empty() -> None:
    out = encoded(
        new_codec(segment_finals="true", features="ids", interim="false"),
        SegmentEnded(2 * SAMPLE_RATE),
        interim(FOUR, stable=4),
        final(()),
        final(FOUR),
    )

    assert [message["segmentId"] for message in out] == ["t0s0", "t0s1", "t1s0"]


def test_without_segment_finals_cuts_do_not_show() -> None:
    out = pieces_of(
        new_codec(), SegmentEnded(2 * SAMPLE_RATE), interim(FOUR, stable=4), final(FOUR)
    )

    assert out == [("one two three four", False, False), ("one two three four", True, True)]


# Config


def test_config_is_answered_in_its_turn_and_counts_from_there() -> None:
    codec = new_codec()
    (event,) = codec.decode('{"type":"config","features":["ids"]}')

    before = encoded(codec, final(words("one")))
    (ready,) = encoded(codec, event)  # type: ignore[arg-type]
    after = encoded(codec, final(words("two")))

    assert set(before[0]) == THREE_KEYS
    assert (ready["type"], ready["sessionId"]) == ("ready", "s-1")
    assert set(after[0]) > THREE_KEYS


def test_config_hands_the_new_options_on() -> None:
    codec = new_codec()

    events = codec.decode('{"type":"config","endpointing":{"silenceMs":700},"language":"de"}')

    assert events == [Configure(codec.options)]
    assert codec.options.endpointing.silence_ms == 700
    assert codec.options.language == "de"


def test_token_is_presented_before_the_config_counts() -> None:
    codec = new_codec()

    events = codec.decode('{"type":"config","token":"secret"}')

    assert events == [Authenticate("secret"), Configure(codec.options)]


def test_token_is_not_shown_in_the_answer() -> None:
    codec = new_codec()
    codec.decode('{"type":"config","token":"secret"}')

    assert "secret" not in str(codec.encode(Configure(codec.options)))


def test_configs_are_answered_one_by_one() -> None:
    codec = new_codec()
    for silence_ms in (500, 600):
        codec.decode(json.dumps({"type": "config", "endpointing": {"silenceMs": silence_ms}}))

    answers = encoded(codec, Configure(codec.options), Configure(codec.options))

    assert [answer["config"]["endpointing"]["silenceMs"] for answer in answers] == [500, 600]


@pytest.mark.parametrize("audio", [frame(), b"\x01\x02"])
@pytest.mark.parametrize("change", [{"sampleRate": 8_000}, {"channels": 2}, {"encoding": "f32"}])
def test_format_may_not_change_after_audio(audio: str | bytes, change: dict[str, object]) -> None:
    codec = new_codec()
    codec.decode(audio)

    assert refusal(codec, json.dumps({"type": "config", **change})) is ErrorCode.INVALID_MESSAGE


def test_format_may_be_repeated_after_audio() -> None:
    codec = new_codec()
    codec.decode(frame())

    assert configured(codec, sampleRate=16_000, interimResults=False)["interimResults"] is False


@pytest.mark.parametrize(
    "fields",
    [
        {"sampleRate": "16000"},
        {"sampleRate": 7_999},
        {"channels": 3},
        {"encoding": "opus"},
        {"features": ["colour"]},
        {"features": 5},
        {"interimResults": "yes"},
        {"endpointing": {"silenceMs": 99}},
        {"endpointing": {"silenceMs": "700"}},
        {"endpointing": {"mode": "sometimes"}},
        {"endpointing": {"onset": 0.2, "offset": 0.3}},
        {"endpointing": {"detector": "smart-turn"}},
        {"endpointing": []},
        {"model": "whisper-1"},
        {"finalModel": "whisper-1"},
        {"vocabulary": "word"},
        {"token": 5},
    ],
)
def test_bad_config_is_refused_whole(fields: dict[str, object]) -> None:
    codec = new_codec()
    before = codec.options
    message = json.dumps({"type": "config", "language": "de", **fields})

    assert refusal(codec, message) is ErrorCode.INVALID_CONFIG
    assert codec.options == before
    assert configured(codec)["language"] is None


# Properties

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELD_NAMES = st.sampled_from(
    [
        "type",
        "samples",
        "sampleRate",
        "sample_rate",
        "channels",
        "encoding",
        "endpointing",
        "features",
        "language",
        "token",
        "id",
        "vocabulary",
        "model",
        "lookaheadMs",
        "interimResults",
    ]
)
VALUES = JSON | st.sampled_from(
    ["config", "ping", "flush", "finish", "audio", "AQI=", 16_000, 8_000, 1, 2, "f32", ["ids"], {}]
)
MESSAGES = (
    st.text()
    | st.binary()
    | JSON.map(json.dumps)
    | st.dictionaries(FIELD_NAMES, VALUES, max_size=6).map(json.dumps)
)


def decoded_or_refused(codec: NativeCodec, message: str | bytes) -> Sequence[ClientEvent]:
    try:
        return codec.decode(message)
    except BadMessage:
        return []


@given(st.lists(MESSAGES, max_size=8))
def test_any_message_is_taken_or_refused(messages: list[str | bytes]) -> None:
    codec = new_codec()
    for message in messages:
        for event in decoded_or_refused(codec, message):
            if isinstance(event, Configure):
                assert encoded(codec, event)[0]["type"] == "ready"


@given(st.binary(max_size=300), st.sampled_from(["", " ", "\n", "\r\n", "\t"]), st.integers(1, 76))
def test_base64_round_trip_with_line_breaks(data: bytes, space: str, width: int) -> None:
    text = base64_of(data)
    broken = space.join(text[at : at + width] for at in range(0, len(text), width))

    assert new_codec().decode(frame(samples=broken)) == [Packet(data, AudioFormat())]


TEXTS = st.lists(st.text(st.characters(categories=["L"]), min_size=1, max_size=4), max_size=4)


@st.composite
def any_turn(draw: st.DrawFn) -> list[StreamEvent]:
    heard = words(" ".join(draw(TEXTS)), confidence=draw(st.none() | st.floats(0, 1)), speaker="0")
    end = heard[-1].end if heard else 2 * SAMPLE_RATE
    events: list[StreamEvent] = [SpeechStarted(SAMPLE_RATE, opens_turn=True)]
    for count in range(1, len(heard) + 1):
        if draw(st.booleans()):
            events.append(interim(heard[:count], stable=draw(st.integers(0, count))))
        if draw(st.integers(0, 3)) == 0:
            events.append(SegmentEnded(heard[count - 1].end))
    events += draw(st.lists(st.sampled_from([Flush(), Stall(), Backlog(6.0)]), max_size=2))
    reason = draw(st.sampled_from(TurnEndReason))
    confidence = draw(st.none() | st.floats(0, 1))
    return [
        *events,
        TurnEnded(end, reason, confidence),
        final(heard, language="en", confidence=confidence),
    ]


SEGMENT_KEYS = {
    "ids": {"segmentId", "turnId", "sequence"},
    "times": {"start", "end"},
    "words": {"words"},
    "confidence": {"confidence"},
    "language": {"language"},
    "speaker": {"speaker"},
    "events": set[str](),
}
EVENT_KEYS = {
    "speechStarted": {"type", "time", "turnId"},
    "speechStopped": {"type", "time", "turnId"},
    "endOfTurn": {"type", "turnId", "reason", "confidence"},
    "warning": {"type", "code", "seconds"},
}
ANY_FEATURES = st.sets(st.sampled_from(sorted(SEGMENT_KEYS)))


@settings(max_examples=50)
@given(st.lists(any_turn(), max_size=4), ANY_FEATURES, st.booleans(), st.booleans())
def test_only_documented_keys_are_sent(
    turns: list[list[StreamEvent]], features: set[str], pieces: bool, interims: bool
) -> None:
    codec = new_codec(
        features=",".join(features),
        segment_finals=str(pieces).lower(),
        interim=str(interims).lower(),
    )
    allowed = THREE_KEYS.union(*(SEGMENT_KEYS[feature] for feature in features))
    for message in encoded(codec, *(event for turn in turns for event in turn)):
        if "text" in message:
            assert THREE_KEYS <= set(message) <= allowed
        elif message["type"] != "flushed":
            assert "events" in features
            assert set(message) <= EVENT_KEYS[message["type"]]


@settings(max_examples=50)
@given(st.lists(any_turn(), max_size=4), st.booleans())
def test_finals_of_a_session_spell_every_word_once(
    turns: list[list[StreamEvent]], pieces: bool
) -> None:
    codec = new_codec(segment_finals=str(pieces).lower())
    events = [event for turn in turns for event in turn]

    out = [message for message in encoded(codec, *events) if message.get("isFinal")]

    spoken = [event.text for event in events if isinstance(event, Hypothesis) and event.is_final]
    assert " ".join(message["text"] for message in out).split() == " ".join(spoken).split()
    assert sum(message["isEndOfTurn"] for message in out) == sum(map(bool, spoken))


@settings(max_examples=50)
@given(st.lists(any_turn(), max_size=4), st.booleans(), ANY_FEATURES)
def test_no_segment_repeats_the_interim_before_it_and_no_number_is_negative(
    turns: list[list[StreamEvent]], pieces: bool, features: set[str]
) -> None:
    codec = new_codec(segment_finals=str(pieces).lower(), features=",".join(features | {"times"}))
    before: dict[str, Any] = {}
    for message in encoded(codec, *(event for turn in turns for event in turn)):
        if "text" not in message:
            continue
        assert 0 <= message["start"] <= message["end"]
        assert message["isFinal"] or before.get("isFinal") or message["text"] != before.get("text")
        before = message


@settings(max_examples=50)
@given(st.lists(any_turn(), max_size=3), ANY_FEATURES)
def test_messages_are_one_json_object_without_special_numbers(
    turns: list[list[StreamEvent]], features: set[str]
) -> None:
    def refuse(name: str) -> float:
        raise AssertionError(name)

    codec = new_codec(features=",".join(features))
    for turn in turns:
        for event in turn:
            for message in codec.encode(event):
                parsed = json.loads(message, parse_constant=refuse)
                assert isinstance(parsed, dict)
                assert all(value is not None for value in parsed.values())


@pytest.mark.parametrize("kind", ["[{},{}]", '{"a":1}', "7"])
def test_a_type_that_is_no_text_is_refused(kind: str) -> None:
    with pytest.raises(InvalidMessage):
        new_codec().decode(f'{{"type":{kind}}}')


def test_a_huge_text_is_refused_unread() -> None:
    with pytest.raises(FrameTooLarge):
        new_codec().decode("[" * (13 * 2**20))


def test_a_ping_cannot_have_megabytes_sent_back() -> None:
    with pytest.raises(InvalidMessage):
        new_codec().decode(json.dumps({"type": "ping", "id": "x" * 1_000}))


def test_a_long_language_is_a_hint_and_no_error() -> None:
    codec = new_codec()
    codec.decode(json.dumps({"type": "config", "language": "x" * 500}))

    assert codec.options.language == "x" * 64

"""The Realtime codec in both directions, event by event."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt_server.errors import ErrorCode, NotText
from stt_server.events import (
    Clear,
    Configure,
    Flush,
    Hypothesis,
    SpeechPaused,
    SpeechStarted,
    StreamError,
    TurnEnded,
    TurnEndReason,
)
from stt_server.protocols.base import AudioFormat, Encoding, Packet
from stt_server.protocols.realtime import PACKET_S
from stt_server.protocols.realtime_messages import MAX_JSON
from stt_server.protocols.tests.realtime_exchange import (
    APPEND,
    BY_CLIENT,
    CLEAR,
    COMMIT,
    ITEM,
    MODELS,
    TEXT,
    asked,
    audio,
    heard,
    kinds,
    new_codec,
    refused,
    sent,
    told,
    turn,
    update,
)
from stt_server.settings import EndpointingMode

# Order


def test_connection_is_greeted_with_its_session() -> None:
    message = json.loads(new_codec(model="gpt-4o-transcribe").greeting())
    MODELS["session.created"].model_validate(message)

    assert message["session"]["id"] == message["id"] == "sess_abc"
    assert message["session"]["expires_at"] == 1_790_014_400
    assert message["session"]["object"] == "realtime.transcription_session"
    assert message["session"]["audio"]["input"] == {
        "format": {"type": "audio/pcm", "rate": 24_000},
        "noise_reduction": None,
        "transcription": {"model": "gpt-4o-transcribe", "language": None, "prompt": None},
        "turn_detection": {
            "type": "server_vad",
            "threshold": 0.5,
            "prefix_padding_ms": 300,
            "silence_duration_ms": 500,
        },
    }


def test_turn_is_an_item_that_is_told_in_openais_order() -> None:
    messages = told(new_codec(), *turn("the", "the quick", "the quick brown fox"))

    assert kinds(messages) == [
        "input_audio_buffer.speech_started",
        f"{TEXT}.delta",
        f"{TEXT}.delta",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        f"{ITEM}.added",
        f"{ITEM}.done",
        f"{TEXT}.delta",
        f"{TEXT}.completed",
    ]
    ids = {message.get("item_id") or message["item"]["id"] for message in messages}
    assert ids == {"item_abc0001"}
    assert [m["delta"] for m in messages if "delta" in m] == ["the", " quick", " brown fox"]
    assert messages[-1]["transcript"] == "the quick brown fox"
    assert messages[-1]["usage"] == {"type": "duration", "seconds": 1.5}
    assert messages[4]["previous_item_id"] is None


def test_times_have_the_padding_before_and_the_silence_behind() -> None:
    codec = new_codec()
    first = told(codec, *turn("a", at=16_000, end=40_000))
    # The second one begins sooner than its padding allows.
    second = told(codec, *turn("b", at=49_600, end=64_000, reason=TurnEndReason.STALL))

    assert first[0]["audio_start_ms"] == 1_000 - 300
    assert first[1]["audio_end_ms"] == 2_500 + 500
    assert second[0]["audio_start_ms"] == 3_000
    assert second[1]["audio_end_ms"] == 4_000


def test_turn_without_words_is_completed_all_the_same() -> None:
    messages = told(new_codec(), *turn(""))

    assert f"{TEXT}.delta" not in kinds(messages)
    assert messages[-1]["type"] == f"{TEXT}.completed"
    assert messages[-1]["transcript"] == ""


def test_items_know_the_item_before() -> None:
    codec = new_codec()
    messages = told(codec, *turn("a"), *turn("b"), *turn("c"))

    committed = [m for m in messages if m["type"] == "input_audio_buffer.committed"]
    ids = [m["item_id"] for m in committed]
    assert len(set(ids)) == 3
    assert [m["previous_item_id"] for m in committed] == [None, *ids[:2]]


def test_final_of_other_words_has_no_delta() -> None:
    for final in ("that tick", "the quickest", "the"):
        messages = told(new_codec(), *turn("the quick", final))

        assert [m["delta"] for m in messages if "delta" in m] == ["the quick"]
        assert messages[-1]["transcript"] == final


def test_what_is_not_stable_is_no_delta() -> None:
    codec = new_codec()
    hypothesis = Hypothesis(0, "the", " quick", (), 0, 1)

    messages = told(codec, SpeechStarted(0, opens_turn=True), hypothesis)

    assert messages[-1]["delta"] == "the"


def test_language_and_sureness_are_told_where_they_are_known_and_wanted() -> None:
    codec = new_codec()
    update(codec, {"include": ["item.input_audio_transcription.logprobs"]})
    events = turn("oui")
    events[-1] = heard("oui", final=True, language="fr")

    completed = told(codec, *events)[-1]

    assert completed["languages"] == [{"code": "fr"}]
    logprob = {"token": "oui", "bytes": [111, 117, 105], "logprob": -0.6931}
    assert completed["logprobs"] == [logprob]


# Commits and clears


def test_client_that_commits_gets_deltas_and_no_speech_events() -> None:
    codec = new_codec()
    update(codec, BY_CLIENT)
    asked(codec, APPEND, audio=audio())
    (flush,) = asked(codec, COMMIT)
    assert flush == Flush(reason=TurnEndReason.COMMIT)

    messages = told(codec, *turn("yes", "yes please", reason=TurnEndReason.COMMIT))

    assert kinds(messages) == [
        f"{TEXT}.delta",
        "input_audio_buffer.committed",
        f"{ITEM}.added",
        f"{ITEM}.done",
        f"{TEXT}.delta",
        f"{TEXT}.completed",
    ]


def test_commit_of_too_little_for_a_turn_is_answered() -> None:
    codec = new_codec()
    update(codec, BY_CLIENT)
    first = told(codec, *turn("yes", reason=TurnEndReason.COMMIT))
    second = told(codec, Flush(reason=TurnEndReason.COMMIT))

    assert kinds(second) == [
        "input_audio_buffer.committed",
        f"{ITEM}.added",
        f"{ITEM}.done",
        f"{TEXT}.completed",
    ]
    assert second[0]["previous_item_id"] == first[0]["item_id"] != second[0]["item_id"]
    assert (second[-1]["transcript"], second[-1]["usage"]["seconds"]) == ("", 0.0)


def test_commit_of_nothing_is_an_error_where_the_client_commits() -> None:
    codec = new_codec()
    update(codec, BY_CLIENT)
    empty = json.dumps({"type": COMMIT, "event_id": "mine"})
    error = refused(codec, empty)["error"]
    assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "mine")

    for end in (COMMIT, CLEAR):
        asked(codec, APPEND, audio=audio(2))
        asked(codec, end)
        assert refused(codec, empty)["error"]["type"] == "invalid_request_error"
    # What an update leaves alone stays.
    asked(codec, APPEND, audio=audio(2))
    update(codec, BY_CLIENT)
    assert asked(codec, COMMIT)


def test_commit_with_turn_detection_ends_an_open_turn_and_else_does_nothing() -> None:
    codec = new_codec()
    assert asked(codec, COMMIT) == [Flush(reason=TurnEndReason.COMMIT)]
    assert told(codec, Flush(reason=TurnEndReason.COMMIT)) == []

    messages = told(codec, *turn("yes", reason=TurnEndReason.COMMIT))

    assert kinds(messages).count("input_audio_buffer.committed") == 1
    assert kinds(messages).count(f"{TEXT}.completed") == 1
    assert kinds(messages).count("input_audio_buffer.speech_stopped") == 1


def test_clear_forgets_the_open_item() -> None:
    codec = new_codec()
    assert asked(codec, CLEAR) == [Clear()]
    told(codec, SpeechStarted(0, opens_turn=True), heard("the quick"))

    cleared = told(codec, Clear())
    messages = told(codec, *turn("brown"))

    assert kinds(cleared) == ["input_audio_buffer.cleared"]
    assert [m["delta"] for m in messages if "delta" in m] == ["brown"]
    committed = next(m for m in messages if m["type"] == "input_audio_buffer.committed")
    assert committed["previous_item_id"] is None


# Failures


LOST = StreamError(ErrorCode.TRANSCRIPTION_ERROR, "the model is gone")


def test_turn_that_lost_some_audio_is_completed_with_what_there_is() -> None:
    opening, *rest = turn("the quick")
    messages = told(new_codec(), opening, LOST, *rest)

    assert messages[-1]["type"] == f"{TEXT}.completed"
    assert messages[-1]["transcript"] == "the quick"


def test_turn_that_lost_all_its_words_has_failed_and_the_next_has_not() -> None:
    codec = new_codec()
    ended = TurnEnded(1, TurnEndReason.SILENCE)
    opening = SpeechStarted(0, opens_turn=True)
    messages = told(codec, opening, LOST, ended, heard("", final=True), *turn("fox"))

    ends = [m for m in messages if m["type"] in (f"{TEXT}.failed", f"{TEXT}.completed")]
    assert kinds(ends) == [f"{TEXT}.failed", f"{TEXT}.completed"]
    assert ends[0]["error"] == {
        "type": "server_error",
        "code": "transcription_failed",
        "message": "the model is gone",
        "param": None,
    }
    assert ends[1]["transcript"] == "fox"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (ErrorCode.INTERNAL_ERROR, "server_error"),
        (ErrorCode.INVALID_MESSAGE, "invalid_request_error"),
        (ErrorCode.SERVER_SHUTDOWN, None),
        (ErrorCode.OVERLOADED, None),
        (ErrorCode.IDLE_TIMEOUT, None),
        (ErrorCode.SESSION_LIMIT, None),
    ],
)
def test_end_of_a_session_is_no_error_where_its_close_code_calls_clients_back(
    code: ErrorCode, kind: str | None
) -> None:
    messages = told(new_codec(), StreamError(code, "why", fatal=True))

    assert [message["error"]["type"] for message in messages] == ([kind] if kind else [])


def test_committed_item_that_gets_no_final_any_more_has_failed() -> None:
    codec = new_codec()
    told(codec, *turn("the quick")[:-1])

    messages = told(codec, StreamError(ErrorCode.OVERLOADED, "the model is gone", fatal=True))

    assert kinds(messages) == [f"{TEXT}.failed"]


# What clients send


def test_number_that_json_cannot_write_is_not_repeated() -> None:
    codec = new_codec()
    event = (
        '{"type":"session.update","session":{"audio":{"input":{"noise_reduction":{"x":1e999}}}}}'
    )

    (answer,) = [message for e in codec.decode(event) for message in codec.encode(e)]

    assert json.loads(answer, parse_constant=pytest.fail)["type"] == "session.updated"


def test_audio_is_of_the_sessions_format() -> None:
    codec = new_codec()
    data = bytes(range(200)) * 2

    def append() -> list[Any]:
        return asked(codec, APPEND, audio=base64.b64encode(data).decode())

    assert append() == [Packet(data, AudioFormat(24_000))]
    for named, expected in (
        ({"type": "audio/pcmu"}, AudioFormat(8_000, 1, Encoding.MULAW)),
        ({"type": "audio/pcma"}, AudioFormat(8_000, 1, Encoding.ALAW)),
        ({"type": "audio/pcm", "rate": 8_000}, AudioFormat(8_000)),
    ):
        session = {"audio": {"input": {"format": named}}}
        # OpenAI's own type knows no other rate than 24000.
        sent(codec, *asked(codec, "session.update", session=session))
        assert append() == [Packet(data, expected)]
    assert asked(codec, APPEND, audio="") == []


def test_long_audio_comes_in_pieces() -> None:
    data = bytes(range(250)) * 4_000
    codec = new_codec()

    pieces = asked(codec, APPEND, audio=base64.b64encode(data).decode(), event_id="x")

    assert b"".join(piece.data for piece in pieces) == data
    assert {len(piece.data) for piece in pieces[:-1]} == {PACKET_S * 48_000}


@pytest.mark.parametrize("size", [100, 3 * MAX_JSON])
def test_escaped_slashes_are_understood(size: int) -> None:
    text = json.dumps({"type": APPEND, "audio": base64.b64encode(b"\xff" * size).decode()})
    assert "/" in text

    pieces = list(new_codec().decode(text.replace("/", "\\/")))

    assert b"".join(piece.data for piece in pieces if isinstance(piece, Packet)) == b"\xff" * size


LONG = base64.b64encode(bytes(2 * MAX_JSON)).decode()


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ("{not json", "invalid_json", None),
        ("[]", "invalid_json", None),
        ("null", "invalid_json", None),
        ('{"type":"x"} {}', "invalid_json", None),
        ("[" * 1_000_000, "invalid_json", None),
        ('{"a":[' + "1," * 100_000 + "1]}", "invalid_json", None),
        (f'{{"audio":"{LONG}', "invalid_json", None),
        (f'{{"audio":"{LONG}","type":', "invalid_json", None),
        ('{"audio":"","a":[' + "1," * 100_000 + "1]}", "invalid_json", None),
        (f'{{"type":"{APPEND}","audio":"{LONG}\\x"}}', "invalid_json", None),
        (f'{{"type":"{APPEND}","x":{{"audio":"{LONG}"}}}}', "invalid_value", "audio"),
        ("{}", "unknown_event", "type"),
        ('{"type":7}', "unknown_event", "type"),
        ('{"type":"response.create"}', "unknown_event", "type"),
        (f'{{"type":"{APPEND}"}}', "invalid_value", "audio"),
        (f'{{"type":"{APPEND}","audio":null}}', "invalid_value", "audio"),
        (f'{{"type":"{APPEND}","audio":"AAA"}}', "invalid_value", "audio"),
        (f'{{"type":"{APPEND}","audio":"A*AA"}}', "invalid_value", "audio"),
        (f'{{"type":"{APPEND}","audio":"äöü="}}', "invalid_value", "audio"),
        (f'{{"type":"{APPEND}","audio":"AAAA"}}', "invalid_value", "audio"),
        ('{"type":"session.update"}', "invalid_value", "session"),
        ('{"type":"session.update","session":[]}', "invalid_value", "session"),
    ],
)
def test_refusals_have_openais_codes(message: str, code: str, param: str | None) -> None:
    error = refused(new_codec(), message)

    MODELS["error"].model_validate(error)
    assert error["error"]["type"] == "invalid_request_error"
    assert (error["error"]["code"], error["error"]["param"]) == (code, param)


def test_refusal_names_its_culprit() -> None:
    codec = new_codec(max_append_bytes=4)
    for event_id, expected in (("mine", "mine"), (5, None)):
        event = {"type": APPEND, "event_id": event_id, "audio": audio(6)}
        error = refused(codec, json.dumps(event))["error"]
        assert (error["code"], error["event_id"]) == ("audio_too_large", expected)


def test_binary_messages_end_the_session() -> None:
    with pytest.raises(NotText) as caught:
        list(new_codec().decode(b"\0\0"))
    assert caught.value.close_code == 1003


@given(
    st.text() | st.dictionaries(st.text(), st.text() | st.integers() | st.none()).map(json.dumps)
)
def test_whatever_comes_is_refused_with_an_error(message: str) -> None:
    assert refused(new_codec(), message)["type"] == "error"


# Updates


def test_update_counts_for_what_is_caused_by_audio_behind_it() -> None:
    codec = new_codec()
    (configure,) = asked(codec, "session.update", session=BY_CLIENT)
    assert isinstance(configure, Configure)
    assert configure.options.endpointing.mode is EndpointingMode.MANUAL
    before = told(codec, *turn("yes"))
    (updated,) = told(codec, configure)
    after = told(codec, *turn("no", reason=TurnEndReason.COMMIT))

    assert "input_audio_buffer.speech_started" in kinds(before)
    assert updated["type"] == "session.updated"
    assert updated["session"]["audio"]["input"]["turn_detection"] is None
    assert "input_audio_buffer.speech_started" not in kinds(after)


def test_repeated_update_resets_nothing() -> None:
    codec = new_codec()
    update(codec, BY_CLIENT)
    first = told(codec, *turn("a", reason=TurnEndReason.COMMIT))
    (again,) = update(codec, BY_CLIENT)
    second = told(codec, *turn("b", reason=TurnEndReason.COMMIT))

    assert again["session"]["id"] == "sess_abc"
    committed = [m for m in second if m["type"] == "input_audio_buffer.committed"]
    assert committed[0]["previous_item_id"] == first[0]["item_id"]


def test_events_that_have_no_name_here_are_not_told() -> None:
    assert told(new_codec(), SpeechPaused(5), SpeechStarted(9, opens_turn=False)) == []

"""What clients may say about their session, and what the server makes of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.realtime import RealtimeTranscriptionSessionCreateRequest

from stt_server.protocols.realtime_flat import describe_flat, parse_flat
from stt_server.protocols.realtime_messages import BadEvent
from stt_server.protocols.realtime_session import (
    LOGPROBS,
    RealtimeConfig,
    SessionUpdate,
    Terms,
    parse_part,
)
from stt_server.settings import DetectorName, EndpointingMode, EndpointingSettings

TERMS = Terms("scripted", EndpointingSettings(offset=0.4, eager=True), DetectorName.SMART_TURN)
START = RealtimeConfig.initial(TERMS, None)


def merged(config: RealtimeConfig, **given: Any) -> RealtimeConfig:
    """`given`: fields of `audio.input`."""
    return config.merge(parse_part(SessionUpdate, {"audio": {"input": given}}))


def shown(config: RealtimeConfig) -> dict[str, Any]:
    described = {"type": "transcription", **config.describe()}
    RealtimeTranscriptionSessionCreateRequest.model_validate(described)
    return described["audio"]["input"]


def endpointing(config: RealtimeConfig) -> EndpointingSettings:
    return config.options.endpointing


def test_silence_that_ends_turns_is_openais_unless_the_client_says_so() -> None:
    server = endpointing(START)

    assert (server.mode, server.detector) == (EndpointingMode.VAD, DetectorName.SILENCE)
    assert (server.silence_ms, server.small_gap_ms, server.stall_ms) == (500, 300, 1_200)
    assert (server.onset, server.offset, server.pre_roll_ms) == (0.5, 0.4, 300)
    assert not server.eager


def test_fields_of_server_vad_are_settings() -> None:
    detection = {
        "type": "server_vad",
        "threshold": 0.3,
        "prefix_padding_ms": 100,
        "silence_duration_ms": 200,
        "create_response": False,
        "interrupt_response": None,
        "idle_timeout_ms": None,
    }
    config = merged(START, turn_detection=detection)

    server = endpointing(config)
    assert (server.onset, server.offset) == (0.3, 0.3)
    assert (server.pre_roll_ms, server.silence_ms, server.small_gap_ms) == (100, 200, 200)
    # What is absent stays as it was.
    again = merged(config, turn_detection={"type": "server_vad", "threshold": 1})
    assert shown(again)["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.99,
        "prefix_padding_ms": 100,
        "silence_duration_ms": 200,
    }


@pytest.mark.parametrize(
    ("eagerness", "silence_ms"),
    [("low", 2_000), ("medium", 1_000), ("high", 500), ("auto", 1_000), (None, 1_000)],
)
def test_semantic_vad_asks_the_servers_detector(eagerness: str | None, silence_ms: int) -> None:
    config = merged(START, turn_detection={"type": "semantic_vad", "eagerness": eagerness})

    assert endpointing(config).detector is DetectorName.SMART_TURN
    assert endpointing(config).silence_ms == silence_ms
    given = {"type": "semantic_vad", "eagerness": eagerness or "auto"}
    assert shown(config)["turn_detection"] == given


def test_null_turns_detection_off_and_absence_does_not() -> None:
    off = merged(START, turn_detection=None)
    assert shown(off)["turn_detection"] is None
    assert endpointing(off).mode is EndpointingMode.MANUAL
    assert endpointing(off).stall_ms == 0
    assert shown(merged(off, noise_reduction=None))["turn_detection"] is None
    assert shown(merged(START))["turn_detection"] is not None
    back = merged(off, turn_detection={})
    assert shown(back) == shown(START)


@pytest.mark.parametrize("model", ["gpt-realtime-whisper", "gpt-live-transcribe-2027"])
def test_clients_of_two_models_commit_by_themselves_unless_they_say_otherwise(model: str) -> None:
    silent = merged(START, transcription={"model": model})
    asking = merged(START, transcription={"model": model}, turn_detection={"type": "server_vad"})

    assert silent.is_manual
    assert RealtimeConfig.initial(TERMS, model).is_manual
    assert not asking.is_manual
    # Other fields are of no consequence.
    assert not merged(asking, transcription={"language": "en"}).is_manual


def test_hints_are_passed_on() -> None:
    config = merged(
        START,
        transcription={"model": "m", "languages": ["de", "en"], "keywords": ["Ampel"] * 2_000},
    )
    assert config.options.language == "de"
    assert config.options.vocabulary == ("Ampel",) * 1_000

    config = merged(config, transcription={"language": "f" * 99, "prompt": "p", "delay": "low"})
    assert config.options.language == "f" * 64
    assert shown(config)["transcription"]["model"] == "m"
    off = merged(config, transcription=None)
    assert shown(off)["transcription"] is None
    assert off.options.language is None
    assert shown(merged(off, transcription={"language": "en"}))["transcription"] == {
        "model": None,
        "language": "en",
        "prompt": None,
    }


def test_other_fields_are_shown_as_they_were_given() -> None:
    config = merged(
        START,
        noise_reduction={"type": "near_field"},
        format={"type": "audio/pcmu", "rate": 8_000},
        later_invention=5,
    ).merge(parse_part(SessionUpdate, {"include": ["later", LOGPROBS], "type": None}))

    assert shown(config)["noise_reduction"] == {"type": "near_field"}
    assert shown(config)["format"] == {"type": "audio/pcmu"}
    assert config.include == (LOGPROBS,)
    assert config.merge(SessionUpdate(include=None)).include is None
    assert shown(merged(config, format=None))["format"] == {"type": "audio/pcm", "rate": 24_000}


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"type": "realtime"}, "type"),
        ({"audio": []}, "audio"),
        ({"audio": {"input": {"format": {"type": "audio/opus"}}}}, "audio.input.format.type"),
        ({"audio": {"input": {"format": {"rate": 7_999}}}}, "audio.input.format.rate"),
        ({"audio": {"input": {"format": {"rate": "24000"}}}}, "audio.input.format.rate"),
        ({"audio": {"input": {"noise_reduction": "near"}}}, "audio.input.noise_reduction"),
        (
            {"audio": {"input": {"transcription": {"model": 5}}}},
            "audio.input.transcription.model",
        ),
        (
            {"audio": {"input": {"turn_detection": {"type": "none"}}}},
            "audio.input.turn_detection.type",
        ),
        (
            {"audio": {"input": {"turn_detection": {"threshold": "high"}}}},
            "audio.input.turn_detection.threshold",
        ),
        (
            {"audio": {"input": {"turn_detection": {"silence_duration_ms": True}}}},
            "audio.input.turn_detection.silence_duration_ms",
        ),
        ({"include": "logprobs"}, "include"),
        ({"include": [5]}, "include.0"),
    ],
)
def test_wrong_values_are_named(session: dict[str, Any], param: str) -> None:
    with pytest.raises(BadEvent) as caught:
        parse_part(SessionUpdate, session)
    assert (caught.value.wire_code, caught.value.param) == ("invalid_value", f"session.{param}")


def test_hint_that_is_not_understood_is_no_error() -> None:
    config = merged(
        START,
        transcription={"keywords": "a", "languages": 7, "language": "de", "delay": {}},
        noise_reduction={"type": "everything", "more": [[]]},
        turn_detection={"type": "semantic_vad", "eagerness": "very"},
    )

    assert config.options.language == "de"
    assert shown(config)["noise_reduction"] == {"type": None}
    assert endpointing(config).silence_ms == 1_000


def test_whole_numbers_may_be_written_as_others() -> None:
    config = merged(START, turn_detection={"type": "server_vad", "silence_duration_ms": 700.0})

    assert endpointing(config).silence_ms == 700


def test_model_of_clients_that_commit_counts_when_it_is_news() -> None:
    hints = {"model": "gpt-realtime-whisper"}
    by_client = merged(START, transcription=hints)
    by_server = merged(by_client, turn_detection={"type": "server_vad"})

    assert by_client.is_manual
    assert not by_server.is_manual
    assert not merged(by_server, transcription={**hints, "language": "de"}).is_manual


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["server_vad", "semantic_vad", None]),
            "threshold": st.floats(allow_nan=False) | st.integers() | st.none(),
            "prefix_padding_ms": st.integers() | st.none(),
            "silence_duration_ms": st.integers() | st.none(),
            "eagerness": st.sampled_from(["low", "high", None]),
        },
    )
)
def test_numbers_out_of_bounds_count_as_the_nearest_that_are_not(detection: dict[str, Any]) -> None:
    config = merged(START, turn_detection=detection)
    server = endpointing(config)

    assert server.offset <= server.onset
    assert server.small_gap_ms <= server.silence_ms
    # What is shown is in force: said back, it changes nothing.
    assert merged(config, turn_detection=shown(config)["turn_detection"]) == config


# The flat form


def test_flat_session_says_the_same_in_other_words() -> None:
    flat = {
        "input_audio_format": "g711_alaw",
        "input_audio_transcription": {"model": "whisper-1", "language": "de"},
        "turn_detection": None,
        "input_audio_noise_reduction": {"type": "far_field"},
        "include": [LOGPROBS],
    }
    config = START.merge(parse_flat(flat))

    assert shown(config)["format"] == {"type": "audio/pcma"}
    assert config.options.language == "de"
    assert config.is_manual
    described = describe_flat(config)
    assert described["input_audio_transcription"].pop("prompt", 0) is None
    assert described == {**flat, "include": (LOGPROBS,)}


def test_what_a_flat_session_leaves_out_is_kept() -> None:
    config = START.merge(parse_flat({"input_audio_format": "g711_ulaw", "turn_detection": None}))

    assert START.merge(parse_flat({})) == START
    assert config.merge(parse_flat({"include": None})) == config
    assert (
        config.merge(parse_flat({"input_audio_format": "pcm16"})).format.audio.sample_rate == 24_000
    )


@pytest.mark.parametrize(
    ("flat", "param"),
    [
        (None, ""),
        ({"input_audio_format": "mp3"}, ".input_audio_format"),
        ({"turn_detection": {"threshold": "x"}}, ".turn_detection.threshold"),
    ],
)
def test_wrong_flat_values_are_named(flat: Any, param: str) -> None:
    with pytest.raises(BadEvent) as caught:
        parse_flat(flat)
    assert caught.value.param == f"session{param}"

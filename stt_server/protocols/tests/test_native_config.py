"""Session options of the native protocol from the query and from config messages."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt_server.errors import InvalidConfig
from stt_server.events import Configure
from stt_server.protocols.base import Encoding
from stt_server.protocols.native import NativeCodec
from stt_server.protocols.native_config import Abilities, ConfigMessage, parse_encoding
from stt_server.settings import EndpointingSettings, SessionOptions


def new_codec(
    query: dict[str, str] | None = None,
    *,
    defaults: SessionOptions | None = None,
    lookaheads_ms: tuple[int, ...] = (),
) -> NativeCodec:
    return NativeCodec(
        session_id="s-1",
        defaults=defaults or SessionOptions(),
        abilities=Abilities(frozenset({"scripted"}), lookaheads_ms=lookaheads_ms),
        max_audio_bytes=1_000,
        query=query or {},
    )


def configured(codec: NativeCodec, **fields: object) -> dict[str, Any]:
    """Sends a config message; returns the config of the answer."""
    codec.decode(json.dumps({"type": "config", **fields}))
    (ready,) = codec.encode(Configure(codec.options))
    return json.loads(ready)["config"]


def effective(**query: str) -> dict[str, Any]:
    """The config in force for a connection with this query."""
    return configured(new_codec(query))


DEFAULTS: dict[str, Any] = {
    "sampleRate": 16_000,
    "channels": 1,
    "encoding": "pcm16",
    "language": None,
    "features": [],
    "interimResults": True,
    "endpointing": {
        "mode": "vad",
        "detector": "silence",
        "turnThreshold": 0.5,
        "eager": False,
        "eagerThreshold": 0.3,
        "silenceMs": 1_500,
        "stallMs": 1_200,
        "onset": 0.5,
        "offset": 0.35,
        "smallGapMs": 300,
        "minSpeechMs": 1_000,
        "preRollMs": 300,
        "maxSegmentS": 20.0,
    },
    "model": "scripted",
    "finalModel": "scripted",
    "lookaheadMs": None,
    "resume": False,
    "segmentFinals": False,
    "vocabulary": [],
}


def test_config_without_fields_shows_the_defaults() -> None:
    assert effective() == DEFAULTS


def test_effective_config_can_be_sent_back() -> None:
    changes: dict[str, Any] = {
        "sampleRate": 8_000,
        "channels": 2,
        "encoding": "alaw",
        "language": "de-DE",
        "features": ["times", "events"],
        "interimResults": False,
        "endpointing": {"mode": "none", "silenceMs": 700, "onset": 0.6, "maxSegmentS": 7.5},
        "segmentFinals": True,
        "vocabulary": ["Riesa", "Elbe"],
    }
    ready = configured(new_codec(), **changes)

    assert configured(new_codec(), **ready) == ready
    assert ready["endpointing"] == DEFAULTS["endpointing"] | changes["endpointing"]
    assert {key: ready[key] for key in changes if key != "endpointing"} == {
        key: value for key, value in changes.items() if key != "endpointing"
    }


def test_defaults_of_the_server_are_the_start() -> None:
    server = SessionOptions(endpointing=EndpointingSettings(silence_ms=800))

    ready = configured(new_codec(defaults=server), endpointing={"stallMs": 0})

    assert (ready["endpointing"]["silenceMs"], ready["endpointing"]["stallMs"]) == (800, 0)


@pytest.mark.parametrize(
    ("query", "key", "value"),
    [
        ({"sample_rate": "44100"}, "sampleRate", 44_100),
        ({"channels": "2"}, "channels", 2),
        ({"encoding": "f32"}, "encoding", "f32"),
        ({"encoding": "linear16"}, "encoding", "pcm16"),
        ({"language": "de-DE"}, "language", "de-DE"),
        ({"language": "no such language"}, "language", "no such language"),
        ({"features": "ids"}, "features", ["ids"]),
        ({"features": "events, ids"}, "features", ["ids", "events"]),
        ({"features": ""}, "features", []),
        (
            {"features": "all"},
            "features",
            ["ids", "times", "words", "confidence", "language", "speaker", "usage", "events"],
        ),
        ({"interim": "false"}, "interimResults", False),
        ({"interim": "0"}, "interimResults", False),
        ({"segment_finals": "true"}, "segmentFinals", True),
        ({"vocabulary": "Riesa, Elbe"}, "vocabulary", ["Riesa", "Elbe"]),
        ({"model": "scripted"}, "model", "scripted"),
        ({"resume": "true"}, "resume", False),
        ({"somethingelse": "x"}, "sampleRate", 16_000),
    ],
)
def test_query_sets_an_option(query: dict[str, str], key: str, value: object) -> None:
    assert effective(**query) == DEFAULTS | {key: value}


@pytest.mark.parametrize(
    ("query", "key", "value"),
    [
        ({"silence_ms": "700"}, "silenceMs", 700),
        ({"stall_ms": "0"}, "stallMs", 0),
        ({"endpointing": "none"}, "mode", "none"),
        ({"detector": "silence"}, "detector", "silence"),
        ({"eager": "true"}, "eager", False),
    ],
)
def test_query_sets_endpointing(query: dict[str, str], key: str, value: object) -> None:
    assert effective(**query)["endpointing"] == DEFAULTS["endpointing"] | {key: value}


@pytest.mark.parametrize(
    "query",
    [
        {"sample_rate": "fast"},
        {"sample_rate": ""},
        {"sample_rate": "7999"},
        {"sample_rate": "48001"},
        {"channels": "3"},
        {"encoding": "opus"},
        {"features": "ids,colour"},
        {"interim": "perhaps"},
        {"silence_ms": "99"},
        {"silence_ms": "10001"},
        {"stall_ms": "-1"},
        {"stall_ms": "60001"},
        {"endpointing": "25"},
        {"detector": "eou"},
        {"eager": "perhaps"},
        {"model": "whisper-1"},
        {"lookahead_ms": "x"},
        {"segment_finals": "perhaps"},
    ],
)
def test_bad_query_value_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(InvalidConfig):
        new_codec(query)


def test_query_of_other_parameters_names_no_option() -> None:
    assert ConfigMessage.from_query({"token": "secret", "page": "1"}) is None


def test_config_message_overrides_the_query() -> None:
    ready = configured(new_codec({"silence_ms": "700", "channels": "2"}), channels=1)

    assert (ready["channels"], ready["endpointing"]["silenceMs"]) == (1, 700)


def test_absent_fields_keep_their_values() -> None:
    codec = new_codec()
    configured(codec, language="de", features=["ids"], endpointing={"silenceMs": 700})

    ready = configured(codec, interimResults=False)

    assert (ready["language"], ready["features"]) == ("de", ["ids"])
    assert ready["endpointing"]["silenceMs"] == 700


def test_features_replace_each_other() -> None:
    codec = new_codec()
    configured(codec, features=["ids"])

    assert configured(codec, features=["times"])["features"] == ["times"]
    assert configured(codec, features=[])["features"] == []


def test_all_features_may_be_named_by_one_word() -> None:
    assert len(configured(new_codec(), features="all")["features"]) == 8


@pytest.mark.parametrize(("asked", "given_ms"), [(0, 80), (300, 480), (270, 80), (5_000, 1_040)])
def test_nearest_lookahead_of_the_model_is_taken(asked: int, given_ms: int) -> None:
    codec = new_codec(lookaheads_ms=(80, 480, 1_040))

    assert configured(codec, lookaheadMs=asked)["lookaheadMs"] == given_ms


def test_detector_that_is_not_here_is_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidConfig, match=r"which has: silence$"):
        configured(new_codec(), endpointing={"detector": "psychic"})


def test_lookahead_in_force_is_told_to_those_that_did_not_ask() -> None:
    assert configured(new_codec(lookaheads_ms=(80, 480, 1_040)))["lookaheadMs"] == 80


def test_lookahead_is_none_where_there_is_nothing_to_choose() -> None:
    assert configured(new_codec(), lookaheadMs=480)["lookaheadMs"] is None


def test_refusal_names_the_field() -> None:
    with pytest.raises(InvalidConfig, match=r"endpointing\.silence_?[mM]s"):
        new_codec({"silence_ms": "5"})


def test_refusal_does_not_repeat_the_value() -> None:
    with pytest.raises(InvalidConfig) as caught:
        new_codec({"sample_rate": "secret" * 1_000})

    assert "secret" not in str(caught.value)


def test_encodings_are_found_by_name() -> None:
    assert [parse_encoding(encoding.value) for encoding in Encoding] == list(Encoding)


NAMES = st.sampled_from(
    [
        "sample_rate",
        "channels",
        "encoding",
        "language",
        "features",
        "interim",
        "silence_ms",
        "stall_ms",
        "endpointing",
        "detector",
        "eager",
        "model",
        "lookahead_ms",
        "resume",
        "segment_finals",
        "vocabulary",
    ]
)


@given(
    st.dictionaries(
        NAMES, st.text(max_size=20) | st.integers().map(str) | st.floats().map(str), max_size=5
    )
)
def test_any_query_is_taken_or_refused(query: dict[str, str]) -> None:
    try:
        codec = new_codec(query)
    except InvalidConfig:
        return
    assert configured(codec)["model"] == "scripted"


def two_pass_codec(query: dict[str, str]) -> NativeCodec:
    return NativeCodec(
        session_id="s",
        defaults=SessionOptions(),
        abilities=Abilities(frozenset({"scripted"}), final_model="canary-qwen"),
        max_audio_bytes=2**20,
        query=query,
    )


def test_second_recogniser_is_shown_and_may_be_named() -> None:
    ready = configured(two_pass_codec({}), model="scripted", finalModel="canary-qwen")

    assert (ready["model"], ready["finalModel"]) == ("scripted", "canary-qwen")


@pytest.mark.parametrize("wrong", [{"model": "canary-qwen"}, {"finalModel": "scripted"}])
def test_recognisers_cannot_change_their_parts(wrong: dict[str, str]) -> None:
    with pytest.raises(InvalidConfig, match="not loaded"):
        configured(two_pass_codec({}), **wrong)

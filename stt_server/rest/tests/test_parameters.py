"""Fields of a request."""

import pytest

from stt_server.rest.errors import ApiError
from stt_server.rest.parameters import (
    Granularity,
    Parameters,
    ResponseFormat,
    parse_parameters,
)


def test_nothing_given_means_the_defaults() -> None:
    assert parse_parameters({}) == Parameters()
    assert parse_parameters({"model": ["anything"], "response_format": [""]}) == Parameters()


@pytest.mark.parametrize("name", ["json", "text", "verbose_json", "srt", "vtt"])
def test_formats_are_known_by_their_names(name: str) -> None:
    assert parse_parameters({"response_format": [name]}).response_format == name


@pytest.mark.parametrize(
    ("text", "streams"),
    [("true", True), ("True", True), ("1", True), ("yes", True), ("false", False), ("x", False)],
)
def test_streaming_is_asked_for_in_several_ways(text: str, streams: bool) -> None:
    assert parse_parameters({"stream": [text]}).stream is streams


def test_granularities_add_up() -> None:
    asked = parse_parameters({"timestamp_granularities": ["word", "segment"]})
    assert asked.granularities == {Granularity.WORD, Granularity.SEGMENT}
    asked = parse_parameters({"timestamp_granularities": ["word"]})
    assert asked.granularities == {Granularity.WORD}


def test_hints_are_taken_as_they_are() -> None:
    asked = parse_parameters(
        {"languages": ["", "de", "fr"], "keywords": ["Kubernetes", ""], "include": ["what", "ever"]}
    )
    assert (asked.language, asked.vocabulary) == ("de", ("Kubernetes",))
    assert not asked.logprobs
    assert parse_parameters({"include": ["logprobs"]}).logprobs
    assert parse_parameters({"language": ["en"], "languages": ["de"]}).language == "en"


@pytest.mark.parametrize(
    ("prompt", "vocabulary"),
    [
        ("", ()),
        ("Riesa, Elbe;  Dresden\n", ("Riesa", "Elbe", "Dresden")),
        ("Expect words of medicine.", ("Expect words of medicine.",)),
    ],
)
def test_what_a_prompt_lists_joins_the_vocabulary(prompt: str, vocabulary: tuple[str, ...]) -> None:
    asked = parse_parameters({"keywords": ["Kubernetes"], "prompt": [prompt]})
    assert asked.vocabulary == ("Kubernetes", *vocabulary)


@pytest.mark.parametrize("text", ["auto", "", "server_vad", '{"type":"server_vad"}'])
def test_chunking_may_be_anything_openai_knows(text: str) -> None:
    assert parse_parameters({"chunking_strategy": [text]}) == Parameters()


@pytest.mark.parametrize(
    ("param", "text", "code"),
    [
        ("response_format", "yaml", "invalid_value"),
        ("response_format", "diarized_json", "unsupported_value"),
        ("timestamp_granularities", "letter", "invalid_value"),
        ("temperature", "warm", "invalid_value"),
        ("temperature", "nan", "invalid_value"),
        ("chunking_strategy", "sometimes", "invalid_value"),
        ("chunking_strategy", "[1]", "invalid_value"),
    ],
)
def test_wrong_values_are_named(param: str, text: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_parameters({param: [text]})

    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


def test_a_wrong_value_is_not_repeated_at_length() -> None:
    with pytest.raises(ApiError) as caught:
        parse_parameters({"response_format": ["x" * 10_000]})

    assert len(str(caught.value)) < 200
    assert ResponseFormat.JSON in str(caught.value)

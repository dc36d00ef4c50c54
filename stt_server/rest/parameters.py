"""The fields of a transcription request, checked."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from stt_server.rest.errors import bad_value

TRUE = frozenset({"true", "1", "yes"})
KNOWN = frozenset(
    {
        "model",
        "response_format",
        "stream",
        "language",
        "languages",
        "keywords",
        "prompt",
        "temperature",
        "timestamp_granularities",
        "include",
        "chunking_strategy",
    }
)
"""Fields that make a difference; others are not even kept."""


class ResponseFormat(StrEnum):
    """What the answer looks like."""

    JSON = "json"
    TEXT = "text"
    VERBOSE_JSON = "verbose_json"
    SRT = "srt"
    VTT = "vtt"
    DIARIZED_JSON = "diarized_json"


class Granularity(StrEnum):
    """What `verbose_json` has times of."""

    WORD = "word"
    SEGMENT = "segment"


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a client asks for beside its file."""

    response_format: ResponseFormat = ResponseFormat.JSON
    stream: bool = False
    granularities: frozenset[Granularity] = frozenset({Granularity.SEGMENT})
    logprobs: bool = False
    language: str | None = None
    vocabulary: tuple[str, ...] = ()
    """Words and phrases to expect."""


def parse_parameters(fields: Mapping[str, Sequence[str]]) -> Parameters:
    """The parameters of a form.

    Args:
        fields: Every value of every field, names without brackets.

    Raises:
        ApiError: a value is wrong; hints never are.
    """
    response_format = _choice(ResponseFormat, "response_format", _last(fields, "response_format"))
    if response_format is ResponseFormat.DIARIZED_JSON:
        raise bad_value(
            "response_format", "this model cannot tell speakers apart", code="unsupported_value"
        )
    _check_temperature(_last(fields, "temperature"))
    _check_chunking(_last(fields, "chunking_strategy"))
    granularities = frozenset(
        _choice(Granularity, "timestamp_granularities", name)
        for name in fields.get("timestamp_granularities", ())
    )
    languages = [_last(fields, "language"), *fields.get("languages", ())]
    return Parameters(
        response_format=response_format or ResponseFormat.JSON,
        stream=_last(fields, "stream").lower() in TRUE,
        granularities=frozenset(filter(None, granularities)) or frozenset({Granularity.SEGMENT}),
        logprobs="logprobs" in fields.get("include", ()),
        language=next(filter(None, languages), None),
        vocabulary=(*filter(None, fields.get("keywords", ())), *_phrases(_last(fields, "prompt"))),
    )


Choice = TypeVar("Choice", bound=StrEnum)


def _choice(kind: type[Choice], param: str, name: str) -> Choice | None:
    if not name:
        return None
    try:
        return kind(name)
    except ValueError:
        known = ", ".join(kind)
        raise bad_value(param, f"{param} must be one of {known}, not {name[:40]!r}") from None


def _last(fields: Mapping[str, Sequence[str]], name: str) -> str:
    values = fields.get(name)
    return values[-1].strip() if values else ""


def _phrases(prompt: str) -> Iterator[str]:
    """What a prompt lists; free text is one phrase."""
    return filter(None, (phrase.strip() for phrase in re.split("[,;\n]", prompt)))


def _check_temperature(text: str) -> None:
    try:
        is_number = math.isfinite(float(text or 0.0))
    except ValueError:
        is_number = False
    if not is_number:
        raise bad_value("temperature", "temperature must be a number")


def _check_chunking(text: str) -> None:
    """`auto`, or an object; its own keys (`chunking_strategy[type]`) are other fields."""
    if text in ("", "auto", "server_vad"):
        return
    try:
        strategy: Any = json.loads(text)
    except ValueError:
        strategy = None
    if not isinstance(strategy, dict):
        raise bad_value("chunking_strategy", "chunking_strategy must be `auto` or an object")

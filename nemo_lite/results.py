"""What recognition gives: transcripts of whole recordings and updates of live streams."""

import re
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Word:
    """One word; times in seconds since the audio (or the stream) began, confidence in 0..1."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """The text of one recording, or of one stream so far.

    `token_times[i]` is the start, in seconds, of the encoder frame at which `token_ids[i]` was
    emitted; `token_confidences[i]` is in 0..1. Markers such as `<EOU>` are in `token_ids` but not
    in `text` and `words`. `language` is the tag a multilingual model found, such as `en-US`.

    With `estimated_times` the model itself knows no times: those of words were estimated from the
    audio, and a token has its word's start.
    """

    text: str
    words: tuple[Word, ...]
    token_ids: tuple[int, ...]
    token_times: tuple[float, ...]
    token_confidences: tuple[float, ...]
    language: str | None = None
    estimated_times: bool = False


LANGUAGE_TAG = re.compile(r"<([a-z]{2,3}-[A-Za-z]{2,4})>")
"""A piece that names the language of the text, such as `<en-US>` or `<zh-Hans>`."""


class Marker(StrEnum):
    """What the EOU model says besides words."""

    END_OF_UTTERANCE = "<EOU>"
    END_OF_BACKCHANNEL = "<EOB>"


@dataclass(frozen=True, slots=True)
class Update:
    """What one step added to one stream.

    `token_ids`, `token_times` and `token_confidences` hold only what is new; `text` is what the
    new tokens append to the stream's text. `marker` is the last marker among the new tokens.
    `at_sample` is how far the stream is decoded; `is_final` marks the last update of a finished
    stream.
    """

    slot: int
    text: str
    token_ids: tuple[int, ...]
    token_times: tuple[float, ...]
    token_confidences: tuple[float, ...]
    marker: Marker | None
    at_sample: int
    is_final: bool

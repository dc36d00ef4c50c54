"""Final segments as caption cues, and cues as SubRip and WebVTT."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from stt_server.protocols.native_messages import TranscriptionSegment, WordMessage

_MAX_SECONDS = 7.0
_MAX_CHARACTERS = 84
"""Two lines of 42, what subtitle guidelines call readable."""


@dataclass(frozen=True, slots=True)
class Cue:
    """Text to show from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str


def cues(segments: Iterable[TranscriptionSegment]) -> Iterator[Cue]:
    """One cue per segment; a long one is split between words if their times are known."""
    at = 0.0
    for segment in segments:
        start = at if segment.start is None else segment.start
        at = start if segment.end is None else segment.end
        whole = Cue(start, at, " ".join(segment.text.split()))
        if not whole.text:
            continue
        if segment.words and (at - start > _MAX_SECONDS or len(whole.text) > _MAX_CHARACTERS):
            yield from _split(segment.words)
        else:
            yield whole


def to_srt(shown: Iterable[Cue]) -> str:
    """SubRip."""
    return "".join(
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{cue.text}\n\n"
        for number, cue in enumerate(shown, start=1)
    )


def to_vtt(shown: Iterable[Cue]) -> str:
    """WebVTT. Source: https://www.w3.org/TR/webvtt1/"""
    return "WEBVTT\n\n" + "".join(
        f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{_escape(cue.text)}\n\n"
        for cue in shown
    )


def _split(words: Sequence[WordMessage]) -> Iterator[Cue]:
    group: list[WordMessage] = []
    for word in words:
        if group and _is_long([*group, word]):
            yield _cue(group)
            group = []
        group.append(word)
    yield _cue(group)


def _is_long(group: Sequence[WordMessage]) -> bool:
    cue = _cue(group)
    return cue.end - cue.start > _MAX_SECONDS or len(cue.text) > _MAX_CHARACTERS


def _cue(group: Sequence[WordMessage]) -> Cue:
    return Cue(group[0].start, group[-1].end, " ".join(word.word for word in group))


def _time(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1_000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1_000:02}{point}{milliseconds % 1_000:03}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

"""Transcripts in OpenAI's response formats. Pure."""

import math
import zlib
from collections.abc import Sequence
from typing import Any, TypeAlias

from starlette.responses import JSONResponse, PlainTextResponse, Response

from stt_server.events import SAMPLE_RATE, Word, seconds
from stt_server.rest.parameters import Granularity, Parameters, ResponseFormat
from stt_server.rest.results import Cue, FileTranscript

Json: TypeAlias = dict[str, Any]
LEAST_CONFIDENCE = 1e-4
"""A logarithm of 0 could not be written."""


def answer(transcript: FileTranscript, asked: Parameters, *, samples: int) -> Response:
    """The whole answer.

    Args:
        samples: Of the file.
    """
    match asked.response_format:
        case ResponseFormat.TEXT:
            return PlainTextResponse(transcript.text + "\n")
        case ResponseFormat.SRT:
            return Response(srt(transcript), media_type="application/x-subrip; charset=utf-8")
        case ResponseFormat.VTT:
            return Response(vtt(transcript), media_type="text/vtt; charset=utf-8")
        case ResponseFormat.VERBOSE_JSON:
            return JSONResponse(verbose_json(transcript, asked, samples=samples))
        case ResponseFormat.JSON | ResponseFormat.DIARIZED_JSON:
            return JSONResponse(plain_json(transcript, asked, samples=samples))


def plain_json(transcript: FileTranscript, asked: Parameters, *, samples: int) -> Json:
    """`json`."""
    body: Json = {"text": transcript.text, "usage": _usage(samples)}
    if transcript.language:
        body["languages"] = [{"code": transcript.language}]
    if asked.logprobs:
        body["logprobs"] = [
            _logprob(word) for word in transcript.words if word.confidence is not None
        ]
    return body


def verbose_json(transcript: FileTranscript, asked: Parameters, *, samples: int) -> Json:
    """`verbose_json`, with segments or words or both."""
    body: Json = {
        "task": "transcribe",
        "language": transcript.language or asked.language or "en",
        "duration": seconds(samples),
        "text": transcript.text,
        "usage": _usage(samples),
    }
    if Granularity.SEGMENT in asked.granularities:
        body["segments"] = [_segment(index, cue) for index, cue in enumerate(transcript.cues())]
    if Granularity.WORD in asked.granularities:
        body["words"] = [
            {"word": word.text, "start": seconds(word.start), "end": seconds(word.end)}
            for word in transcript.words
        ]
    return body


def srt(transcript: FileTranscript) -> str:
    """SubRip: numbered cues."""
    return "".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{cue.text}\n\n"
        for number, cue in enumerate(transcript.cues(), start=1)
    )


def vtt(transcript: FileTranscript) -> str:
    """WebVTT."""
    cues = (
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_plain_cue(cue.text)}\n\n"
        for cue in transcript.cues()
    )
    return "WEBVTT\n\n" + "".join(cues)


def _segment(index: int, cue: Cue) -> Json:
    text = cue.text.encode()
    return {
        "id": index,
        "seek": 0,
        "start": seconds(cue.start),
        "end": seconds(cue.end),
        "text": cue.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": _mean_logprob(cue.words),
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 3),
        "no_speech_prob": 0.0,
    }


def _usage(samples: int) -> Json:
    return {"type": "duration", "seconds": seconds(samples)}


def _mean_logprob(words: Sequence[Word]) -> float:
    scores = [_log(word.confidence) for word in words if word.confidence is not None]
    return round(sum(scores) / len(scores), 4) if scores else 0.0


def _logprob(word: Word) -> Json:
    return {
        "token": word.text,
        "bytes": list(word.text.encode()),
        "logprob": round(_log(word.confidence or 0.0), 4),
    }


def _log(confidence: float) -> float:
    return math.log(max(LEAST_CONFIDENCE, min(confidence, 1.0)))


def _clock(sample: int, point: str) -> str:
    milliseconds = round(sample * 1_000 / SAMPLE_RATE)
    whole, thousandths = divmod(milliseconds, 1_000)
    return f"{whole // 3_600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{thousandths:03}"


def _plain_cue(text: str) -> str:
    """WebVTT knows tags and character references."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

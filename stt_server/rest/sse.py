"""Transcripts as server-sent events."""

import json
from collections.abc import Iterator

from stt_server.events import Word
from stt_server.rest.results import FileTranscript, spell

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
MEDIA_TYPE = "text/event-stream"
DONE = b"data: [DONE]\n\n"
DELTA_WORDS = 4
"""What is found at once is sent in portions: clients show text as it grows."""


def event(body: dict[str, object]) -> bytes:
    """One event."""
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


def deltas(words: tuple[Word, ...], *, is_first: bool) -> Iterator[bytes]:
    """Events for the next words of a file; joined, the deltas of a file are its text.

    Args:
        is_first: No words came before.
    """
    for at in range(0, len(words), DELTA_WORDS):
        space = "" if is_first and at == 0 else " "
        text = space + spell(words[at : at + DELTA_WORDS])
        yield event({"type": "transcript.text.delta", "delta": text})


def done(transcript: FileTranscript) -> Iterator[bytes]:
    """What ends a stream."""
    yield event({"type": "transcript.text.done", "text": transcript.text})
    yield DONE

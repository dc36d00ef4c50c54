"""What was said, kept for a file: plain text, SubRip, WebVTT or JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stt_server.clients.captions import cues, to_srt, to_vtt
from stt_server.clients.messages import ServerMessage
from stt_server.protocols.native_messages import TranscriptionSegment


class Transcript:
    """Collects the final segments of a session, and the text of a turn that did not come to one."""

    def __init__(self) -> None:
        self._finals: list[TranscriptionSegment] = []
        self._open: TranscriptionSegment | None = None

    @property
    def has_text(self) -> bool:
        return any(segment.text.strip() for segment in self._finals)

    def add(self, message: ServerMessage) -> None:
        """Keep `message` if it is a final segment, or until the next one."""
        if not isinstance(message, TranscriptionSegment):
            return
        if message.is_final:
            self._finals.append(message)
        self._open = None if message.is_final or not message.text.strip() else message

    def save(self, path: Path) -> None:
        """Write the transcript; the suffix of `path` chooses the format.

        Text without a final is the last, behind `…`; in JSON it is a segment with
        `"isFinal": false`.

        The file is complete or not there: it is written under another name first.

        Raises:
            OSError: it cannot be written.
        """
        segments = self._finals if self._open is None else [*self._finals, self._open]
        text = _FORMATS[path.suffix.lower()](segments)
        unfinished = path.with_name(f".{path.name}.part")
        try:
            unfinished.write_text(text, encoding="utf-8", newline="\n")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _marked(segment: TranscriptionSegment) -> TranscriptionSegment:
    if segment.is_final:
        return segment
    return segment.model_copy(update={"text": f"… {segment.text}", "words": None})


def _to_text(segments: Sequence[TranscriptionSegment]) -> str:
    """One line per turn; the pieces of a turn are joined."""
    lines: list[str] = []
    pieces: list[str] = []
    for segment in map(_marked, segments):
        pieces += segment.text.split()
        if segment.is_end_of_turn:
            lines.append(" ".join(pieces))
            pieces = []
    lines.append(" ".join(pieces))
    return "".join(f"{line}\n" for line in lines if line)


def _to_json(segments: Sequence[TranscriptionSegment]) -> str:
    rows = [segment.model_dump(by_alias=True, exclude_none=True) for segment in segments]
    return json.dumps(rows, ensure_ascii=False, indent=2) + "\n"


_FORMATS: Mapping[str, Callable[[Sequence[TranscriptionSegment]], str]] = {
    ".txt": _to_text,
    ".srt": lambda segments: to_srt(cues(map(_marked, segments))),
    ".vtt": lambda segments: to_vtt(cues(map(_marked, segments))),
    ".json": _to_json,
}

"""From tokens to words with times and confidences."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_lite.results import LANGUAGE_TAG, Marker, Word

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "▁"
_UNKNOWN = "<unk>"
"""SentencePiece writes it as a word of its own, `⁇`."""
_MARKERS = frozenset(Marker)


@dataclass(slots=True)
class _Open:
    """A word that may still grow."""

    text: bytes
    first: int
    last: int
    confidence: float


def words(
    pieces: Sequence[str],
    frames: Sequence[int],
    confidences: Sequence[float],
    *,
    frame_seconds: float,
) -> tuple[Word, ...]:
    """Join SentencePiece pieces into words.

    A word starts at its first token's frame and ends after its last token's frame, but not after
    the next word's start; its confidence is its least sure token's. Markers (`<EOU>`) and language
    tags (`<en-US>`) are no words.

    Args:
        pieces: of the tokens; `▁` begins a word, `<0xE4>` is one byte of UTF-8.
        frames: the encoder frame of each token.
        confidences: of each token.
        frame_seconds: length of an encoder frame.
    """
    found: list[_Open] = []
    begins = True
    for piece, frame, confidence in zip(pieces, frames, confidences, strict=True):
        if piece in _MARKERS or LANGUAGE_TAG.fullmatch(piece):
            continue
        unknown = piece == _UNKNOWN
        if begins or unknown or piece.startswith(_SPACE):
            found.append(_Open(_surface(piece), frame, frame, confidence))
        else:
            word = found[-1]
            word.text += _surface(piece)
            word.last = frame
            word.confidence = min(word.confidence, confidence)
        begins = unknown
    spoken = [word for word in found if word.text]
    ends = [word.last + 1 for word in spoken]
    starts = [word.first for word in spoken[1:]]
    return tuple(
        Word(
            text=word.text.decode(errors="replace"),
            start=word.first * frame_seconds,
            end=min(end, following) * frame_seconds,
            confidence=word.confidence,
        )
        for word, end, following in zip(spoken, ends, [*starts, *ends[-1:]], strict=True)
    )


def _surface(piece: str) -> bytes:
    if piece == _UNKNOWN:
        return "⁇".encode()
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.removeprefix(_SPACE).encode()

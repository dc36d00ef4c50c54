"""Token ids → text, whole or piece by piece, as the checkpoint's own tokenizer decodes them.

The tokenizer libraries decode whole sequences; a live stream needs the text that each new token
adds. So the library that made the tokenizer is asked once what every piece adds to a text, and the
texts are joined here.
"""

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import sentencepiece
import tokenizers

from nemo_lite.errors import CheckpointError
from nemo_lite.results import LANGUAGE_TAG, Marker

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_UNDECODABLE = "\ufffd"


@dataclass(frozen=True, slots=True)
class _Texts:
    """What each id adds to a text: at its start (`first`), where tokenizers drop a space, and
    after it (`later`). Ids in `raw` stand for one byte of a character instead."""

    first: tuple[str, ...]
    later: tuple[str, ...]
    raw: Mapping[int, bytes]
    drops_every_space: bool
    """Several pieces that are nothing but a space leave nothing at the start, not one less."""


class Tokenizer:
    """The piece table of a checkpoint and the text it stands for; immutable, shared by streams."""

    pieces: tuple[str, ...]
    """Id → piece, without the blank."""
    markers: Mapping[int, Marker]
    """Ids of `<EOU>` and `<EOB>`, where the vocabulary has them."""
    language_tags: Mapping[int, str]
    """Ids of tags such as `<en-US>` → `en-US`."""
    serialized: bytes
    """The file it was read from; empty for `from_pieces`."""
    file_name: str
    """`tokenizer.model` or `tokenizer.json`, whichever `serialized` is."""

    def __init__(
        self,
        pieces: Sequence[str],
        decode: Callable[[list[int]], str],
        *,
        serialized: bytes = b"",
        file_name: str = "",
    ) -> None:
        self.pieces = tuple(pieces)
        self.serialized = serialized
        self.file_name = file_name
        self._ids = {piece: id for id, piece in enumerate(self.pieces)}
        self.markers = {self._ids[m.value]: m for m in Marker if m.value in self._ids}
        tags = ((id, LANGUAGE_TAG.fullmatch(piece)) for piece, id in self._ids.items())
        self.language_tags = {id: tag[1] for id, tag in tags if tag}
        self._texts = _probe(self, decode)

    @classmethod
    def from_sentencepiece(cls, model: bytes) -> Self:
        """Read a SentencePiece `.model` file.

        Raises:
            CheckpointError: it is not one.
        """
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=model or b"\0")
        except RuntimeError as error:
            raise CheckpointError(f"not a SentencePiece model: {error}") from error
        pieces = [processor.id_to_piece(id) for id in range(processor.get_piece_size())]
        return cls(pieces, processor.decode, serialized=model, file_name="tokenizer.model")

    @classmethod
    def from_json(cls, document: bytes, *, size: int) -> Self:
        """Read the first `size` ids of a `tokenizer.json`; special tokens have no text.

        Raises:
            CheckpointError: it is not one, or has fewer ids.
        """
        try:
            library = tokenizers.Tokenizer.from_buffer(document)
        except ValueError as error:
            raise CheckpointError(f"not a tokenizer.json: {error}") from error
        if library.get_vocab_size() < size:
            raise CheckpointError(f"{library.get_vocab_size()} tokens, the network has {size}")
        pieces = [library.id_to_token(id) or "" for id in range(size)]
        return cls(pieces, library.decode, serialized=document, file_name="tokenizer.json")

    @classmethod
    def from_pieces(cls, pieces: Sequence[str]) -> Self:
        """A plain piece table, `▁` standing for a space and dropped at the start."""

        def decode(ids: list[int]) -> str:
            return "".join(pieces[id] for id in ids).lstrip("▁").replace("▁", " ")

        return cls(pieces, decode)

    @property
    def size(self) -> int:
        """Number of pieces, which is the blank's id."""
        return len(self.pieces)

    def id_of(self, piece: str) -> int | None:
        """The id of a piece; None where the vocabulary lacks it."""
        return self._ids.get(piece)

    def decode(self, ids: Iterable[int], *, strip_markers: bool = False) -> str:
        """The text of a whole sequence, as the checkpoint's own tokenizer gives it.

        Bytes that form no character are U+FFFD. Markers and language tags are part of the text
        unless `strip_markers`, which decodes as if they were not there.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        detokenizer = Detokenizer(self, strip_markers=strip_markers)
        return detokenizer.push(ids) + detokenizer.finish()


class Detokenizer:
    """The text of one stream, token by token; the deltas joined are `Tokenizer.decode` of all ids.

    Costs the same for each token, however long the stream is.
    """

    def __init__(self, tokenizer: Tokenizer, *, strip_markers: bool = True) -> None:
        self._texts = tokenizer._texts
        self._stripped = (
            {**tokenizer.markers, **tokenizer.language_tags}.keys() if strip_markers else ()
        )
        self._pending = b""
        self._at_start = True

    def push(self, ids: Iterable[int]) -> str:
        """What these ids append to the text; bytes of an unfinished character are held back.

        Raises:
            ValueError: an id is not in the vocabulary; ids before it are taken.
        """
        texts = self._texts
        delta: list[str] = []
        for id in ids:
            if not 0 <= id < len(texts.later):
                raise ValueError(f"token id {id} is not within 0..{len(texts.later) - 1}")
            if id in self._stripped:
                continue
            if id in texts.raw:
                text, self._pending = _split_utf8(self._pending + texts.raw[id], final=False)
                self._at_start = False
            else:
                text = self.finish() + self._text_of(id)
            delta.append(text)
        return "".join(delta)

    def finish(self) -> str:
        """What is held back, as U+FFFD, for the end of the stream; it may go on nevertheless."""
        text, self._pending = _split_utf8(self._pending, final=True)
        return text

    def copy(self) -> Self:
        """An independent detokenizer that continues from here."""
        return copy.copy(self)

    def _text_of(self, id: int) -> str:
        texts = self._texts
        if not self._at_start:
            return texts.later[id]
        dropped = texts.later[id] and not texts.first[id]
        if texts.first[id] or (dropped and not texts.drops_every_space):
            self._at_start = False
        return texts.first[id]


def _probe(tokenizer: Tokenizer, decode: Callable[[list[int]], str]) -> _Texts:
    """Ask the tokenizer's own `decode` for the text of every piece."""
    ids = range(tokenizer.size)
    raw: dict[int, bytes] = {}
    letter = tokenizer.id_of("<0x41>")
    if letter is not None and decode([letter]) == "A":
        matches = ((id, _BYTE_PIECE.fullmatch(tokenizer.pieces[id])) for id in ids)
        raw = {id: bytes.fromhex(match[1]) for id, match in matches if match}
    named = tokenizer.markers.keys() | tokenizer.language_tags.keys()
    first = ["" if id in raw else decode([id]) for id in ids]
    anchor = next((id for id in ids if first[id].strip() and id not in named), None)
    if anchor is None:
        raise CheckpointError("the tokenizer has no piece with a text")
    skip = len(first[anchor])
    later = ["" if id in raw else decode([anchor, id])[skip:] for id in ids]
    for id in named:  # some tokenizers call them special and hide them
        first[id] = later[id] = tokenizer.pieces[id]
    broken = [p for p, text in zip(tokenizer.pieces, later, strict=True) if _UNDECODABLE in text]
    if any(_UNDECODABLE not in piece for piece in broken):
        raise CheckpointError("the tokenizer's pieces are no text on their own (byte-level BPE?)")
    space = next((id for id in ids if later[id] and not first[id]), None)
    return _Texts(tuple(first), tuple(later), raw, space is not None and not decode([space, space]))


def _split_utf8(data: bytes, *, final: bool) -> tuple[str, bytes]:
    """Whole characters, and the bytes that may still become one.

    A byte that belongs to no character is one U+FFFD each, as in SentencePiece.
    """
    text = ""
    while data:
        lead = data[0]
        size = 1 + (lead >= 0xC2) + (lead >= 0xE0) + (lead >= 0xF0)
        if len(data) < size and not final:
            break
        try:
            text += data[:size].decode()
            data = data[size:]
        except UnicodeDecodeError:
            text += _UNDECODABLE
            data = data[1:]
    return text, data

"""Canary-Qwen's prompt as token ids, and what it writes as text and words."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import tokenizers

from nemo_lite.errors import CheckpointError

_DEFAULT_PROMPT = "Transcribe the following:"
# NeMo's `QwenPromptFormatter`. It encodes the turn and the prefix of the answer one by one.
_TURN = "<|im_start|>user\n{message}<|im_end|>\n"
_ANSWER = "<|im_start|>assistant\n"
_DOCUMENT_END = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class PromptIds:
    """Token ids around the frames of the audio."""

    before: tuple[int, ...]
    after: tuple[int, ...]


class SalmTokenizer:
    """The language model's tokenizer plus the tag for audio; immutable, shared by requests."""

    audio_tag: str
    audio_id: int
    """Of the tag; the network has no row for it."""
    eos_id: int
    """Ends an answer."""
    pad_id: int
    """Ends a document, and thus an answer, too."""

    def __init__(
        self,
        library: tokenizers.Tokenizer,
        *,
        audio_tag: str,
        eos: str | int,
        pad: str | int | None,
    ) -> None:
        """Use `from_json`."""
        self._library = library
        self.audio_tag = audio_tag
        self.audio_id = _id_of(library, audio_tag)
        self.eos_id = _id_of(library, eos)
        self.pad_id = _id_of(library, _DOCUMENT_END if pad is None else pad)

    @classmethod
    def from_json(
        cls, document: bytes, *, audio_tag: str, eos: str | int, pad: str | int | None = None
    ) -> Self:
        """Read a `tokenizer.json` and add the audio tag where it is not in it.

        Args:
            document: the file.
            audio_tag: what stands for the audio in a prompt.
            eos: the token that ends an answer, or its id.
            pad: the token that ends a document, or its id; None = Qwen's.

        Raises:
            CheckpointError: it is no tokenizer, or lacks a token of these.
        """
        try:
            library = tokenizers.Tokenizer.from_buffer(document)
        except ValueError as error:
            raise CheckpointError(f"not a tokenizer.json: {error}") from error
        library.no_truncation()
        library.add_special_tokens([audio_tag])
        return cls(library, audio_tag=audio_tag, eos=eos, pad=pad)

    @property
    def size(self) -> int:
        """Number of ids below the audio tag's: those that the network must have a row for."""
        ids = self._library.get_vocab().values()
        return max((id for id in ids if id != self.audio_id), default=-1) + 1

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens of which each ends an answer."""
        return frozenset((self.eos_id, self.pad_id))

    def prompt(self, text: str | None = None) -> PromptIds:
        """The ids of one user turn, split where the audio goes.

        Args:
            text: with the audio tag at most once, where the audio goes; without, it goes to the
                end. None asks for a transcript, as the model was trained.

        Raises:
            ValueError: the tag is in the text more than once.
        """
        text = _DEFAULT_PROMPT if text is None else text
        if self.audio_tag not in text:
            text = f"{text} {self.audio_tag}" if text else self.audio_tag
        ids = self._encode(_TURN.format(message=text)) + self._encode(_ANSWER)
        if ids.count(self.audio_id) != 1:
            raise ValueError(f"a prompt takes {self.audio_tag} once: {text!r:.200}")
        at = ids.index(self.audio_id)
        return PromptIds(tuple(ids[:at]), tuple(ids[at + 1 :]))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of an answer; special tokens and ids without a piece have none.

        Bytes that form no character are U+FFFD.
        """
        return self._library.decode(list(tokens), skip_special_tokens=True)

    def word_spans(self, tokens: Sequence[int]) -> list[tuple[str, int, int]]:
        """The words of an answer and the tokens [first, end) that spell each.

        Words are what white space separates. They share a token that spells the end of one and the
        beginning of the next; a token of nothing but white space may belong to none.
        """
        texts = [self.decode([token]) for token in tokens]
        starts: list[int] = []
        for index, text in enumerate(texts):
            if not starts or text[:1].isspace() or texts[index - 1][-1:].isspace():
                starts.append(index)
        return [
            (word, first, end)
            for first, end in pairwise([*starts, len(texts)])
            for word in self.decode(tokens[first:end]).split()
        ]

    def _encode(self, text: str) -> list[int]:
        return self._library.encode(text, add_special_tokens=False).ids


def _id_of(library: tokenizers.Tokenizer, token: str | int) -> int:
    id = library.token_to_id(token) if isinstance(token, str) else token
    if id is None or not 0 <= id < 2**31 or library.id_to_token(id) is None:
        raise CheckpointError(f"the tokenizer lacks {token!r}")
    return id

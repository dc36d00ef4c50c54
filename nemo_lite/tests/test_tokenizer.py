"""Token ids → text, whole and incrementally, against the libraries' own decoders."""

import io
import json
import tarfile
from functools import cache
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from nemo_lite.errors import CheckpointError
from nemo_lite.results import Marker
from nemo_lite.tests.goldens import GOLDENS, SHARED, case_names, needs_goldens, needs_models
from nemo_lite.tokenizer import Detokenizer, Tokenizer

SENTENCES = [
    "the quick brown fox jumps over the lazy dog",
    "hello world again and again",
    "naïve café über straße",
] * 20
SPACE_RULES: dict[str, dict[str, Any]] = {
    "default": {},
    "one leading space is dropped": {
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    },
    "no space is dropped": {
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
    },
}


@cache
def trained(rule: str) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=310,
        model_type="bpe",
        byte_fallback=True,
        user_defined_symbols=["<EOU>", "<EOB>", "<en-US>", "<de-DE>"],
        minloglevel=2,
        **SPACE_RULES[rule],
    )
    return model.getvalue()


@cache
def bytes_tokenizer(rule: str = "default") -> Tokenizer:
    return Tokenizer.from_sentencepiece(trained(rule))


def ids_of(text: str) -> list[int]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained("default"))
    return processor.encode(text)


@st.composite
def id_lists(draw: st.DrawFn) -> list[int]:
    """Any ids, with more bytes, spaces and specials than chance would give."""
    tokenizer = bytes_tokenizer()
    space = tokenizer.id_of("▁")
    assert space is not None
    any_id = st.integers(0, tokenizer.size - 1)
    one_byte = st.integers(0, 255).map(lambda value: tokenizer.id_of(f"<0x{value:02X}>"))
    character = st.characters(codec="utf-8").map(
        lambda letter: [tokenizer.id_of(f"<0x{value:02X}>") for value in letter.encode()]
    )
    runs = st.one_of(
        any_id.map(lambda id: [id]),
        one_byte.map(lambda id: [id]),
        character,
        st.sampled_from([[space], [0], [1], [2]]),
    )
    return [id for run in draw(st.lists(runs, max_size=12)) for id in run]


def json_tokenizer(decoder: object) -> tokenizers.Tokenizer:
    """The same pieces as `tokenizer.json`, special tokens included."""
    pieces = [*bytes_tokenizer().pieces, "<blank>"]
    library = tokenizers.Tokenizer(
        models.BPE({piece: id for id, piece in enumerate(pieces)}, [], unk_token="<unk>")
    )
    library.add_special_tokens(["<unk>", "<s>", "</s>", "<blank>", "<en-US>", "<de-DE>"])
    library.decoder = decoder
    return library


@cache
def json_pairs() -> list[tuple[tokenizers.Tokenizer, Tokenizer]]:
    libraries = [json_tokenizer(decoder) for decoder in (FALLBACK, METASPACE)]
    size = bytes_tokenizer().size
    return [(each, Tokenizer.from_json(each.to_str().encode(), size=size)) for each in libraries]


FALLBACK = decoders.Sequence(  # pyright: ignore[reportCallIssue]
    [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(content=" ", left=1, right=0),
    ]
)
METASPACE = decoders.Metaspace(replacement="▁", prepend_scheme="always")


@needs_goldens
@pytest.mark.parametrize("name", case_names("nemo_files"))
def test_golden_tokens_give_golden_texts(name: str) -> None:
    expected = json.loads((GOLDENS / "nemo_files" / f"{name}.json").read_text())["expected"]
    with tarfile.open(GOLDENS / "nemo_files" / f"{name}.nemo") as archive:
        (member,) = (n for n in archive.getnames() if n.endswith("tokenizer.model"))
        file = archive.extractfile(member)
        assert file is not None
        tokenizer = Tokenizer.from_sentencepiece(file.read())
    assert list(tokenizer.pieces) == expected["pieces"]
    assert tokenizer.size == expected["vocabulary_size"]
    runs = [
        entry[mode]
        for entry in expected["lookaheads"]
        for mode in ("offline", "short_first", "pad_first")
    ]
    assert any(run["text"] for run in runs)
    for run in runs:
        assert tokenizer.decode(run["tokens"]) == run["text"]


@needs_models
def test_digits_tokens_give_their_texts() -> None:
    expected = json.loads((SHARED / "models" / "digits-expected.json").read_text())
    tokenizer = Tokenizer.from_pieces(expected["pieces"])
    for file in expected["files"].values():
        for run in file["offline"].values():
            assert tokenizer.decode(run["rnnt"]["ids"]) == run["rnnt"]["text"]


@pytest.mark.parametrize("rule", SPACE_RULES)
@given(ids=id_lists())
@settings(deadline=None)
def test_decodes_as_sentencepiece_does(rule: str, ids: list[int]) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained(rule))
    assert bytes_tokenizer(rule).decode(ids) == processor.decode(ids)


@given(
    runs=st.lists(
        st.one_of(
            st.integers(3, bytes_tokenizer().size - 1)
            .filter(lambda id: not bytes_tokenizer().pieces[id].startswith("<0x"))
            .filter(lambda id: id not in bytes_tokenizer().language_tags)
            .map(lambda id: [id]),
            # A broken byte makes that library replace the whole run; a space is stripped only here.
            st.characters(codec="utf-8", exclude_characters=" ").map(
                lambda letter: [
                    bytes_tokenizer().id_of(f"<0x{value:02X}>") or 0 for value in letter.encode()
                ]
            ),
            st.sampled_from([[0], [1], [2]]),
        ),
        max_size=10,
    ),
)
@settings(deadline=None)
def test_decodes_as_tokenizer_json_does(runs: list[list[int]]) -> None:
    ids = [id for run in runs for id in run]
    for library, tokenizer in json_pairs():
        assert tokenizer.decode(ids) == library.decode(ids)


def test_language_tags_are_text_even_where_the_file_calls_them_special() -> None:
    document = json_tokenizer(FALLBACK).to_str().encode()
    tokenizer = Tokenizer.from_json(document, size=bytes_tokenizer().size)
    ids = [*ids_of("hello"), tokenizer.id_of("<en-US>") or 0]
    assert tokenizer.decode(ids) == "hello<en-US>"
    assert tokenizer.decode(ids, strip_markers=True) == "hello"
    assert sorted(tokenizer.language_tags.values()) == ["de-DE", "en-US"]


@given(ids=id_lists(), sizes=st.lists(st.integers(0, 4), max_size=8))
@settings(deadline=None)
def test_deltas_joined_are_the_whole_text(ids: list[int], sizes: list[int]) -> None:
    tokenizer = bytes_tokenizer()
    detokenizer, text, rest = Detokenizer(tokenizer), "", ids
    for size in [*sizes, len(ids)]:
        text += detokenizer.push(rest[:size])
        rest = rest[size:]
    assert text + detokenizer.finish() == tokenizer.decode(ids, strip_markers=True)


def test_unfinished_character_is_held_back() -> None:
    tokenizer = bytes_tokenizer()
    detokenizer = Detokenizer(tokenizer)
    euro = [tokenizer.id_of(f"<0x{value:02X}>") or 0 for value in "€".encode()]
    assert [detokenizer.push([id]) for id in euro] == ["", "", "€"]
    assert detokenizer.push(euro[:2]) == ""
    assert detokenizer.finish() == "\ufffd\ufffd"


def test_markers_are_found_by_piece_and_stripped_from_streams() -> None:
    tokenizer = bytes_tokenizer()
    utterance = tokenizer.id_of("<EOU>")
    assert utterance is not None
    assert tokenizer.markers == {
        utterance: Marker.END_OF_UTTERANCE,
        tokenizer.id_of("<EOB>"): Marker.END_OF_BACKCHANNEL,
    }
    ids = [*ids_of("hello"), utterance, *ids_of("world")]
    assert tokenizer.decode(ids) == "hello<EOU> world"
    assert Detokenizer(tokenizer).push(ids) == "hello world"
    assert Detokenizer(tokenizer, strip_markers=False).push(ids) == "hello<EOU> world"


def test_leading_marker_does_not_bring_a_leading_space() -> None:
    tokenizer = bytes_tokenizer()
    tag = tokenizer.id_of("<de-DE>")
    assert tag is not None
    assert Detokenizer(tokenizer).push([tag, *ids_of("hello")]) == "hello"


def test_copy_goes_its_own_way() -> None:
    tokenizer = bytes_tokenizer()
    euro = [tokenizer.id_of(f"<0x{value:02X}>") or 0 for value in "€".encode()]
    detokenizer = Detokenizer(tokenizer)
    detokenizer.push(euro[:2])
    twin = detokenizer.copy()
    assert detokenizer.push(ids_of("hello")) == "\ufffd\ufffd hello"
    assert twin.push(euro[2:]) == "€"


@pytest.mark.parametrize("id", [-1, 310])
def test_unknown_id_is_refused(id: int) -> None:
    with pytest.raises(ValueError, match="not within"):
        bytes_tokenizer().decode([id])


@pytest.mark.parametrize("model", [b"", b"\0", b"hello", trained("default")[:-5]])
def test_damaged_sentencepiece_model_is_refused(model: bytes) -> None:
    with pytest.raises(CheckpointError, match="SentencePiece"):
        Tokenizer.from_sentencepiece(model)


@pytest.mark.parametrize("document", [b"", b"{}", b"[" * 100_000, b"\xff", b'{"model": 1}'])
def test_damaged_tokenizer_json_is_refused(document: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.from_json(document, size=1)


def test_tokenizer_json_with_too_few_tokens_is_refused() -> None:
    with pytest.raises(CheckpointError, match="311 tokens, the network has 400"):
        Tokenizer.from_json(json_tokenizer(METASPACE).to_str().encode(), size=400)


def test_byte_level_tokenizer_is_refused() -> None:
    library = tokenizers.Tokenizer(models.BPE({"a": 0, "âĤ": 1, "¬": 2}, []))
    library.decoder = decoders.ByteLevel()  # pyright: ignore[reportCallIssue]
    with pytest.raises(CheckpointError, match="no text on their own"):
        Tokenizer.from_json(library.to_str().encode(), size=3)


def test_tokenizer_without_text_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no piece with a text"):
        Tokenizer.from_pieces(["▁", ""])

"""Prompts as ids, answers as text and as words."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from nemo_lite.errors import CheckpointError
from nemo_lite.salm.tests.tiny import AUDIO_TAG, EOS, LLM, PAD, tiny_tokenizer, tokenizer_json
from nemo_lite.salm.tokenizer import SalmTokenizer


def ids(text: str) -> list[int]:
    return Tokenizer.from_buffer(tokenizer_json()).encode(text, add_special_tokens=False).ids


def test_audio_goes_where_the_tag_is() -> None:
    prompt = tiny_tokenizer().prompt(f"hear {AUDIO_TAG}: the rain")

    assert list(prompt.before) == ids("<|im_start|>user\nhear ")
    assert list(prompt.after) == ids(": the rain<|im_end|>\n") + ids("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        (None, f"Transcribe the following: {AUDIO_TAG}"),
        ("hear", f"hear {AUDIO_TAG}"),
        ("", AUDIO_TAG),
    ],
)
def test_audio_goes_to_the_end_of_a_text_without_the_tag(text: str | None, same_as: str) -> None:
    assert tiny_tokenizer().prompt(text) == tiny_tokenizer().prompt(same_as)


def test_turn_and_answer_are_encoded_apart() -> None:
    document = json.loads(tokenizer_json())
    newline = document["model"]["vocab"]["Ċ"]
    end = tiny_tokenizer().prompt().after

    assert end[:2] == (tiny_tokenizer().eos_id, newline)
    assert end.count(newline) == 2


def test_tag_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="once"):
        tiny_tokenizer().prompt(f"{AUDIO_TAG} and {AUDIO_TAG}")


def test_tag_has_an_id_of_its_own_behind_all_others() -> None:
    tokenizer = tiny_tokenizer()

    assert tokenizer.audio_id == tokenizer.size <= LLM.vocabulary_size
    assert tokenizer.end_tokens == {tokenizer.eos_id, tokenizer.pad_id}
    assert tokenizer.decode([tokenizer.eos_id, tokenizer.pad_id, tokenizer.audio_id]) == ""


def test_tag_that_the_tokenizer_knows_already_keeps_its_id() -> None:
    tokenizer = SalmTokenizer.from_json(
        tokenizer_json(), audio_tag="<|im_start|>", eos=EOS, pad=PAD
    )

    assert [tokenizer.audio_id] == ids("<|im_start|>")
    assert tokenizer.size == tiny_tokenizer().size


def test_ends_may_be_named_by_their_ids() -> None:
    tokenizer = tiny_tokenizer()
    same = SalmTokenizer.from_json(
        tokenizer_json(), audio_tag=AUDIO_TAG, eos=tokenizer.eos_id, pad=None
    )

    assert (same.eos_id, same.pad_id) == (tokenizer.eos_id, tokenizer.pad_id)


@pytest.mark.parametrize("eos", ["<|none|>", 10_000, -1, 2**70])
def test_end_that_is_not_in_the_vocabulary_is_refused(eos: str | int) -> None:
    with pytest.raises(CheckpointError, match="the tokenizer lacks"):
        SalmTokenizer.from_json(tokenizer_json(), audio_tag=AUDIO_TAG, eos=eos, pad=PAD)


@pytest.mark.parametrize("document", [b"", b"{}", b"\xff", tokenizer_json()[:500]])
def test_damaged_file_is_refused(document: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"not a tokenizer\.json"):
        SalmTokenizer.from_json(document, audio_tag=AUDIO_TAG, eos=EOS, pad=PAD)


def test_text_is_what_was_encoded_without_special_tokens_and_unknown_ids() -> None:
    tokenizer = tiny_tokenizer()
    tokens = [*ids("we hear the rain."), tokenizer.eos_id, LLM.vocabulary_size - 1]

    assert tokenizer.decode(tokens) == "we hear the rain."
    assert tokenizer.decode([]) == ""


def test_words_know_the_tokens_that_spell_them() -> None:
    tokenizer = tiny_tokenizer()
    tokens = ids("we hear the rain.\nBye!")
    spans = tokenizer.word_spans(tokens)

    assert [word for word, _, _ in spans] == ["we", "hear", "the", "rain.", "Bye!"]
    for word, first, end in spans:
        assert tokenizer.decode(tokens[first:end]).strip() == word
    assert tokenizer.word_spans([]) == []


def test_characters_of_several_tokens_stay_in_their_word() -> None:
    document = json.loads(tokenizer_json())
    letters = {piece: id for piece, id in document["model"]["vocab"].items() if len(piece) == 1}
    spare = [letters.pop("u"), letters.pop("y")]
    vocabulary = letters | dict(zip("Ã¼", spare, strict=True))  # byte by byte: ü
    document["model"] |= {"vocab": vocabulary, "merges": []}
    tokenizer = SalmTokenizer.from_json(
        json.dumps(document).encode(), audio_tag=AUDIO_TAG, eos=EOS, pad=PAD
    )
    space = vocabulary["Ġ"]
    tokens = [vocabulary["f"], *spare, vocabulary["r"], space, vocabulary["e"]]

    assert tokenizer.word_spans(tokens) == [("für", 0, 4), ("e", 5, 6)]
    assert tokenizer.decode(tokens[:2]) == "f\ufffd"


@given(st.lists(st.integers(0, LLM.vocabulary_size - 1), max_size=40))
def test_words_are_those_of_the_text_and_in_order(tokens: list[int]) -> None:
    tokenizer = tiny_tokenizer()
    spans = tokenizer.word_spans(tokens)

    assert [word for word, _, _ in spans] == tokenizer.decode(tokens).split()
    assert all(first < end for _, first, end in spans)
    borders = [(first, end) for _, first, end in spans]
    assert borders == sorted(borders)
    assert all(end <= start for (_, end), (start, _) in pairwise(borders))

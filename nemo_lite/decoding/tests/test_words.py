import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_lite.decoding import words
from nemo_lite.results import Word

Pieces = list[tuple[str, int, float]]


def join(*tokens: tuple[str, int, float], frame_seconds: float = 1.0) -> tuple[Word, ...]:
    pieces, frames, confidences = zip(*tokens, strict=True) if tokens else ((), (), ())
    return words(pieces, frames, confidences, frame_seconds=frame_seconds)


def test_no_token_no_word() -> None:
    assert join() == ()


def test_pieces_join_until_the_next_space() -> None:
    found = join(
        ("▁h", 3, 0.9), ("el", 3, 0.7), ("lo", 5, 0.8), ("▁you", 9, 0.8), frame_seconds=0.08
    )
    assert [word.text for word in found] == ["hello", "you"]
    assert [word.confidence for word in found] == [0.7, 0.8]
    times = [time for word in found for time in (word.start, word.end)]
    assert times == pytest.approx([0.24, 0.48, 0.72, 0.80])


def test_a_word_ends_before_the_next_begins() -> None:
    assert join(("▁a", 4, 1.0), ("b", 7, 1.0), ("▁c", 7, 1.0)) == (
        Word("ab", 4.0, 7.0, 1.0),
        Word("c", 7.0, 8.0, 1.0),
    )


def test_a_first_piece_without_a_space_is_a_word() -> None:
    assert [word.text for word in join(("s", 0, 1.0), ("▁so", 2, 1.0))] == ["s", "so"]


def test_markers_and_language_tags_are_no_words() -> None:
    found = join(
        ("<en-US>", 0, 0.1),
        ("▁yes", 1, 0.9),
        ("<EOU>", 4, 0.1),
        ("▁no", 6, 0.8),
        ("<EOB>", 7, 0.2),
        ("<deu-DE>", 8, 0.1),
        ("<zh-Hans>", 9, 0.1),
    )
    assert found == (Word("yes", 1.0, 2.0, 0.9), Word("no", 6.0, 7.0, 0.8))


def test_a_space_of_its_own_begins_a_word_but_is_none() -> None:
    assert join(("▁", 1, 0.9), ("x", 3, 0.8), ("▁", 5, 0.7), ("▁y", 6, 0.6)) == (
        Word("x", 1.0, 4.0, 0.8),
        Word("y", 6.0, 7.0, 0.6),
    )


def test_bytes_join_to_characters() -> None:
    found = join(("▁gr", 0, 1.0), ("<0xC3>", 1, 1.0), ("<0xBC>", 1, 1.0), ("n", 2, 1.0))
    assert [word.text for word in found] == ["grün"]


def test_half_a_character_is_shown_as_damaged() -> None:
    assert [word.text for word in join(("▁a", 0, 1.0), ("<0xC3>", 1, 1.0))] == [
        "a\N{REPLACEMENT CHARACTER}"
    ]


@pytest.fixture(scope="module")
def sentencepiece_model() -> object:
    spm = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    text = ["the quick brown fox jumps over the lazy dog", "straße über äpfel", "it's one, two."]
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(text * 20),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return spm.SentencePieceProcessor(model_proto=model.getvalue())


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_words_are_those_of_the_decoded_text(data: st.DataObject, sentencepiece_model) -> None:
    model = sentencepiece_model
    usable = [i for i in range(len(model)) if not (model.is_control(i) or model.is_byte(i))]
    ids = data.draw(st.lists(st.sampled_from(usable), max_size=12))
    pieces = [model.id_to_piece(i) for i in ids]
    frames = list(range(len(ids)))
    found = words(pieces, frames, [1.0] * len(ids), frame_seconds=1.0)
    assert [word.text for word in found] == model.decode(ids).split()
    borders = [time for word in found for time in (word.start, word.end)]
    assert borders == sorted(borders)

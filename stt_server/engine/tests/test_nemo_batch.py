"""What the engine room is told of a turn: marks, punctuation that comes late, ids."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nemo_lite
from nemo_lite import Tokenizer
from nemo_lite.tests.tiny import CONFIG, noise, random_network, tiny_model
from stt_server.engine import nemo_batch
from stt_server.engine.nemo_batch import NemoBatch, is_spoken
from stt_server.engine.nemo_messages import HeardTurn
from stt_server.events import Samples

# The model is tiny: a second thread costs more than it brings.
torch.set_num_threads(1)

AUDIO = noise(3, seed=3)
CUT = 25_600


def model_with(pieces: dict[int, str]) -> nemo_lite.Model:
    """Random weights; tokens are words but for these."""
    names = [pieces.get(id, f"▁w{id}") for id in range(CONFIG.vocabulary_size)]
    return nemo_lite.Model(random_network(), Tokenizer.from_pieces(names))


def drain(batch: NemoBatch) -> None:
    while batch.ready:
        batch.step()


def two_turns(model: nemo_lite.Model, *, resets: bool = False) -> tuple[HeardTurn, HeardTurn]:
    """Of one recording that is cut in two."""
    batch = NemoBatch(model, slots=1, lookahead_ms=0, resets_decoder=resets)
    slot = batch.open(None, None)
    turns: list[HeardTurn] = []
    for samples in (AUDIO[:CUT], AUDIO[CUT:]):
        batch.push(slot, samples)
        drain(batch)
        turns.append(batch.turn(slot))
        batch.end_turn(slot, undecoded=False)
    return turns[0], turns[1]


def ids(turn: HeardTurn) -> list[int]:
    return [token.id for token in turn.tokens]


def first_new(turn: HeardTurn) -> int:
    """Where in a turn its second kind of token comes."""
    kinds = ids(turn)
    return next(index for index, id in enumerate(kinds) if id != kinds[0])


def test_a_mark_behind_the_last_word_ends_the_turn() -> None:
    plain, _ = two_turns(tiny_model())
    last = ids(plain)[-1]
    assert last != ids(plain)[0]
    marked, _ = two_turns(model_with({last: "<EOU>"}))
    assert ids(marked) == ids(plain)
    assert marked.mark is not None
    assert marked.mark.confidence == plain.tokens[-1].confidence
    assert 0 < marked.mark.at < CUT
    assert f"w{last}" not in [word.text for word in marked.words]
    backchannel, _ = two_turns(model_with({last: "<EOB>"}))
    assert backchannel.mark is None


def test_a_mark_before_the_last_word_is_withdrawn() -> None:
    plain, _ = two_turns(tiny_model())
    marked, _ = two_turns(model_with({ids(plain)[0]: "<EOU>"}))
    assert ids(plain)[0] not in ids(plain)[-1:]
    assert marked.mark is None


def test_a_mark_without_a_word_belongs_to_the_turn_before() -> None:
    _, plain = two_turns(tiny_model())
    wordless = dict.fromkeys(ids(plain), "▁") | {ids(plain)[-1]: "<EOU>"}
    _, marked = two_turns(model_with(wordless))
    assert ids(marked) == ids(plain)
    assert marked.words == ()
    assert marked.mark is None


def test_models_without_the_marker_say_so() -> None:
    assert NemoBatch(model_with({5: "<EOU>"}), slots=1).marks_turn_ends
    assert not NemoBatch(tiny_model(), slots=1).marks_turn_ends


def test_late_punctuation_is_no_word_of_the_next_turn_but_its_id_is_kept() -> None:
    _, plain = two_turns(tiny_model())
    first, later = ids(plain)[0], ids(plain)[first_new(plain)]
    _, turn = two_turns(model_with({first: "."}))
    assert ids(turn) == ids(plain)
    assert turn.words[0].text.startswith(f"w{later}")
    _, turn = two_turns(model_with({first: "ly"}))
    assert turn.words[0].text == "ly" * first_new(plain)


def test_language_tags_are_among_the_ids_and_outlive_their_turn() -> None:
    plain, _ = two_turns(tiny_model())
    first, second = two_turns(model_with({ids(plain)[0]: "<de-DE>"}))
    assert ids(first) == ids(plain)
    assert first.language == second.language == "de-DE"


@pytest.mark.parametrize(
    ("piece", "expected"), [("▁yes", True), (".", False), ("▁¿", False), ("⁇", True), ("号", True)]
)
def test_what_is_spoken(piece: str, expected: bool) -> None:
    assert is_spoken(piece) is expected


def test_a_decoder_that_is_reset_goes_on_as_if_nothing_had_been_said() -> None:
    carried, reset = two_turns(tiny_model()), two_turns(tiny_model(), resets=True)
    assert carried[0] == reset[0]
    assert len(ids(reset[1])) > 3
    assert carried[1].tokens[0].confidence != reset[1].tokens[0].confidence


def heard(cut: int, between: Callable[[NemoBatch, int], None]) -> HeardTurn:
    """What is heard in `AUDIO` when something happens after `cut` samples."""
    batch = NemoBatch(tiny_model(), slots=2, lookahead_ms=0)
    batch.open(None, None)
    slot = batch.open(None, None)
    batch.push(slot, AUDIO[:cut])
    between(batch, slot)
    batch.push(slot, AUDIO[cut:])
    drain(batch)
    return batch.turn(slot)


@cache
def undisturbed() -> HeardTurn:
    turn = heard(CUT, lambda _batch, _slot: None)
    assert turn.tokens
    return turn


@settings(max_examples=10)
@given(
    cut=st.integers(1, len(AUDIO)),
    extra=st.integers(0, 30_000),
    seed=st.integers(0, 9),
    finish=st.booleans(),
    long=st.booleans(),
)
def test_a_stream_that_is_restored_is_the_one_that_was_copied(
    cut: int, extra: int, seed: int, finish: bool, long: bool
) -> None:
    def try_end(batch: NemoBatch, slot: int) -> None:
        drain(batch)
        batch.turn(slot)
        copy = batch.snapshot(slot)
        more: Samples = noise(2, seed=seed)[:extra]
        batch.push(slot, more)
        if finish:
            batch.finish(slot)
        else:
            batch.pad(slot)
        drain(batch)
        batch.turn(slot)
        batch.restore(slot, copy)

    plain = undisturbed()
    with pytest.MonkeyPatch.context() as patch:
        if long:
            patch.setattr(nemo_batch, "LONG_TURN", 3)
            patch.setattr(nemo_batch, "KEPT_WORDS", 1)
        assert heard(cut, try_end) == plain

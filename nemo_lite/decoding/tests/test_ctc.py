from collections.abc import Iterator
from itertools import groupby

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from nemo_lite.decoding import CtcDecoder, CtcHead
from nemo_lite.decoding.tests.tiny import VOCABULARY, in_pieces, pad, script, tokens_of

BLANK = VOCABULARY

labels = st.lists(st.integers(0, BLANK), max_size=30)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def scripted() -> CtcDecoder:
    """The scores are what the encoder frames say."""
    head = CtcHead(BLANK + 1, VOCABULARY)
    layer = head.decoder_layers[0]
    assert isinstance(layer, nn.Conv1d)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(BLANK + 1)[:, :, None])
        assert layer.bias is not None
        layer.bias.zero_()
    return CtcDecoder(head)


def collapsed(stream: list[int]) -> list[tuple[int, int]]:
    """The definition: (token, first frame) of each run that is not blank."""
    runs = groupby(enumerate(stream), key=lambda item: item[1])
    return [(label, next(run)[0]) for label, run in runs if label != BLANK]


@given(streams=st.lists(labels, min_size=1, max_size=4), data=st.data())
@settings(max_examples=60, deadline=None)
def test_runs_collapse_wherever_a_stream_is_cut(
    streams: list[list[int]], data: st.DataObject
) -> None:
    decoder = scripted()
    expected = [collapsed(stream) for stream in streams]
    frames = [script(stream)[0] for stream in streams]
    slots = torch.tensor(data.draw(st.permutations(range(5))))[: len(streams)]
    whole = decoder.decode(*pad(frames), decoder.new_state(5), slots)
    assert tokens_of(whole) == expected
    state = decoder.new_state(5)
    sizes = st.lists(st.integers(0, 5), min_size=len(streams), max_size=len(streams))
    found = in_pieces(
        frames,
        lambda: data.draw(sizes.filter(any)),
        lambda encoded, lengths: decoder.decode(encoded, lengths, state, slots),
    )
    assert found == expected
    assert state["frames"][slots].tolist() == [len(stream) for stream in streams]


def test_a_token_is_as_sure_as_the_first_frame_of_its_run() -> None:
    decoder = scripted()
    frames = script([BLANK, 2, 2, 3])
    frames[0, 2] *= 100
    decoded = decoder.decode(frames, torch.tensor([4]), decoder.new_state(1), torch.tensor([0]))
    probability = 1 / (1 + 6 * torch.exp(torch.tensor(-10.0)))
    expected = (7 * probability - 1) / 6
    assert tokens_of(decoded) == [[(2, 1), (3, 3)]]
    assert_close(decoded.confidences[0, :2], expected.expand(2))


def test_a_stream_without_new_frames_keeps_its_state() -> None:
    decoder = scripted()
    state, slots = decoder.new_state(2), torch.tensor([1, 0])
    decoder.decode(script([2]).expand(2, -1, -1), torch.tensor([1, 1]), state, slots)
    nothing = decoder.decode(script([5]).expand(2, -1, -1), torch.tensor([1, 0]), state, slots)
    assert nothing.counts.tolist() == [1, 0]
    later = decoder.decode(script([2]).expand(2, -1, -1), torch.tensor([1, 1]), state, slots)
    assert tokens_of(later) == [[(2, 2)], []]


def test_a_cleared_slot_and_a_snapshot() -> None:
    decoder = scripted()
    state, slot = decoder.new_state(2), torch.tensor([0])
    decoder.decode(script([2]), torch.tensor([1]), state, slot)
    state.load(1, state.save(0))
    state.clear(0)
    both = decoder.decode(
        script([2]).expand(2, -1, -1), torch.tensor([1, 1]), state, torch.tensor([0, 1])
    )
    assert tokens_of(both) == [[(2, 0)], []]


def test_static_shapes_need_no_other_way() -> None:
    decoder = scripted()
    arguments = (script([1, BLANK, 1, 1]), torch.tensor([4]), decoder.new_state(1))
    decoded, done = decoder.decode_fixed(*arguments, torch.tensor([0]), 1)
    assert decoded.tokens.shape == (1, 4)
    assert tokens_of(decoded) == [[(1, 0), (1, 2)]]
    assert done.tolist() == [True]


def test_a_decoder_that_forgot_says_a_token_again() -> None:
    decoder = scripted()
    state, both = decoder.new_state(2), torch.tensor([0, 1])
    encoded, lengths = script([2]).expand(2, -1, -1), torch.tensor([1, 1])
    decoder.decode(encoded, lengths, state, both)
    state.forget(0)
    assert tokens_of(decoder.decode(encoded, lengths, state, both)) == [[(2, 1)], []]

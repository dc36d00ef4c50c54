from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from nemo_lite.decoding import DecoderState, RnntDecoder
from nemo_lite.decoding.confidence import max_prob
from nemo_lite.decoding.tests.tiny import (
    DURATIONS,
    VOCABULARY,
    WIDTH,
    in_pieces,
    pad,
    random_transducer,
    script,
    scripted_transducer,
    tokens_of,
)
from nemo_lite.decoding.trace import trace
from nemo_lite.errors import ShapeError

BLANK = VOCABULARY
both_kinds = pytest.mark.parametrize("durations", [(), DURATIONS], ids=["rnnt", "tdt"])


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def decoder_of(durations: tuple[int, ...], *, max_symbols: int = 3) -> RnntDecoder:
    return RnntDecoder(*random_transducer(durations=durations), max_symbols=max_symbols)


def noise(*lengths: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(length, WIDTH, generator=generator, dtype=torch.float64) for length in lengths
    ]


def same_state(state: DecoderState, other: DecoderState, slots: Tensor | None = None) -> None:
    where = slice(None) if slots is None else slots
    for name in ("hidden", "cell", "predicted", "frames", "pointer", "symbols"):
        assert_close(state[name][where], other[name][where])


@both_kinds
@pytest.mark.parametrize("max_symbols", [1, 2, 10])
def test_a_batch_equals_the_plain_decoding(durations: tuple[int, ...], max_symbols: int) -> None:
    predictor, joint = random_transducer(durations=durations)
    decoder = RnntDecoder(predictor, joint, max_symbols=max_symbols)
    streams = noise(40, 1, 0, 133, 17)
    state, slots = decoder.new_state(7), torch.tensor([6, 0, 2, 5, 1])
    decoded = decoder.decode(*pad(streams), state, slots)
    emitted = 0
    for row, stream in enumerate(streams):
        traced = trace(predictor, joint, stream, max_symbols=max_symbols)
        assert tokens_of(decoded)[row] == list(zip(traced.tokens, traced.token_frames, strict=True))
        is_token = torch.tensor([label != BLANK for _, label in traced.steps], dtype=torch.bool)
        confidences = decoded.confidences[row, : len(traced.tokens)]
        assert_close(confidences, max_prob(traced.log_probs)[is_token])
        emitted += len(traced.tokens)
        assert int(state["frames"][slots[row]]) == len(stream)
    assert 30 < emitted < 191 * max_symbols  # neither silence nor a babble


@both_kinds
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_how_a_stream_is_cut_does_not_matter(
    data: st.DataObject, durations: tuple[int, ...]
) -> None:
    decoder = decoder_of(durations)
    streams = noise(*data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=4)))
    slots = torch.tensor(data.draw(st.permutations(range(6))))[: len(streams)]
    whole, cut = decoder.new_state(6), decoder.new_state(6)
    expected = tokens_of(decoder.decode(*pad(streams), whole, slots))
    sizes = st.lists(st.integers(0, 9), min_size=len(streams), max_size=len(streams))
    found = in_pieces(
        streams,
        lambda: data.draw(sizes.filter(any)),
        lambda encoded, lengths: decoder.decode(encoded, lengths, cut, slots),
    )
    assert found == expected
    same_state(cut, whole)


@both_kinds
def test_a_stream_alone_equals_one_among_others(durations: tuple[int, ...]) -> None:
    decoder = decoder_of(durations)
    streams = noise(*range(1, 34))
    together = decoder.new_state(len(streams))
    slots = torch.arange(len(streams))
    decoded = tokens_of(decoder.decode(*pad(streams), together, slots))
    for row, stream in enumerate(streams):
        alone = decoder.new_state(1)
        single = decoder.decode(*pad([stream]), alone, torch.tensor([0]))
        assert tokens_of(single)[0] == decoded[row]
        assert_close(alone["hidden"][0], together["hidden"][row])


@both_kinds
@pytest.mark.parametrize("iterations", [1, 2, 7, 60])
def test_fixed_iterations_equal_the_free_ones(durations: tuple[int, ...], iterations: int) -> None:
    decoder = decoder_of(durations)
    streams = noise(9, 0, 14, 3)
    encoded, lengths = pad(streams)
    slots = torch.tensor([3, 1, 0, 4])
    free, fixed = decoder.new_state(5), decoder.new_state(5)
    for _ in range(2):  # the second piece begins where durations of the first lead
        expected = tokens_of(decoder.decode(encoded, lengths, free, slots))
        found: list[list[tuple[int, int]]] = [[] for _ in streams]
        left, calls, done = lengths, 0, torch.zeros(4, dtype=torch.bool)
        while not done.all():
            decoded, done = decoder.decode_fixed(encoded, left, fixed, slots, iterations)
            assert decoded.tokens.shape == (4, iterations)
            for row, new in zip(found, tokens_of(decoded), strict=True):
                row += new
            left = left * ~done
            calls += 1
        assert found == expected
        # An iteration finds a token of each stream; one more may be needed to find none.
        longest = max(len(row) for row in expected)
        assert longest <= calls * iterations <= longest + iterations + 1
        same_state(fixed, free)


@both_kinds
@pytest.mark.parametrize("block_frames", [1, 5, 64])
def test_blocks_equal_the_whole(durations: tuple[int, ...], block_frames: int) -> None:
    decoder = decoder_of(durations)
    encoded, lengths = pad(noise(20, 3, 0, 31))
    slots = torch.arange(4)
    packed, blocks = decoder.new_state(4), decoder.new_state(4)
    expected = decoder.decode(encoded, lengths, packed, slots)
    found = decoder.decode_blocks(encoded, lengths, blocks, slots, block_frames=block_frames)
    assert tokens_of(found) == tokens_of(expected)
    assert_close(found.confidences, expected.confidences)
    same_state(blocks, packed)


@both_kinds
def test_a_cleared_slot_remembers_nothing(durations: tuple[int, ...]) -> None:
    decoder = decoder_of(durations)
    before, after = noise(21, 13)
    used, fresh = decoder.new_state(3), decoder.new_state(3)
    for slot in range(3):
        decoder.decode(*pad([before]), used, torch.tensor([slot]))
    used.clear(1)
    used.clear(torch.tensor([2]))
    same_state(used, fresh, torch.tensor([1, 2]))
    assert int(used["frames"][0]) == 21  # the neighbour goes on
    again = decoder.decode(*pad([after]), used, torch.tensor([1]))
    first = decoder.decode(*pad([after]), fresh, torch.tensor([1]))
    assert tokens_of(again) == tokens_of(first)


@both_kinds
def test_a_snapshot_goes_on_in_another_slot(durations: tuple[int, ...]) -> None:
    decoder = decoder_of(durations)
    (stream,) = noise(40)
    state = decoder.new_state(4)
    decoder.decode(*pad([stream[:17]]), state, torch.tensor([2]))
    snapshot = state.save(2)
    expected = tokens_of(decoder.decode(*pad([stream[17:]]), state, torch.tensor([2])))
    assert expected[0]
    state.load(0, snapshot)
    found = tokens_of(decoder.decode(*pad([stream[17:]]), state, torch.tensor([0])))
    assert found == expected


@both_kinds
def test_a_stream_without_new_frames_keeps_its_state(durations: tuple[int, ...]) -> None:
    decoder = decoder_of(durations)
    state, slots = decoder.new_state(3), torch.tensor([2, 0])
    streams = noise(8, 8)
    decoder.decode(*pad(streams), state, slots)
    before = state.save(0)
    decoded = decoder.decode(pad(streams)[0], torch.tensor([8, 0]), state, slots)
    assert int(decoded.counts[1]) == 0
    for name, tensor in before.tensors.items():
        assert torch.equal(state[name][0], tensor), name
    assert int(state["frames"][2]) == 16


@pytest.mark.parametrize("max_symbols", [1, 2, 5])
@pytest.mark.parametrize("durations", [(), DURATIONS], ids=["rnnt", "tdt"])
def test_a_frame_that_never_ends_gives_max_symbols(
    durations: tuple[int, ...], max_symbols: int
) -> None:
    decoder = RnntDecoder(*scripted_transducer(durations=durations), max_symbols=max_symbols)
    labels = [4, BLANK, 2, 3]
    frames = script(labels, [0, 1, 0, 0] if durations else None)
    expected = [(label, t) for t, label in enumerate(labels) if label != BLANK]
    expected = [token for token in expected for _ in range(max_symbols)]
    whole = decoder.decode(frames, torch.tensor([4]), decoder.new_state(1), torch.tensor([0]))
    assert tokens_of(whole) == [expected]
    # The count starts anew with each frame, pieces or not.
    state = decoder.new_state(1)
    found = in_pieces(
        [frames[0]], lambda: [1], lambda x, n: decoder.decode(x, n, state, torch.tensor([0]))
    )
    assert found == [expected]


@pytest.mark.parametrize("size", [1, 2, 3, 20])
def test_a_duration_leads_into_later_pieces(size: int) -> None:
    decoder = RnntDecoder(*scripted_transducer(durations=DURATIONS), max_symbols=3)
    #         0  1      2      3  4      5  6  7  8  9
    labels = [1, 5, 5, BLANK, 5, BLANK, 5, 2, 5, 3]
    frames = script(labels, [3, 0, 0, 2, 0, 0, 1, 2, 1, 4])
    # 0 leads to 3, a blank of 2 to 5, a blank of 0 to 6, 6 to 7, 7 to 9.
    expected = [(1, 0), (5, 6), (2, 7), (3, 9)]
    state = decoder.new_state(1)
    found = in_pieces(
        [frames[0]], lambda: [size], lambda x, n: decoder.decode(x, n, state, torch.tensor([0]))
    )
    assert found == [expected]
    assert int(state["pointer"][0]) == 3  # 4 frames from frame 9


def test_silence_gives_nothing_and_moves_nothing() -> None:
    decoder = RnntDecoder(*scripted_transducer(), max_symbols=3)
    state = decoder.new_state(2)
    before = state.save(0)
    decoded = decoder.decode(
        script([BLANK] * 5).expand(2, -1, -1), torch.tensor([5, 3]), state, torch.tensor([0, 1])
    )
    assert decoded.tokens.shape == (2, 0)
    assert decoded.counts.tolist() == [0, 0]
    assert torch.equal(state["hidden"][0], before.tensors["hidden"])
    assert state["frames"].tolist() == [5, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("durations", [(), DURATIONS], ids=["rnnt", "tdt"])
def test_half_precision(durations: tuple[int, ...], dtype: torch.dtype) -> None:
    predictor, joint = scripted_transducer(durations=durations)
    decoder = RnntDecoder(predictor.to(dtype), joint.to(dtype), max_symbols=1)
    frames = script([4, BLANK, 2], [1, 1, 1] if durations else None).to(dtype)
    state, slots, lengths = decoder.new_state(1), torch.tensor([0]), torch.tensor([3])
    decoded = decoder.decode(frames, lengths, state, slots)
    assert tokens_of(decoded) == [[(4, 0), (2, 2)]]
    assert state["hidden"].dtype == dtype
    assert decoded.confidences.dtype == torch.float32
    others = 6 * torch.exp(torch.tensor(-10.0))
    expected = (7 / (1 + others) - 1) / 6
    assert_close(decoded.confidences, expected.expand(1, 2), atol=1e-6, rtol=0)
    decoded, done = decoder.decode_fixed(frames, lengths, state, slots, 3)
    assert tokens_of(decoded) == [[(4, 3), (2, 5)]]
    assert done.tolist() == [True]


def test_a_state_made_in_inference_mode_is_cleared_outside_of_it() -> None:
    state = decoder_of(()).new_state(1)
    with torch.inference_mode(False):
        state.clear(0)
        state.load(0, state.save(0))
    assert not state["hidden"].requires_grad


def test_shapes_are_checked() -> None:
    decoder = decoder_of(())
    encoded, lengths = pad(noise(3, 2))
    state, slots = decoder.new_state(2), torch.tensor([0, 1])
    with pytest.raises(ShapeError, match="dimensions"):
        decoder.decode(encoded[0], lengths, state, slots)
    with pytest.raises(ShapeError, match="lengths"):
        decoder.decode(encoded, lengths[:1], state, slots)
    with pytest.raises(ShapeError, match="slots"):
        decoder.decode(encoded, lengths, state, slots.int())


@both_kinds
def test_a_decoder_that_forgot_goes_on_where_it_stood(durations: tuple[int, ...]) -> None:
    decoder = decoder_of(durations)
    before, after = noise(21, 40)
    used, fresh = decoder.new_state(2), decoder.new_state(2)
    both = torch.tensor([0, 1])
    decoder.decode(*pad([before, before]), used, both)
    ahead = int(used["pointer"][0])  # where a duration of the last token leads
    used.forget(0)
    forgot, knows = tokens_of(decoder.decode(*pad([after, after]), used, both))
    first = tokens_of(decoder.decode(*pad([after[ahead:]]), fresh, torch.tensor([0])))[0]
    assert forgot == [(token, frame + 21 + ahead) for token, frame in first]
    assert forgot != knows

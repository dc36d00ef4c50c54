"""The layers against a plain float32 rendering, and that streams do not touch each other."""

import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import nemo_lite_cpu
import numpy as np
import pytest
from nemo_lite_cpu import Encoder, isas
from reference import Floats, Layer, Sizes, encode, random_layers

ISAS = isas()
SIZES = Sizes()
LAYERS = random_layers(SIZES)


def make(
    sizes: Sizes = SIZES,
    layers: list[Layer] | None = None,
    *,
    slots: int = 4,
    threads: int = 1,
    isa: str | None = None,
) -> Encoder:
    return Encoder(
        iter(layers or LAYERS),
        heads=sizes.heads,
        left=sizes.left,
        max_chunk=sizes.max_chunk,
        slots=slots,
        threads=threads,
        isa=isa,
    )


def frames(count: int, seed: int = 1, width: int = SIZES.width) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def step(encoder: Encoder, *parts: tuple[int, Floats], left: int | list[int] = 6) -> list[Floats]:
    """One chunk per (slot, rows); the outputs in the same order."""
    lengths = [len(rows) for _, rows in parts]
    out = encoder.step(
        np.concatenate([rows for _, rows in parts]),
        np.array([slot for slot, _ in parts]),
        np.array(lengths),
        np.array(lengths),
        np.array(left if isinstance(left, list) else [left] * len(parts)),
    )
    return np.split(out, np.cumsum(lengths)[:-1])


def run(encoder: Encoder, x: Floats, chunks: list[int], *, slot: int = 0, left: int = 6) -> Floats:
    pieces = np.split(x, np.cumsum(chunks)[:-1])
    return np.concatenate([step(encoder, (slot, piece), left=left)[0] for piece in pieces])


def difference(a: Floats, b: Floats) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("sizes", "chunks", "left"),
    [
        (Sizes(), [1, 3, 2, 1, 3, 3, 2, 3, 3, 3], 6),
        (Sizes(), [3] * 8, 3),
        (Sizes(left=0, max_chunk=1), [1] * 12, 0),
        (Sizes(width=128, heads=4, left=70, max_chunk=14, bias=False), [14] * 9, 70),
        (Sizes(width=256, heads=2, left=70, max_chunk=14, taps=5), [2] * 50, 70),
        (Sizes(width=80, heads=2, left=16, max_chunk=4, expansion=3), [4] * 9, 16),
        (Sizes(width=64, heads=8, taps=1), [2, 1] * 5, 6),
    ],
)
def test_equals_the_float_reference_but_for_quantisation(
    isa: str, sizes: Sizes, chunks: list[int], left: int
) -> None:
    layers = random_layers(sizes)
    x = frames(sum(chunks), width=sizes.width)
    got = run(make(sizes, layers, isa=isa), x, chunks, left=left)
    assert difference(got, encode(sizes, layers, x, chunks, left)) < 0.03


# avx2 rounds weights in its own way.
@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa != "avx2"])
@pytest.mark.parametrize("left", [6, 4])
def test_equals_the_reference_that_quantises_alike(isa: str, left: int) -> None:
    sizes = Sizes(layers=1)
    layers = random_layers(sizes)
    chunks = [1, 3, 2, 1, 3, 3, 2, 3, 3, 3]
    x = frames(sum(chunks))
    got = run(make(sizes, layers, isa=isa), x, chunks, left=left)
    expected = encode(sizes, layers, x, chunks, left, quantised=True)
    errors = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    # A number that rounds the other way may move a few rows.
    assert np.median(errors) < 1e-5
    assert errors.max() < 0.02


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_stream_does_not_depend_on_its_neighbours_slot_or_place(isa: str, threads: int) -> None:
    x = frames(30)
    chunks = [2, 3, 1] * 5
    alone = run(make(isa=isa), x, chunks)
    encoder = make(isa=isa, threads=threads, slots=6)
    random = np.random.default_rng(2)
    run(encoder, frames(17, seed=3), [1] * 17, slot=4)  # a neighbour of another age
    at = 0
    for chunk in chunks:
        parts = [(slot, frames(int(random.integers(1, 4)), seed=at)) for slot in (4, 0, 5)]
        place = int(random.integers(0, 4))
        parts.insert(place, (2, x[at : at + chunk]))
        lefts = [3] * 4
        lefts[place] = 6
        got = step(encoder, *parts, left=lefts)[place]
        np.testing.assert_array_equal(got, alone[at : at + chunk])
        at += chunk


@pytest.mark.parametrize("isa", ISAS)
def test_every_batch_size_gives_the_same_bits(isa: str) -> None:
    count = 40  # several tiles of rows on every instruction set
    parts = [(slot, frames(1 + slot % 3, seed=slot)) for slot in range(count)]
    together = step(make(isa=isa, slots=count, threads=2), *parts)
    alone = make(isa=isa, slots=1)
    for (_, rows), expected in zip(parts, together, strict=True):
        alone.clear(0)
        np.testing.assert_array_equal(step(alone, (0, rows))[0], expected)


@pytest.mark.parametrize("isa", ISAS)
def test_later_frames_do_not_change_earlier_ones(isa: str) -> None:
    x = frames(12)
    changed = x.copy()
    changed[6:] += 1
    chunks = [3, 3, 3, 3]
    before, after = run(make(isa=isa), x, chunks), run(make(isa=isa), changed, chunks)
    np.testing.assert_array_equal(before[:6], after[:6])
    assert not np.array_equal(before[6:], after[6:])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("valid", [1, 2])
def test_padding_changes_nothing_before_it(isa: str, valid: int) -> None:
    encoder = make(isa=isa, slots=2)
    x = frames(9)
    for slot in (0, 1):
        run(encoder, x[:6], [3, 3], slot=slot)
    short = step(encoder, (0, x[6 : 6 + valid]))[0]
    one = np.array([1])
    padded = encoder.step(x[6:], one, one * 3, one * valid, one * 6)
    np.testing.assert_array_equal(padded[:valid], short)
    assert np.isfinite(padded).all()


def test_a_cleared_slot_starts_anew() -> None:
    encoder = make()
    x = frames(12)
    first = run(encoder, x, [3] * 4)
    assert not np.array_equal(run(encoder, x, [3] * 4), first)
    encoder.clear(0)
    np.testing.assert_array_equal(run(encoder, x, [3] * 4), first)


@pytest.mark.parametrize("frames_before", [0, 1, 5, 40])
def test_a_saved_stream_goes_on_in_another_encoder_and_slot(frames_before: int) -> None:
    x = frames(frames_before + 6)
    encoder, other = make(), make(threads=2)
    for count in range(frames_before):
        step(encoder, (0, x[count : count + 1]))
    state = encoder.save(0)
    run(other, frames(5, seed=9), [1] * 5, slot=3)
    other.load(3, state)
    assert other.save(3) == state
    rest = x[frames_before:]
    np.testing.assert_array_equal(run(other, rest, [3, 3], slot=3), run(encoder, rest, [3, 3]))
    assert len(state) <= encoder.cache_bytes_per_slot + 64


def test_a_state_shows_nothing_of_an_earlier_stream() -> None:
    encoder = make()
    empty = encoder.save(0)
    run(encoder, frames(12), [3] * 4)
    encoder.clear(0)
    assert encoder.save(0) == empty


def test_a_state_that_does_not_fit_is_refused() -> None:
    encoder = make()
    x = frames(6)
    run(encoder, x, [3, 3])
    state = encoder.save(0)
    other = make(Sizes(left=8), random_layers(Sizes(left=8)))
    for bad in (b"", state[:-1], state + b"x", b"\0" + state[1:]):
        with pytest.raises(ValueError, match="state"):
            encoder.load(0, bad)
    with pytest.raises(ValueError, match="sizes"):
        other.load(0, state)
    assert encoder.save(0) == state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": [0, 0]}, "twice"),
        ({"slots": [0, 4]}, "slot 4"),
        ({"slots": [0, -1]}, "negative"),
        ({"slots": [0]}, "length"),
        ({"frames": [1, 4]}, "max_chunk"),
        ({"frames": [1, 1]}, "rows"),
        ({"valid": [1, 3]}, "valid"),
        ({"valid": [0, 2]}, "valid"),
        ({"left": [6, 7]}, "left"),
    ],
)
def test_a_bad_step_advances_nothing(change: dict[str, list[int]], message: str) -> None:
    encoder = make()
    arguments = {"slots": [0, 1], "frames": [1, 2], "valid": [1, 2], "left": [6, 6]} | change
    rows = 5 if message == "max_chunk" else 3
    with pytest.raises(ValueError, match=message):
        encoder.step(frames(rows), *(np.array(column) for column in arguments.values()))
    assert encoder.save(0) == encoder.save(1) == make().save(0)


def test_rows_of_the_wrong_width_or_type_are_refused() -> None:
    encoder, one = make(), np.array([1])
    with pytest.raises(ValueError, match="64"):
        encoder.step(frames(1, width=48), one, one, one, one)
    with pytest.raises(TypeError):
        encoder.step(frames(1).astype(np.float64), one, one, one, one)  # pyright: ignore[reportArgumentType]


def test_no_chunks_are_no_rows() -> None:
    none = np.array([], dtype=np.int64)
    assert make().step(frames(0), none, none, none, none).shape == (0, SIZES.width)


@pytest.mark.parametrize(
    "name", ["norm_conv.weight", "positions", "conv.depthwise_conv.weight", "self_attn.pos_bias_u"]
)
def test_missing_and_misshapen_arrays_are_named(name: str) -> None:
    missing = {key: value for key, value in LAYERS[0].items() if key != name}
    with pytest.raises(ValueError, match=name):
        make(layers=[missing])
    with pytest.raises(ValueError, match=name):
        make(layers=[LAYERS[0] | {name: np.zeros((3, 1, 0), np.float32)}])


@pytest.mark.parametrize(
    "options",
    [{"heads": 3}, {"heads": 0}, {"threads": 0}, {"slots": 0}, {"max_chunk": 0}, {"isa": "mmx"}],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, int | str]) -> None:
    sizes = {"heads": 4, "left": 6, "max_chunk": 3, "slots": 1, "threads": 1}
    with pytest.raises(ValueError, match=r"."):
        Encoder(LAYERS, **(sizes | options))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="no layers"):
        Encoder([], **sizes)  # pyright: ignore[reportArgumentType]


def test_layers_are_taken_one_at_a_time() -> None:
    taken: list[int] = []

    def layers() -> Iterator[Layer]:
        for index, layer in enumerate(LAYERS):
            taken.append(index)
            # Not contiguous and not float32: converted on the way.
            yield {
                name: np.asfortranarray(array.astype(np.float64)) for name, array in layer.items()
            }  # pyright: ignore[reportReturnType]

    encoder = Encoder(layers(), heads=4, left=6, max_chunk=3, slots=1, threads=1)
    assert taken == [0, 1]
    x = frames(3)
    np.testing.assert_array_equal(run(encoder, x, [3]), run(make(), x, [3]))


def test_properties() -> None:
    encoder = make(threads=2, isa="portable")
    assert (encoder.slots, encoder.d_model, encoder.threads) == (4, 64, 2)
    assert (encoder.isa, make().isa) == ("portable", ISAS[0])
    weights = sum(array.size for layer in LAYERS for array in layer.values())
    assert weights < encoder.weight_bytes < 2 * weights
    assert nemo_lite_cpu.__all__ == ["Encoder", "Linear", "Subsampling", "isas"]


def test_a_fork_has_the_same_weights_and_streams_of_its_own() -> None:
    encoder, x = make(threads=2, slots=1), frames(12)
    expected = run(encoder, x, [3] * 4)
    fork = encoder.fork(3)
    assert (fork.slots, fork.weight_bytes) == (3, encoder.weight_bytes)
    state = encoder.save(0)
    np.testing.assert_array_equal(run(fork, x, [3] * 4, slot=2), expected)
    assert encoder.save(0) == state == fork.save(2)
    del encoder
    fork.clear(2)
    np.testing.assert_array_equal(run(fork, x, [3] * 4, slot=2), expected)
    with pytest.raises(ValueError, match="slots"):
        fork.fork(0)


def test_steps_from_many_threads_take_turns() -> None:
    encoder = make(threads=2)
    x = frames(30)
    alone = run(make(), x, [3] * 10)
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda slot: run(encoder, x, [3] * 10, slot=slot), range(4))
        for result in results:
            np.testing.assert_array_equal(result, alone)


def test_the_gil_is_free_during_a_step() -> None:
    encoder = make(slots=4)
    ticks, done = 0, threading.Event()

    def work() -> None:
        for _ in range(200):
            step(encoder, *((slot, frames(3)) for slot in range(4)))
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        ticks += 1
    thread.join()
    assert ticks > 0


def _run_in_child(encoder: Encoder, x: Floats, expected: Floats) -> None:
    np.testing.assert_array_equal(run(encoder, x, [3] * 4, slot=1), expected)


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this platform"
)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_an_encoder_works_on_both_sides_of_a_fork() -> None:
    encoder, x = make(threads=3), frames(12)
    expected = run(encoder, x, [3] * 4)
    child = multiprocessing.get_context("fork").Process(
        target=_run_in_child, args=(encoder, x, expected)
    )
    child.start()
    child.join(60)
    assert child.exitcode == 0
    encoder.clear(0)
    np.testing.assert_array_equal(run(encoder, x, [3] * 4), expected)

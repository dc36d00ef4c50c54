"""The subsampling against a plain float32 rendering of whole recordings."""

import numpy as np
import pytest
from nemo_lite_cpu import Subsampling, isas
from reference import Floats

ISAS = isas()
UNBOUNDED = 2**40
Weights = dict[str, Floats]


def random_weights(n_mels: int, channels: int, width: int, factor: int, seed: int = 0) -> Weights:
    random = np.random.default_rng(seed)
    weights: Weights = {}

    def add(name: str, *shape: int) -> None:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        weights[f"{name}.weight"] = (random.standard_normal(shape) * scale).astype(np.float32)
        weights[f"{name}.bias"] = (random.standard_normal(shape[0]) * 0.1).astype(np.float32)

    add("conv.0", channels, 1, 3, 3)
    bins = n_mels // 2 + 1
    for stage in range(factor.bit_length() - 2):
        add(f"conv.{2 + 3 * stage}", channels, 1, 3, 3)
        add(f"conv.{3 + 3 * stage}", channels, channels, 1, 1)
        bins = bins // 2 + 1
    add("out", width, channels * bins)
    return weights


def subsample(weights: Weights, mel: Floats) -> Floats:
    """(T, n_mels) of a whole recording → (T', D)."""
    x = _convolve(mel[:, :, None], weights, "conv.0")
    x = np.maximum(x, 0)
    at = 2
    while f"conv.{at}.weight" in weights:
        x = _convolve(x, weights, f"conv.{at}")
        x = x @ weights[f"conv.{at + 1}.weight"][:, :, 0, 0].T + weights[f"conv.{at + 1}.bias"]
        x = np.maximum(x, 0)
        at += 3
    features = x.transpose(0, 2, 1).reshape(len(x), -1)  # (T', C * bins)
    return features @ weights["out.weight"].T + weights["out.bias"]


def _convolve(x: Floats, weights: Weights, name: str) -> Floats:
    """(T, F, C or 1) → (T // 2 + 1, F // 2 + 1, C): 3x3, stride 2, two zeros before, one after."""
    kernel = weights[f"{name}.weight"][:, 0]  # (C, 3, 3)
    x = np.pad(x, ((2, 1), (2, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))[::2, ::2]
    return np.einsum("tfcij,cij->tfc", windows, kernel) + weights[f"{name}.bias"]


def run(subsampling: Subsampling, mel: Floats, chunks: list[int], *, slot: int = 0) -> Floats:
    """A recording in chunks of so many encoder frames, with garbage beyond both of its ends."""
    factor, total = subsampling.factor, sum(chunks)
    padded = np.full((factor * total, mel.shape[1]), 7, np.float32)
    known = min(len(mel), len(padded) - factor + 1)
    padded[factor - 1 :][:known] = mel[:known]
    out: list[Floats] = []
    at = 0
    for chunk in chunks:
        last = at + chunk == total
        length = np.array([len(mel) if last else UNBOUNDED])
        rows = padded[at * factor : (at + chunk) * factor]
        out.append(subsampling.step(rows, np.array([slot]), np.array([chunk]), length))
        at += chunk
    return np.concatenate(out)


def noise(frames: int, n_mels: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(-5, 2, (frames, n_mels)).astype(np.float32)


WEIGHTS = random_weights(20, 16, 32, 8)


def make(*, slots: int = 3, threads: int = 1, isa: str | None = None) -> Subsampling:
    return Subsampling(WEIGHTS, n_mels=20, slots=slots, threads=threads, isa=isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("n_mels", "channels", "width", "factor"),
    [(128, 64, 96, 8), (80, 24, 40, 8), (33, 16, 16, 4), (16, 8, 20, 2)],
)
def test_equals_the_float_reference_but_for_quantisation(
    isa: str, n_mels: int, channels: int, width: int, factor: int
) -> None:
    weights = random_weights(n_mels, channels, width, factor)
    mel = noise(8 * factor + 1, n_mels)
    expected = subsample(weights, mel)
    subsampling = Subsampling(weights, n_mels=n_mels, slots=1, threads=2, isa=isa)
    got = run(subsampling, mel, [1, 2, len(expected) - 3])
    error = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() < 0.05


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("length", range(40, 49))
def test_any_cut_gives_the_same_bits_for_every_length(isa: str, length: int) -> None:
    mel = noise(length, 20)
    frames = len(subsample(WEIGHTS, mel))
    whole = run(make(isa=isa), mel, [frames])
    np.testing.assert_array_equal(run(make(isa=isa), mel, [1] * frames), whole)
    np.testing.assert_array_equal(run(make(isa=isa), mel, [2, 1, frames - 3]), whole)


@pytest.mark.parametrize("isa", ISAS)
def test_a_stream_does_not_depend_on_its_neighbours_or_slot(isa: str) -> None:
    mel, other = noise(8 * 6, 20), noise(8 * 12, 20, seed=2)
    alone = run(make(isa=isa), np.pad(mel, ((0, 0), (0, 0)))[7:], [1] * 6)
    subsampling = make(isa=isa, threads=2)
    for at in range(6):
        rows = np.concatenate((other[at * 16 : at * 16 + 16], mel[at * 8 : at * 8 + 8]))
        lengths = np.array([UNBOUNDED, UNBOUNDED if at < 5 else len(mel) - 7])
        out = subsampling.step(rows, np.array([0, 2]), np.array([2, 1]), lengths)
        np.testing.assert_array_equal(out[2], alone[at])


def test_a_cleared_slot_starts_anew() -> None:
    subsampling, mel = make(), noise(41, 20)
    first = run(subsampling, mel, [2, 3])
    subsampling.clear(0)
    np.testing.assert_array_equal(run(subsampling, mel, [2, 3]), first)


def test_a_saved_stream_goes_on_in_a_fork() -> None:
    subsampling, rows = make(), noise(16, 20)
    one, length = np.array([1]), np.array([UNBOUNDED])
    subsampling.step(rows[:8], one * 0, one, length)
    state = subsampling.save(0)
    fork = subsampling.fork(5)
    fork.load(4, state)
    assert (fork.slots, fork.factor, fork.d_model, fork.save(4)) == (5, 8, 32, state)
    np.testing.assert_array_equal(
        fork.step(rows[8:], one * 4, one, length), subsampling.step(rows[8:], one * 0, one, length)
    )
    with pytest.raises(ValueError, match="state"):
        fork.load(0, state[:-1])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([0, 0], [1, 1], [9, 9]), "twice"),
        (([0, 3], [1, 1], [9, 9]), "slot 3"),
        (([0, 1], [1, 2], [9, 9]), "rows"),
        (([0, 1], [1, -1], [9, 9]), "negative"),
        (([0, 1], [1, 1], [9]), "length"),
    ],
)
def test_a_bad_step_advances_nothing(columns: tuple[list[int], ...], message: str) -> None:
    subsampling = make()
    with pytest.raises(ValueError, match=message):
        subsampling.step(noise(16, 20), *(np.array(column) for column in columns))
    with pytest.raises(ValueError, match="20"):
        subsampling.step(noise(8, 21), np.array([0]), np.array([1]), np.array([9]))
    assert subsampling.save(0) == make().save(0)


@pytest.mark.parametrize("name", ["conv.0.weight", "conv.3.weight", "out.weight"])
def test_missing_and_misshapen_weights_are_named(name: str) -> None:
    missing = {key: value for key, value in WEIGHTS.items() if key != name}
    for weights in (missing, WEIGHTS | {name: np.zeros((5, 1, 3, 2), np.float32)}):
        with pytest.raises(ValueError, match=r"conv\.|out\."):
            Subsampling(weights, n_mels=20, slots=1, threads=1)

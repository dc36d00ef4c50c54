"""One linear layer: its error, and that rows do not touch each other."""

import numpy as np
import pytest
from nemo_lite_cpu import Linear, isas
from reference import Floats

ISAS = isas()


def normal(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (7, 5), (33, 100), (64, 64), (130, 515)])
def test_equals_the_product_but_for_quantisation(isa: str, outputs: int, inputs: int) -> None:
    weight, bias, x = normal(outputs, inputs), normal(outputs, seed=1), normal(37, inputs, seed=2)
    expected = x @ weight.T + bias
    got = Linear(weight, bias, threads=2, isa=isa)(x)
    assert np.linalg.norm(got - expected) < 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
def test_rows_do_not_depend_on_each_other(isa: str, threads: int) -> None:
    weight, x = normal(100, 64), normal(61, 64, seed=1)
    linear = Linear(weight, threads=threads, isa=isa)
    together = linear(x)
    for count in (1, 2, 5, 14, 15, 29):
        np.testing.assert_array_equal(linear(x[:count]), together[:count])
    for row in range(61):
        np.testing.assert_array_equal(linear(x[row : row + 1])[0], together[row])


@pytest.mark.parametrize("isa", ISAS)
def test_the_largest_values_do_not_saturate(isa: str) -> None:
    weight = np.full((3, 4096), 2.0, np.float32)
    weight[1] *= -1
    x = np.full((2, 4096), 3.0, np.float32)
    got = Linear(weight, threads=1, isa=isa)(x)
    np.testing.assert_allclose(got, x @ weight.T, rtol=1e-3)


def test_zeros_give_the_bias_and_nan_stays_in_its_row() -> None:
    linear = Linear(normal(5, 32), normal(5, seed=1), threads=1)
    x = normal(3, 32)
    x[0] = 0
    clean = linear(x)
    np.testing.assert_array_equal(clean[0], normal(5, seed=1))
    x[1, 3] = np.nan
    np.testing.assert_array_equal(linear(x)[[0, 2]], clean[[0, 2]])


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="bias"):
        Linear(normal(5, 4), normal(4), threads=1)
    with pytest.raises(ValueError, match="empty"):
        Linear(normal(0, 4), threads=1)
    with pytest.raises(ValueError, match="columns"):
        Linear(normal(5, 4), threads=1)(normal(2, 5))


def test_layers_beside_each_other_compute_what_they_do_alone() -> None:
    first = Linear(normal(40, 64), threads=2)
    wide, bias = normal(33, 500, seed=1), normal(33, seed=2)
    second = first.beside(wide, bias)
    x, y = normal(7, 64, seed=3), normal(90, 500, seed=4)
    expected = Linear(wide, bias, threads=1)(y)
    before = first(x)
    np.testing.assert_array_equal(second(y), expected)
    np.testing.assert_array_equal(first(x), before)
    with pytest.raises(ValueError, match="bias"):
        first.beside(wide, normal(5))


def test_results_go_where_they_are_wanted() -> None:
    linear = Linear(normal(40, 64), threads=2)
    x, out = normal(7, 64, seed=1), np.full((7, 40), np.nan, np.float32)
    assert linear(x, out) is out
    np.testing.assert_array_equal(out, linear(x))
    with pytest.raises(ValueError, match="out"):
        linear(x, np.empty((7, 41), np.float32))
    with pytest.raises(ValueError, match="contiguous"):
        linear(x, np.empty((40, 7), np.float32).T)
    with pytest.raises(ValueError, match="contiguous"):
        linear(np.asfortranarray(x))
    with pytest.raises(ValueError, match="contiguous"):
        Linear(np.asfortranarray(normal(40, 64)), threads=1)

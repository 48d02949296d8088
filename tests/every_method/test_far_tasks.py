"""Tasks whose gradients lie far apart: float32 loses none of them, whatever their squares do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.common import make

FAR = np.array([1.0, 1e-14, 1e-28])


def direction(name, matrix, losses=None, **hyperparameters):
    """The first weights, and in float64 the direction that they make of the float32 rows."""
    rows = jnp.asarray(matrix, jnp.float32)
    tx = make(name, len(matrix), **hyperparameters)
    losses = None if losses is None else jnp.asarray(losses, jnp.float32)
    updates, state = jax.jit(tx.update)(rows, tx.init(rows[0]), task_losses=losses)
    weights = np.asarray(state.weights, np.float64)
    found = weights @ np.asarray(rows, np.float64)
    np.testing.assert_allclose(updates, found, rtol=1e-4, atol=1e-6 * np.max(np.abs(found)))
    return weights, found


def far_rows(seed=0):
    """Three rows with some conflict."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(3, 5)) - 0.2 * np.array([[1.0], [0], [1]])
    return rows * FAR[:, None]


def level(weights, matrix, found):
    """`<g_t, d>` of the unit rows, in units of the length of `d`."""
    return matrix @ found / np.linalg.norm(matrix, axis=1) / np.linalg.norm(found)


@pytest.mark.parametrize("exponent", [-18, -19, -25, -30])
def test_nash_mtl_on_orthogonal_rows_takes_both(exponent):
    _, found = direction("nash_mtl", np.diag([1.0, 10.0**exponent]))
    np.testing.assert_allclose(found, np.sqrt([0.5, 0.5]), rtol=1e-6)


def test_nash_mtl_solves_its_equations():
    matrix = far_rows()
    weights, found = direction("nash_mtl", matrix)
    shares = weights * (matrix @ found)
    np.testing.assert_allclose(shares, shares[0], rtol=1e-5)


def test_imtl_g_projects_alike_on_every_task():
    matrix = far_rows()
    weights, found = direction("imtl_g", matrix)
    levels = level(weights, matrix, found)
    np.testing.assert_allclose(levels, levels[0], rtol=1e-5)


def test_pcgrad_of_two_tasks_is_the_closed_form():
    one, other = np.array([1.0, 0.5]), np.array([-1.0, 1.0]) * 1e-28
    _, found = direction("pcgrad", np.stack([one, other]))
    product = one @ other
    wanted = one - product / (other @ other) * other + other - product / (one @ one) * one
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_cagrad_serves_the_worst_task_first():
    """Optimal by the conditions of Karush, Kuhn and Tucker, in the unit of each task."""
    matrix = far_rows()
    weights, found = direction("cagrad", matrix)
    gains = matrix @ found
    lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(found)
    support = weights > 0.34
    assert np.all(gains >= gains[support].max() - 1e-5 * lengths)
    mean = matrix.mean(axis=0)
    np.testing.assert_allclose(np.linalg.norm(found - mean), 0.5 * np.linalg.norm(mean), rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_mgda_serves_all(seed):
    matrix = far_rows(seed) * np.array([[1.0], [1e8], [1e16]])  # Twelve decades in all.
    weights, found = direction("mgda", matrix)
    gains, square = matrix @ found, found @ found
    lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(found)
    assert np.all(gains >= square - 1e-5 * lengths)
    support = weights > 0
    np.testing.assert_allclose(gains[support], square, atol=1e-5 * lengths[support].max())


def test_mgda_of_rows_twelve_decades_apart():
    """The point of least norm is level to all: at right angles to two, to seven digits."""
    matrix = [(-2e6, -2e6, 1e6), (-3, -2, -1), (3e-6, 3e-6, -1e-6)]
    _, found = direction("mgda", np.array(matrix))
    np.testing.assert_allclose(found, np.array([-8, 10, 4]) / 9e7, rtol=1e-5)


@pytest.mark.parametrize("losses", [(1e19, 1.0), (1.0, 1e19), (1e38, 1e20)])
@pytest.mark.parametrize("normalization", ["loss", "loss+"])
def test_mgda_with_losses_that_have_no_squares(normalization, losses):
    """Of orthogonal rows `h_t` the weights go like one over their squared lengths."""
    lengths = np.array([1.0, 3.0])
    weights, _ = direction("mgda", np.diag(lengths), losses, normalization=normalization)
    divisors = np.array(losses) * (lengths if normalization == "loss+" else 1)
    wanted = (divisors / lengths) ** 2 / divisors
    np.testing.assert_allclose(weights, wanted / wanted.sum(), rtol=1e-5, atol=1e-7)

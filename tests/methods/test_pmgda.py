"""PMGDA against its linear program, solved by SciPy's HiGHS, and MGDA near the ray."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import mtl_optax as mtl
from tests.matrices import hard

T, N, SIGMA = 3, 6, 0.95
# Of these `∇h` has a length that rounding does not make.
CLEAR = ("gaussian", "one dependent", "nearly stationary", "some zero", "one zero", "half rank")


@functools.cache
def draws():
    matrices, losses, preferences = [], [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        for kind in CLEAR:
            matrices.append(hard(T, N, seed)[kind])
            losses.append(rng.uniform(0.2, 2, T))
            preferences.append(rng.uniform(0.3, 2, T))
    return np.stack(matrices), np.stack(losses), np.stack(preferences)


@functools.cache
def optima():
    return [program(*drawn) for drawn in zip(*draws(), strict=True)]


def program(matrix, loss, preference):
    """The largest smallest `<g_t, d>`, and the rows that count."""
    ray = preference / np.linalg.norm(preference)
    off = loss - (loss @ ray) * ray
    slope = off / np.linalg.norm(off) @ matrix
    rows = matrix[np.linalg.norm(matrix, axis=1) > 0]
    steep = np.linalg.norm(slope)
    has_slope = steep > 1e-3 * np.max(np.linalg.norm(matrix, axis=1), initial=0)
    columns = np.vstack([rows, slope]) if has_slope else rows
    columns = columns / np.linalg.norm(columns, axis=1, keepdims=True)
    k = len(columns)
    demands = np.hstack([-rows @ columns.T, -np.ones((len(rows), 1))])
    least = np.zeros(len(rows))
    if has_slope:
        demands = np.vstack([demands, np.append(-slope @ columns.T / steep, 0)])
        least = np.append(least, -SIGMA)
    if not len(rows):
        return slope * 0, rows, 0.0
    found = scipy.optimize.linprog(
        np.append(np.zeros(k), 1),
        A_ub=demands,
        b_ub=least,
        A_eq=np.append(np.ones(k), 0)[None],
        b_eq=[1],
        bounds=[(0, None)] * k + [(None, None)],
        method="highs",
    )
    assert found.status == 0
    return slope / steep if has_slope else None, rows, -found.fun


@jax.jit
def run(matrices, losses, preferences):
    def one(matrix, loss, preference):
        tx = mtl.pmgda(T, preference, sigma=SIGMA)
        return tx.update(matrix, tx.init(matrix[0]), task_losses=loss)

    return jax.vmap(one)(matrices, losses, preferences)


@pytest.mark.parametrize(("dtype", "close"), [(np.float32, 1e-4), (np.float64, 1e-9)])
def test_equals_highs_on_hundreds_of_draws(dtype, close):
    drawn = draws()
    with jax.enable_x64(dtype == np.float64):
        updates, state = jax.tree.map(np.asarray, run(*(jnp.asarray(x, dtype) for x in drawn)))
    weighed = np.einsum("bt,btn->bn", state.weights.astype(np.float64), drawn[0])
    np.testing.assert_allclose(updates, weighed, atol=1e-5)
    assert np.max(state.inner.gap) < 20 * close
    demanded = 0
    for update, (slope, rows, optimum) in zip(updates, optima(), strict=True):
        assert np.linalg.norm(update) <= 1 + close
        if len(rows):
            size = np.max(np.linalg.norm(rows, axis=1))
            assert abs(np.min(rows @ update) - optimum) <= close * size
            if slope is not None:
                assert slope @ update >= SIGMA - close
                demanded += slope @ update <= SIGMA + close
    assert demanded > 50  # The distance falls by what is asked, and by no more.


def test_on_the_ray_it_is_mgda():
    matrix, _, preference = (x[0] for x in draws())
    given, loss = jnp.asarray(matrix, jnp.float32), jnp.asarray(3 * preference, jnp.float32)
    step = lambda tx: tx.update(given, tx.init(given[0]), task_losses=loss)[0]
    np.testing.assert_allclose(step(mtl.pmgda(T, preference)), step(mtl.mgda(T)), rtol=1e-5)
    assert np.any(step(mtl.pmgda(T, preference[::-1])) != step(mtl.mgda(T)))


def test_reaches_its_ray_on_three_quadratics():
    """Losses `0.2 + ‖x - c_t‖²`: at the end they are proportional to the preference."""
    preference, centres = np.array([1.0, 0.8, 1.2]), jnp.eye(3)[:, :2]
    tx = mtl.pmgda(3, preference)

    def step(carry, rate):
        x, state = carry
        losses = 0.2 + jnp.sum((x[None] - centres) ** 2, axis=1)
        d, state = tx.update(2 * (x[None] - centres), state, x, task_losses=losses)
        return (x - rate * d, state), losses / preference

    x, rates = jnp.array([0.8, 0.9]), 0.03 * 0.98 ** np.arange(200, dtype=np.float32)
    _, scaled = jax.jit(lambda c: jax.lax.scan(step, c, rates))((x, tx.init(x)))
    np.testing.assert_allclose(scaled[-1], np.mean(scaled[-1]), rtol=0.03)


def test_malformed_hyperparameters_are_named():
    with pytest.raises(ValueError, match=r"pmgda: sigma must lie in \[0, 1\], got 1.5"):
        mtl.pmgda(2, [1.0, 1.0], sigma=1.5)
    with pytest.raises(ValueError, match=r"pmgda: h_eps must lie in \[0, inf\), got -1"):
        mtl.pmgda(2, [1.0, 1.0], h_eps=-1.0)
    with pytest.raises(ValueError, match="pmgda: preference must be finite"):
        mtl.pmgda(2, [1.0, np.inf])

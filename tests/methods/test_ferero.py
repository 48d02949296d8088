"""FERERO against its quadratic program, by cvxpy and by SciPy, with bases drawn at random."""

import functools

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import mtl_optax as mtl
from tests.matrices import hard

T, N = 3, 6


@functools.cache
def draws():
    """A zero gradient fixes its own loss, and with it the place on the ray."""
    matrices, losses, preferences = [], [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        kinds = hard(T, N, seed)
        matrices.append(kinds[("gaussian", "nearly stationary", "one zero")[seed % 3]])
        losses.append(rng.uniform(0.2, 2, T))
        preferences.append(rng.uniform(0.3, 2, T))
    return np.stack(matrices), np.stack(losses), np.stack(preferences)


def dual_by_cvxpy(matrix, loss, preference, basis):
    """The paper's problem, in `λ` and `ν` and a basis, whose rows need not be orthogonal."""
    simplex, free = cp.Variable(len(loss), nonneg=True), cp.Variable(len(basis))
    direction = matrix.T @ simplex + (basis @ matrix).T @ free
    objective = 0.5 * cp.sum_squares(direction) - free @ (basis @ loss)
    problem = cp.Problem(cp.Minimize(objective), [cp.sum(simplex) == 1])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    return direction.value


def some_basis(preference, rng):
    """Of what is orthogonal to the preference, mixed at random."""
    plane = scipy.linalg.null_space(preference[None]).T
    return rng.normal(size=(len(plane), len(plane))) @ plane


@jax.jit
def run(matrices, losses, preferences):
    def one(matrix, loss, preference):
        tx = mtl.ferero(T, preference)
        return tx.update(matrix, tx.init(matrix[0]), task_losses=loss)

    return jax.vmap(one)(matrices, losses, preferences)


def found(dtype):
    with jax.enable_x64(dtype == np.float64):
        return jax.tree.map(np.asarray, run(*(jnp.asarray(x, dtype) for x in draws())))


def value(matrix, d):
    """`min_t <g_t, d> - ½‖d‖²`, which `d` maximises."""
    return np.min(matrix @ d) - d @ d / 2


@pytest.mark.parametrize(("dtype", "close"), [(np.float32, 3e-4), (np.float64, 1e-9)])
def test_meets_the_equations_and_no_direction_that_does_is_better(dtype, close):
    """`B G d = H`; along what keeps it, the concave value has its top, on a line of `d`."""
    updates, state = found(dtype)
    assert np.max(state.inner.gap) < 20 * close
    for update, matrix, loss, preference in zip(updates, *draws(), strict=True):
        basis = some_basis(preference, np.random.default_rng(0))
        size = max(np.linalg.norm(update) * np.max(np.linalg.norm(matrix, axis=1)), 1)
        rounding = close * size * np.linalg.norm(basis)
        assert np.max(np.abs(basis @ matrix @ update - basis @ loss)) < rounding
        # Of the directions that keep the equations, a line lies within the span of the gradients.
        rows = scipy.linalg.orth(matrix.T)
        assert np.linalg.norm(update - rows @ (rows.T @ update)) < close * size
        line = rows @ scipy.linalg.null_space(basis @ matrix @ rows, rcond=1e-9)
        assert line.shape[1] == np.linalg.matrix_rank(matrix) - len(basis)
        for move in (1e-1, 1e-3, -1e-3, -1e-1):
            other = value(matrix, update + move * np.sum(line, axis=1))
            assert other <= value(matrix, update) + close * size**2


def test_equals_the_dual_in_any_basis():
    rng = np.random.default_rng(0)
    updates, _ = found(np.float64)
    for update, matrix, loss, preference in list(zip(updates, *draws(), strict=True))[:30]:
        wanted = dual_by_cvxpy(matrix, loss, preference, some_basis(preference, rng))
        np.testing.assert_allclose(update, wanted, atol=2e-6 * max(1, np.linalg.norm(wanted)))


def test_two_tasks_by_hand():
    """`B = (p_2, -p_1)`: with orthonormal rows `<g_t, d> = L_t + s p_t`, of the best `s`."""
    p, loss = np.array([0.6, 0.8]), np.array([2.0, 1.0])
    # `min_t (L_t + s p_t) - ½ ‖L + s p‖²` has its top where both are equal, or its slope is none.
    grid = np.linspace(-9, 9, 1_000_001)
    rows = loss[:, None] + grid * p[:, None]
    best = rows[:, np.argmax(rows.min(0) - 0.5 * np.sum(rows**2, axis=0))]
    tx = mtl.ferero(2, p)
    update, _ = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)), task_losses=jnp.float32(loss))
    np.testing.assert_allclose(update, best, atol=1e-4)


def test_h_scale_multiplies_the_equations():
    matrix, loss, preference = (x[0] for x in draws())
    tx = mtl.ferero(T, preference, h_scale=0.1)
    given = jnp.asarray(matrix, jnp.float32)
    update, _ = tx.update(given, tx.init(given[0]), task_losses=jnp.asarray(loss, jnp.float32))
    basis = some_basis(preference, np.random.default_rng(0))
    np.testing.assert_allclose(basis @ matrix @ update, 0.1 * basis @ loss, atol=1e-5)


def test_reaches_its_ray_on_three_quadratics():
    """Losses `0.2 + ‖x - c_t‖²`: at the end they are proportional to the preference."""
    preference, centres = np.array([1.0, 0.8, 1.2]), jnp.eye(3)[:, :2]
    tx = mtl.ferero(3, preference)

    def step(carry, _):
        x, state = carry
        losses = 0.2 + jnp.sum((x[None] - centres) ** 2, axis=1)
        d, state = tx.update(2 * (x[None] - centres), state, x, task_losses=losses)
        return (x - 0.1 * d, state), losses / preference

    x = jnp.array([0.8, 0.9])
    _, scaled = jax.jit(lambda c: jax.lax.scan(step, c, length=200))((x, tx.init(x)))
    np.testing.assert_allclose(scaled[-1], np.mean(scaled[-1]), rtol=1e-3)


def test_malformed_hyperparameters_are_named():
    with pytest.raises(ValueError, match=r"ferero: preference must be positive, got \[1.0, -1.0\]"):
        mtl.ferero(2, [1.0, -1.0])
    with pytest.raises(ValueError, match=r"ferero: h_scale must lie in \[0, inf\), got -1"):
        mtl.ferero(2, [1.0, 1.0], h_scale=-1.0)

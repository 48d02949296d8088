"""Nash-MTL against cvxpy's solution of the bargaining problem, and at its edges."""

import functools

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import mtl_optax as mtl
from mtl_optax._solvers import bargaining

SCALES = (1e-12, 1e-3, 1.0, 1e12)


def oracle(rows):
    """SciPy's minimiser of ½a'Ma - Σ log a, in logarithms and in the cosines of the rows."""
    lengths = np.linalg.norm(rows, axis=1)
    cosines = (rows / lengths[:, None]) @ (rows / lengths[:, None]).T
    pull = lambda z: np.exp(z) * (cosines @ np.exp(z))
    found = scipy.optimize.minimize(
        lambda z: np.sum(pull(z)) / 2 - np.sum(z),
        np.zeros(len(rows)),
        jac=lambda z: pull(z) - 1,
        hess=lambda z: np.outer(np.exp(z), np.exp(z)) * cosines + np.diag(pull(z)),
        method="trust-exact",
        options={"gtol": 1e-9},
    )
    assert np.max(np.abs(pull(found.x) - 1)) < 1e-6
    return np.exp(found.x) / lengths


def draw(num_tasks, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_tasks, 9)) * np.exp(spread * rng.normal(size=(num_tasks, 1)))


@functools.cache
def method(num_tasks, **hyperparameters):
    tx = mtl.nash_mtl(num_tasks, **hyperparameters)
    return tx.init, jax.jit(tx.update)


def run(rows, state=None, mask=None, **hyperparameters):
    rows = jnp.asarray(rows, jnp.float32)
    init, update = method(len(rows), **hyperparameters)
    mask = jnp.ones(len(rows), bool) if mask is None else jnp.array(mask)
    return update(rows, init(rows[0]) if state is None else state, task_mask=mask)


def clipped(weights, rows, limit):
    return weights * min(1, limit / np.linalg.norm(weights @ rows))


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 6])
@pytest.mark.parametrize("spread", [0.0, 5.0])
def test_solution_is_scipys(num_tasks, spread):
    for seed in range(3):
        rows = draw(num_tasks, seed, spread)
        found = bargaining(jnp.asarray(rows @ rows.T / np.sum(rows**2), jnp.float32))
        wanted = oracle(rows) * np.sqrt(np.sum(rows**2))
        np.testing.assert_allclose(found.weights, wanted, rtol=1e-5)
        assert found.residual < 1e-5
        assert found.iterations <= 15


def test_solution_is_the_minimum_that_cvxpy_finds():
    rows = draw(4)
    lengths = np.linalg.norm(rows, axis=1)
    y = cp.Variable(4)
    potential = cp.sum_squares((rows / lengths[:, None]).T @ y) / 2 - cp.sum(cp.log(y))
    cp.Problem(cp.Minimize(potential)).solve(cp.CLARABEL)
    found = bargaining(jnp.asarray(rows @ rows.T, jnp.float32))
    np.testing.assert_allclose(found.weights, y.value / lengths, rtol=1e-4)


def test_certificate_is_the_residual_of_the_equations():
    rows = draw(4)
    gram = jnp.asarray(rows @ rows.T, jnp.float32)
    early = bargaining(gram, max_iterations=2)
    a = np.asarray(early.weights, np.float64)
    wanted = np.max(np.abs(a * (rows @ rows.T @ a) - 1))
    assert wanted > 1e-4
    np.testing.assert_allclose(early.residual, wanted, rtol=1e-3)


def test_two_tasks_in_closed_form():
    """a_t n_t = 1 / sqrt(1 + ρ), down to angles where float32 hardly knows ρ."""
    for rho in (-0.999, -0.5, 0.0, 0.9):
        rows = np.array([[3.0, 0.0], [0.2 * rho, 0.2 * np.sqrt(1 - rho**2)]])
        found = bargaining(jnp.asarray(rows @ rows.T, jnp.float32))
        np.testing.assert_allclose(
            found.weights * np.array([3.0, 0.2]), 1 / np.sqrt(1 + rho), rtol=1e-3
        )


def test_steps_with_a_clip():
    state = None
    for step in range(3):
        rows = draw(3, seed=step)
        solution = oracle(rows)
        updates, state = run(rows, state, max_norm=0.7)
        weights = clipped(solution, rows, 0.7)
        np.testing.assert_allclose(state.weights, weights, rtol=2e-5)
        np.testing.assert_allclose(updates, weights @ rows, rtol=2e-4, atol=1e-5)
        np.testing.assert_allclose(state.inner.solution, solution, rtol=1e-5)


def test_without_a_clip_the_norm_is_sqrt_of_the_tasks():
    rows = draw(5, spread=2.0)
    updates, state = run(rows, max_norm=None)
    np.testing.assert_allclose(state.weights, oracle(rows), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(updates), np.sqrt(5), rtol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_no_scale_has_a_say_in_the_update(scale):
    rows = draw(3)
    base, _ = run(rows)
    everyone, _ = run(rows * scale)
    one, _ = run(rows * np.array([[1.0], [scale], [1.0]]))
    np.testing.assert_allclose(everyone, base, atol=2e-6)
    np.testing.assert_allclose(one, base, atol=2e-6)


def test_one_task_where_torchjd_refuses():
    updates, _ = run([[3.0, -4.0]])
    np.testing.assert_allclose(updates, [0.6, -0.8], rtol=1e-6)


def test_a_zero_gradient_takes_no_part():
    rows = draw(3)
    rows[1] = 0
    updates, state = run(rows)
    alone, _ = run(rows[[0, 2]])
    np.testing.assert_allclose(updates, alone, atol=1e-6)
    assert state.weights[1] == 0
    none, state = run(np.zeros((3, 9)))
    np.testing.assert_array_equal(none, 0)
    assert state.inner.residual == 0


@pytest.mark.parametrize(
    "rows",
    [
        np.array([[1.0, 2.0], [-1.0, -2.0]]),
        np.array([[1.0, 2.0], [-3.0, -6.0]]),
        draw(3) - draw(3).mean(0),
        np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]),
    ],
    ids=["opposite", "opposite of another length", "balanced", "two of three opposite"],
)
@pytest.mark.parametrize("max_norm", [1.0, None])
def test_stationary_gradients_give_no_update_and_say_so(rows, max_norm):
    updates, state = run(rows, max_norm=max_norm)
    np.testing.assert_array_equal(updates, 0)
    assert state.inner.residual == 1
    assert state.inner.iterations < 30


def test_dependent_but_not_stationary_gradients_are_solved():
    direction = np.array([[1.0, -2.0, 2.0]])
    rows = np.array([[1.0], [5.0], [0.1]]) * direction
    updates, state = run(rows, max_norm=None)
    np.testing.assert_allclose(updates, np.sqrt(3) * direction[0] / 3, rtol=1e-5)
    assert state.inner.residual < 1e-6


def test_the_solution_of_an_absent_task_is_held():
    rows = draw(3, 1)
    _, state = run(rows, max_norm=None)
    two, after = run(rows, state, max_norm=None, mask=[True, False, True])
    wanted = oracle(rows[[0, 2]])
    np.testing.assert_allclose(two, wanted @ rows[[0, 2]], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after.inner.solution[::2], wanted, rtol=1e-5)
    assert after.inner.solution[1] == state.inner.solution[1]


@pytest.mark.nans
def test_non_finite_gradients_end_the_iteration():
    rows = draw(3).astype(np.float32)
    rows[1, 2] = np.nan
    updates, state = run(rows)
    assert np.all(np.isnan(updates))
    assert state.inner.iterations < 30


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="nash_mtl: max_norm must lie in"):
        mtl.nash_mtl(2, max_norm=0.0)

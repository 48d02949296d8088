"""MoCo against a loop in NumPy, absent tasks included, its limit by cvxpy, and its edges."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl
from tests.common import masked_steps, weights_of

T, N, STEPS = 4, 6, 20


def project(point):
    """The nearest point of the simplex, by sorting."""
    point = point - np.max(point)  # Far ones lose no digits.
    ordered = np.sort(point)[::-1]
    shifts = (np.cumsum(ordered) - 1) / np.arange(1, len(point) + 1)
    return np.maximum(point - shifts[np.flatnonzero(ordered > shifts)[-1]], 0)


def draws(seed=0):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(STEPS, T, N)) + rng.normal(size=(1, T, N))
    masks = rng.random((STEPS, T)) < 0.7
    masks[3] = False
    return gradients, masks


def loop(gradients, masks, beta=0.5, beta_power=0.5, gamma=0.1, gamma_power=0.5, rho=0.0):
    averages, counts, steps = np.zeros((T, N)), np.zeros(T), 0
    shares = np.ones(T)  # The weights as multiples of an even share.
    for now, present in zip(gradients, masks, strict=True):
        weights, here = np.zeros(T), np.flatnonzero(present)
        if len(here):
            counts[here] += 1
            steps += 1
            rates = beta / counts[here] ** beta_power
            averages[here] -= rates[:, None] * (averages[here] - now[here])
            own = averages[here]
            total = shares[here].sum()
            before = shares[here] / total if total else np.full(len(here), 1 / len(here))
            slopes = (own @ own.T + rho * np.eye(len(here))) @ before
            weights[here] = project(before - gamma / steps**gamma_power * slopes)
            shares[here] = len(here) * weights[here]
        yield weights @ averages, weights


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta": 1.0, "beta_power": 0.0, "gamma": 0.02, "gamma_power": 0.0},
        {"rho": 0.7, "beta_power": 0.3, "gamma_power": 0.6},
    ],
    ids=["default", "without averages", "regularised"],
)
def test_it_equals_numpy_over_twenty_steps(options):
    gradients, masks = draws()
    wanted, weights = map(np.stack, zip(*loop(gradients, masks, **options), strict=True))
    with jax.enable_x64(True):
        updates, got = masked_steps(mtl.moco(T, **options), gradients, masks)
    # The weights are carried from step to step in float32.
    np.testing.assert_allclose(got, weights, atol=2e-6)
    np.testing.assert_allclose(updates, wanted, rtol=0, atol=2e-6 * np.max(np.abs(wanted)))
    updates, got = masked_steps(mtl.moco(T, **options), np.float32(gradients), masks)
    np.testing.assert_allclose(got, weights, atol=1e-5)
    np.testing.assert_allclose(updates, wanted, rtol=0, atol=1e-5 * np.max(np.abs(wanted)))
    assert np.ptp(weights[-1]) > 0.05


def test_with_all_tasks_present_one_step_is_exact_in_float64():
    gradients, _ = draws()
    masks = np.ones((1, T), bool)
    with jax.enable_x64(True):
        updates, _ = masked_steps(mtl.moco(T), gradients[:1], masks)
    ((wanted, _),) = loop(gradients[:1], masks)
    np.testing.assert_allclose(updates[0], wanted, rtol=1e-9)


def test_its_limit_are_the_weights_of_least_norm():
    """A softmax in the projection's place, as LibMTL has it, stays near even ones."""
    tx = mtl.moco(3, beta=1.0, beta_power=0.0, gamma=0.05, gamma_power=0.0)

    @jax.jit
    def settle(matrix):
        body = lambda state, _: (tx.update(matrix, state, matrix[0])[1], None)
        return jax.lax.scan(body, tx.init(matrix[0]), length=3000)[0]

    rng = np.random.default_rng(0)
    for _ in range(3):
        matrix = rng.normal(size=(3, 5)) + 0.5
        w = cp.Variable(3, nonneg=True)
        problem = cp.Problem(cp.Minimize(cp.sum_squares(matrix.T @ w)), [cp.sum(w) == 1])
        problem.solve(solver=cp.CLARABEL)
        state = settle(jnp.asarray(matrix, jnp.float32))
        np.testing.assert_allclose(weights_of(state), w.value, atol=1e-4)
        assert np.ptp(w.value) > 0.02


def first(gradients, **options):
    tx = mtl.moco(len(gradients), **options)
    gradients = jnp.asarray(gradients, jnp.float32)
    return jax.jit(tx.update)(gradients, tx.init(gradients[0]), gradients[0])


def test_the_first_step_of_one_task_is_a_share_of_its_gradient():
    update, _ = first([[2.0, 4.0]])
    np.testing.assert_allclose(update, [1.0, 2.0], rtol=1e-6)


def test_equal_and_opposite_gradients_leave_even_weights():
    for rows, wanted in (([[1.0, 2.0]] * 2, [0.5, 1.0]), ([[1.0, 2.0], [-1.0, -2.0]], [0.0, 0.0])):
        update, state = first(rows)
        np.testing.assert_allclose(update, wanted, atol=1e-7)
        np.testing.assert_allclose(weights_of(state), [0.5, 0.5], rtol=1e-6)


def test_long_gradients_move_the_weights_to_a_corner_and_short_ones_not_at_all():
    """Where the squares of the gradients leave float32, too."""
    rows = np.array([[1.0, 0.0], [0.0, 2.0]])
    for scale, wanted in ((1e-25, [0.5, 0.5]), (1e20, [1.0, 0.0]), (1e30, [1.0, 0.0])):
        update, state = first(rows * scale)
        np.testing.assert_allclose(weights_of(state), wanted, rtol=1e-6)
        np.testing.assert_allclose(update, 0.5 * np.array(wanted) @ rows * scale, rtol=1e-6)


def test_regularisation_draws_the_weights_to_even_ones():
    gradients = jnp.diag(jnp.array([1.0, 2.0]))
    _, state = first(gradients, gamma=1.0, gamma_power=0.0)
    assert weights_of(state)[0] > 0.6
    even = mtl.moco(2, gamma=1e-3, gamma_power=0.0, rho=1e3)
    update = jax.jit(even.update)
    for _ in range(3):
        _, state = update(gradients, state, gradients[0])
    np.testing.assert_allclose(weights_of(state), [0.5, 0.5], atol=1e-2)


def test_tasks_that_had_no_weight_begin_at_even_ones_where_they_are_alone():
    rows = jnp.diag(jnp.array([1.0, 100.0, 100.0]))
    tx = mtl.moco(3)
    step = jax.jit(lambda state, mask: tx.update(rows, state, rows[0], task_mask=mask))
    _, state = step(tx.init(rows[0]), jnp.ones(3, bool))
    np.testing.assert_array_equal(weights_of(state), [1.0, 0.0, 0.0])
    _, state = step(state, jnp.array([False, True, True]))
    np.testing.assert_allclose(weights_of(state), [0.0, 0.5, 0.5], rtol=1e-5)


def test_a_task_that_was_alone_finds_the_others_weights_as_they_were():
    rows = jnp.diag(jnp.array([1.0, 2.0, 3.0]))
    tx = mtl.moco(3)
    step = jax.jit(lambda state, mask: tx.update(rows, state, rows[0], task_mask=mask))
    _, state = step(tx.init(rows[0]), jnp.ones(3, bool))
    before = np.asarray(state.inner.values)
    update, state = step(state, jnp.array([False, True, False]))
    np.testing.assert_array_equal(weights_of(state), [0.0, 1.0, 0.0])
    np.testing.assert_allclose(update, state.ema.averages[1], rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(state.inner.values)[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.5}, r"beta must lie in \[0, 1\], got 1.5"),
        ({"gamma": -1}, r"gamma must lie in \[0, inf\), got -1"),
        ({"rho": -1}, r"rho must lie in \[0, inf\), got -1"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=f"^moco: {message}"):
        mtl.moco(2, **options)

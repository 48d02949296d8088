"""FairGrad against its problem in the parameters, cvxpy, and at its edges."""

import functools

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl
from mtl_optax._solvers.bargaining import bargaining, fair

ALPHAS = (0.05, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 20.0)
T, N = 4, 6


@functools.cache
def program(num_tasks, combine=True):
    """Of `(B, T, N)` matrices, each with its α, weights and mask: updates and states."""

    def first(matrix, alpha, weights, mask):
        tx = mtl.fairgrad(num_tasks, alpha, weights=weights, combine=combine)
        return tx.update(matrix, tx.init(matrix[0]), matrix[0], task_mask=mask)

    return jax.jit(jax.vmap(first))


def run(matrices, alpha, weights=None, mask=None, dtype=np.float32):
    matrices = np.asarray(matrices, dtype)
    batch, num_tasks, _ = matrices.shape
    weights = np.ones(num_tasks) if weights is None else np.asarray(weights)
    mask = np.ones((batch, num_tasks), bool) if mask is None else mask
    with jax.enable_x64(dtype == np.float64):
        given = (
            np.broadcast_to(np.asarray(x, dtype), s)
            for x, s in ((alpha, (batch,)), (weights, (batch, num_tasks)))
        )
        updates, state = program(num_tasks)(matrices, *given, mask)
        return np.asarray(updates, np.float64), jax.tree.map(np.asarray, state)


def one(rows, alpha, **options):
    updates, state = run(np.asarray(rows)[None], alpha, **options)
    return updates[0], jax.tree.map(lambda leaf: leaf[0], state)


def draws(number=200, spread=1.0):
    """Matrices with linearly independent rows of other lengths, some nearly stationary."""
    rng = np.random.default_rng(0)
    matrices = rng.normal(size=(number, T, N))
    matrices[::3] -= 0.9 * matrices[::3].mean(axis=1, keepdims=True)
    return matrices * np.exp(spread * rng.normal(size=(number, T, 1)))


def oracle(matrix, alpha, weights, start):
    """The maximum over `d` of the utilities of the gains less `½ ‖d‖²`, by Newton in NumPy."""

    def cost(d):
        gains = matrix @ d
        if np.any(gains <= 0):
            return np.inf
        utility = np.log(gains) if alpha == 1 else gains ** (1 - alpha) / (1 - alpha)
        return d @ d / 2 - weights @ utility

    slope = lambda d: d - (weights * (matrix @ d) ** -alpha) @ matrix
    curve = lambda d: (
        np.eye(N) + matrix.T @ np.diag(weights * alpha * (matrix @ d) ** (-alpha - 1)) @ matrix
    )
    found = start
    for _ in range(200):
        step = np.linalg.solve(curve(found), slope(found))
        length = 1.0
        while np.any(matrix @ (found - length * step) <= 0):
            length /= 2
        # The last steps change the cost by less than its rounding.
        while length > 1e-6 and cost(found - length * step) > cost(found) + 1e-13 * abs(
            cost(found)
        ):
            length /= 2
        found = found - length * step
        if np.linalg.norm(step) < 1e-13 * np.linalg.norm(found):
            break
    assert np.linalg.norm(step) < 1e-10 * np.linalg.norm(found)
    return found


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_equations_hold_for_every_alpha(dtype):
    """`<g_t, d> = (w_t/a_t)^(1/α)`, or what is missing is rounding of the terms of `<g_t, d>`."""
    matrices = draws()
    number = len(matrices)
    alphas = np.resize(ALPHAS, number)
    weights = np.exp(np.random.default_rng(1).normal(size=(number, T)))
    updates, state = run(matrices, alphas, weights, dtype=dtype)
    found = np.asarray(state.weights, np.float64)
    eps = np.finfo(dtype).eps
    rows = matrices.astype(dtype).astype(np.float64)
    power = 1 / alphas[:, None]
    gains = np.einsum("btn,bn->bt", rows, updates)
    lengths = np.linalg.norm(rows, axis=2)
    terms = lengths * np.einsum("bt,bt->b", found, lengths)[:, None]
    # The state holds weights in float32, whatever the dtype of the update.
    wanted = (weights / found) ** power
    missing = np.abs(gains - wanted) / (terms + (power / 1e-7 * eps) * wanted)
    tolerance = 100 * eps + 2e-7 * power * wanted / terms
    assert np.all(missing < tolerance)
    assert np.all(state.inner.residual < 30 * eps)
    assert np.all(state.inner.iterations < 80)


def test_equals_the_most_useful_direction_in_float64():
    """Below α of one half the oracle's steps do not end: gains vanish beside their terms."""
    matrices = np.delete(draws(60, spread=0.5), np.s_[::3], axis=0)
    weights = np.exp(np.random.default_rng(1).normal(size=(40, T)))
    alphas = np.resize(ALPHAS[2:], 40)
    updates, _ = run(matrices, alphas, weights, dtype=np.float64)
    starts, _ = run(matrices, 1.0, dtype=np.float64)
    for got, *problem in zip(updates, matrices, alphas, weights, starts, strict=True):
        wanted = oracle(*problem)
        np.testing.assert_allclose(got, wanted, atol=1e-9 * np.linalg.norm(wanted))


def test_is_the_minimum_of_the_potential_that_cvxpy_finds():
    """For α = 2 `½ a'Ma - 2 Σ sqrt(w a)`, and for α = 1 `½ a'Ma - Σ w log a`."""
    weights = np.array([0.5, 2.0, 1.0, 3.0])
    for alpha in (2.0, 1.0):
        for matrix in draws(4, spread=0.5):
            a = cp.Variable(T)
            utility = (
                cp.log(a) @ weights if alpha == 1 else 2 * cp.sum(cp.sqrt(cp.multiply(weights, a)))
            )
            potential = cp.sum_squares(matrix.T @ a) / 2 - utility
            cp.Problem(cp.Minimize(potential)).solve(cp.CLARABEL)
            _, state = one(matrix, alpha, weights=weights)
            np.testing.assert_allclose(state.weights, a.value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("alpha", "wanted"), [(1.0, (1.344997, 1.203002)), (2.0, (1.470635, 1.292055))]
)
def test_golden_examples(alpha, wanted):
    _, state = one([[1.0, 0.0], [-0.5, 1.0]], alpha)
    np.testing.assert_allclose(state.weights, wanted, rtol=2e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_orthogonal_gradients_in_closed_form_however_far_apart(alpha):
    """`a_t = w_t^(1/(1+α)) ‖g_t‖^(-2α/(1+α))`; far apart where weights fit float32."""
    lengths = 10.0 ** np.array([-6, 0, 6] if alpha > 3 else [-15, 3, 12])
    weights = np.array([1.0, 2.0, 0.5])
    _, state = one(np.diag(lengths), alpha, weights=weights)
    wanted = weights ** (1 / (1 + alpha)) * lengths ** (-2 * alpha / (1 + alpha))
    np.testing.assert_allclose(state.weights, wanted, rtol=2e-5)
    assert state.inner.residual < 1e-4


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e20])
def test_the_update_scales_as_it_should(alpha, scale):
    matrix = draws(2, spread=0.0)[1]
    base, _ = one(matrix, alpha)
    update, _ = one(matrix * scale, alpha)
    wanted = base * scale ** ((1 - alpha) / (1 + alpha))
    np.testing.assert_allclose(update, wanted, atol=3e-5 * np.linalg.norm(wanted))


def test_limits_of_alpha():
    """Weights tend to `w` as α falls; the gains to one another, in `Ma = 1`, as it grows."""
    matrix = np.random.default_rng(5).normal(size=(3, 9))
    weights = np.array([1.0, 2.0, 0.5])
    _, state = one(matrix, 0.05, weights=weights)
    np.testing.assert_allclose(state.weights, weights, rtol=0.25)
    update, _ = one(matrix, 20.0)
    np.testing.assert_allclose(matrix @ update, 1, rtol=0.15)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0, 20.0])
def test_a_zero_gradient_takes_no_part_and_is_not_a_missing_one(alpha):
    """The peers' weight of it grows without bound."""
    matrix = draws(1)[0]
    wanted, _ = one(matrix[[0, 2, 3]], alpha)
    update, state = one(matrix * np.array([[1], [0], [1], [1]]), alpha)
    np.testing.assert_allclose(update, wanted, atol=1e-5 * np.linalg.norm(wanted))
    assert state.weights[1] == 0
    mask = np.array([[True, False, True, True]])
    absent, state = one(matrix, alpha, mask=mask)
    np.testing.assert_allclose(absent, wanted, atol=1e-5 * np.linalg.norm(wanted))
    assert state.weights[1] == 0


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_stationary_gradients_give_no_update_and_say_so(alpha, dtype):
    third = draws(1)[0][:3]
    stationary = [
        [[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]],
        [[0.1, 0.7], [-0.3, -2.1], [0.0, 0.0]],
        [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]],
    ]
    padded = [np.pad(np.array(rows), ((0, 0), (0, 4))) for rows in stationary]
    padded += [third - third.mean(axis=0)]
    updates, state = run(padded, alpha, dtype=dtype)
    np.testing.assert_array_equal(updates, 0)
    np.testing.assert_array_equal(state.inner.residual, 1)
    # Dependent, and all on one side.
    alike, state = one([[1.0, -2.0], [5.0, -10.0], [0.5, -1.0]], alpha, dtype=dtype)
    assert np.all(np.array([1.0, -2.0]) @ alike > 0)
    assert state.inner.residual < 1e-5


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_derivatives_of_alpha_and_weights(alpha):
    """Those of the gradients are the common suite's."""
    matrix = draws(1)[0]

    def number(alpha, weights):
        tx = mtl.fairgrad(T, alpha, weights=weights)
        return tx.update(matrix, tx.init(matrix[0]), matrix[0])[0][0]

    with jax.enable_x64(True):
        matrix = jnp.asarray(matrix)
        at = jnp.asarray(alpha), jnp.ones(T)
        move = jnp.asarray(0.3), jnp.array([1.0, -0.5, 0.2, 0.0])
        slope = jax.jit(lambda *args: jax.jvp(number, *args)[1])(at, move)
        value = jax.jit(number)
        ahead, behind = (
            float(value(*(x + h * m for x, m in zip(at, move, strict=True)))) for h in (1e-5, -1e-5)
        )
        np.testing.assert_allclose(float(slope), (ahead - behind) / 2e-5, rtol=1e-5)


@pytest.mark.nans
def test_the_solvers_make_nan_of_what_is_not_finite():
    gram = jnp.eye(3).at[0, 1].set(jnp.nan).at[1, 0].set(jnp.nan)
    even, one = jnp.ones(3), jnp.ones(())
    for found in (bargaining(gram), fair(gram, even, one, one, even, jnp.ones(3, bool))):
        assert np.all(np.isnan(found.weights))
        assert np.isnan(found.residual)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="fairgrad: alpha must lie in"):
        mtl.fairgrad(2, 0.0)
    with pytest.raises(ValueError, match="fairgrad: alpha must lie in"):
        mtl.fairgrad(2, 21)
    with pytest.raises(ValueError, match="fairgrad: weights must be positive"):
        mtl.fairgrad(2, 1.0, weights=(1.0, 0.0))

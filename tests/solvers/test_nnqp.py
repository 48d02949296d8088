"""The non-negative quadratic program against SciPy, and its own certificate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from mtl_optax._solvers import nnqp
from tests.matrices import KINDS, hard

NUM_TASKS = 5
batched = jax.jit(jax.vmap(nnqp))


def solve(*arguments, **options):
    return jax.tree.map(np.asarray, nnqp(*arguments, **options))


def solve_all(linear, grams):
    return jax.tree.map(np.asarray, batched(linear, grams))


def unit_rows(kind, seed):
    matrix = hard(NUM_TASKS, 4, seed)[kind]
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(lengths > 0, lengths, 1)


def projections(dtype):
    """The problems of UPGrad for matrices of every kind: rows, their Gram matrix, solutions."""
    rows = np.stack([unit_rows(kind, seed) for kind in KINDS for seed in range(6)])
    grams = rows @ rows.transpose(0, 2, 1)
    return rows, grams, solve_all(jnp.asarray(grams, dtype), jnp.asarray(grams, dtype))


def test_projections_equal_scipy_on_every_kind_of_matrix():
    """The combination of the rows is unique, where the point is not."""
    with jax.enable_x64(True):
        rows, _, solution = projections(jnp.float64)
    points = np.asarray(solution.points)
    assert np.all(points >= 0)
    assert np.all(solution.bounded)
    for matrix, several in zip(rows, points, strict=True):
        for row, point in zip(matrix, several, strict=True):
            wanted = scipy.optimize.nnls(matrix.T, -row)[0] if row.any() else np.zeros(NUM_TASKS)
            np.testing.assert_allclose(point @ matrix, wanted @ matrix, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-4), (jnp.float64, 1e-12)])
def test_the_residual_is_that_of_the_conditions_of_optimality(dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        _, grams, solution = projections(dtype)
    points = np.asarray(solution.points, np.float64)
    slopes = points @ grams + grams
    wanted = np.max(np.abs(np.minimum(points, slopes)), axis=2)
    rounding = 8 * np.finfo(dtype).eps * (1 + points.sum(axis=2))
    assert np.all(np.abs(np.asarray(solution.residuals) - wanted) <= rounding)
    assert np.max(solution.residuals) < tolerance
    assert np.max(solution.iterations) <= 2 * NUM_TASKS


def test_definite_programs_equal_scipy_for_any_vector():
    """With `Q = LL'`, `½x'Qx + q'x` is `½‖L'x + L⁻¹q‖²` and a constant."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(100, 4, 6)) + rng.normal(size=(100, 1, 6))
    grams, linear = rows @ rows.transpose(0, 2, 1), rng.normal(size=(100, 3, 4)) - 0.5
    with jax.enable_x64(True):
        found = solve_all(jnp.asarray(linear), jnp.asarray(grams))
    for gram, several, points in zip(grams, linear, found.points, strict=True):
        lower = np.linalg.cholesky(gram)
        for q, point in zip(several, points, strict=True):
            wanted = scipy.optimize.nnls(lower.T, -np.linalg.solve(lower, q))[0]
            np.testing.assert_allclose(point, wanted, atol=1e-9 * (1 + wanted.max()))


def test_rows_may_be_divided_by_any_powers_of_two():
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(4, 6))
    gram, linear = np.float32(matrix @ matrix.T), np.float32(rng.normal(size=(2, 4)))
    sizes = np.float32(2.0 ** np.array([0, -20, 30, 7]))
    plain = solve(linear, gram)
    divided = solve(linear / sizes, gram / np.outer(sizes, sizes))
    np.testing.assert_array_equal(divided.points / sizes, plain.points)
    np.testing.assert_array_equal(divided.residuals, plain.residuals)


def test_a_mask_or_a_row_of_zeros_leaves_the_smaller_problem():
    rng = np.random.default_rng(2)
    matrix, keep = rng.normal(size=(5, 4)), np.array([0, 2, 4])
    gram, linear = np.float32(matrix @ matrix.T), np.float32(rng.normal(size=(2, 5)))
    mask = np.isin(np.arange(5), keep)
    wanted = solve(linear[:, keep], gram[np.ix_(keep, keep)])
    masked = solve(linear, gram, mask)
    blank = solve(np.where(mask, linear, 0), np.where(np.outer(mask, mask), gram, 0))
    for found in (masked, blank):
        np.testing.assert_allclose(found.points[:, keep], wanted.points, rtol=1e-5, atol=1e-6)
        assert np.all(np.asarray(found.points)[:, ~mask] == 0)
        np.testing.assert_array_equal(found.iterations, wanted.iterations)


def test_a_program_without_a_minimum_is_told_apart():
    """Opposite rows that both ask for more than nothing; the second vector asks one of them."""
    gram = jnp.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    linear = jnp.array([[-0.02, -0.02, 0.5], [-0.02, 0.02, -0.5], [1.0, 1.0, 1.0]])
    found = solve(linear, gram)
    np.testing.assert_array_equal(found.bounded, [False, True, True])
    wanted = np.array([[0.02, 0.0, 0.5], [0.0, 0.0, 0.0]])
    products = lambda points: points @ np.asarray(gram)
    np.testing.assert_allclose(products(found.points[1:]), products(wanted), atol=1e-6)


@pytest.mark.nans
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_ends_and_is_not_hidden(bad):
    broken = jnp.eye(3).at[0, 1].set(bad).at[1, 0].set(bad)
    found = solve(jnp.full((2, 3), -1.0), broken)
    assert np.all(np.isnan(found.points))
    assert np.all(np.isnan(found.residuals))
    one = solve(jnp.array([[-1.0, bad, -1.0], [-1.0, -1.0, -1.0]]), jnp.eye(3))
    assert np.all(np.isnan(one.points[0]))
    np.testing.assert_allclose(one.points[1], 1, rtol=1e-6)


def test_a_cap_on_iterations_is_kept_and_the_residual_tells():
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(14, 8))
    gram = jnp.asarray(matrix @ matrix.T)
    full, capped = solve(gram, gram), solve(gram, gram, max_iterations=1)
    assert np.max(full.iterations) > 1
    assert np.max(capped.iterations) == 1
    assert np.max(capped.residuals) > 1e3 * np.max(full.residuals)

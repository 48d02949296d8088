"""ConicGrad against its primal problem, solved by cvxpy, and against the dual of two tasks."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import mtl_optax as mtl
from tests.matrices import KINDS, hard


def updates(matrices, c=0.25, mask=None):
    """The first updates of many matrices `(B, T, N)`, and the states, in one program."""

    def first(rows, c):
        tx = mtl.conic_grad(matrices.shape[1], c=c)
        return tx.update(rows, tx.init(rows[0]), rows[0], task_mask=mask)

    run = jax.jit(jax.vmap(first, in_axes=(0, None)))
    return jax.tree.map(np.asarray, run(jnp.asarray(matrices), jnp.asarray(c)))


def primal(matrix, c):
    """The greatest `min_t <g_t, d>` in the cone, over the tasks that have a gradient."""
    mean, direction = matrix.mean(0), cp.Variable(matrix.shape[1])
    mean = mean / np.linalg.norm(mean)
    problem = cp.Problem(
        cp.Maximize(cp.min(matrix[np.any(matrix, axis=1)] @ direction)),
        [cp.norm(direction) <= 1, mean @ direction >= c * cp.norm(direction)],
    )
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9)
    return problem.value, direction.value


def worth(matrix, update):
    return np.min(matrix[np.any(matrix, axis=1)] @ update)


def check_feasible(matrix, update, c, tolerance):
    mean = matrix.mean(0)
    np.testing.assert_allclose(np.linalg.norm(update), 1, atol=tolerance)
    assert update @ mean >= (c - tolerance) * np.linalg.norm(mean)


@pytest.mark.parametrize("c", [0.25, 0.8])
def test_equals_the_primal_problem_on_every_kind_of_matrix(c):
    """Hundreds of others, for more tasks, agree as well; cvxpy is slow."""
    matrices = np.stack([hard(4, 3, 1)[kind] for kind in KINDS])
    longest = np.max(np.linalg.norm(matrices, axis=2), axis=1)
    matrices /= np.where(longest > 0, longest, 1)[:, None, None]
    with jax.enable_x64(True):
        found, state = updates(matrices, c)
    # Where gradients cancel, a length is known to the root of what rounding leaves.
    assert np.max(state.inner.gap) < 1e-8
    moved = 0
    for matrix, update in zip(matrices, found, strict=True):
        if np.linalg.norm(matrix.mean(0)) < 1e-12:
            assert not update.any()
            continue
        value, direction = primal(matrix, c)
        assert abs(worth(matrix, update) - value) < 1e-7
        if update.any():
            check_feasible(matrix, update, c, 1e-9)
            assert value < 1e-3 or np.linalg.norm(update - direction) < 1e-4
            moved += 1
    assert moved > 5


def dual(matrix, c):
    """The least `J(w)` for two tasks: how far `g_w` reaches within the cone and the ball."""
    mean = matrix.mean(0) / np.linalg.norm(matrix.mean(0))

    def reach(share):
        mixed = share * matrix[0] + (1 - share) * matrix[1]
        along, length = mixed @ mean, np.linalg.norm(mixed)
        if along >= c * length:
            return length
        return max(0, c * along + np.sqrt((1 - c**2) * max(length**2 - along**2, 0)))

    options = {"xatol": 1e-11}
    found = scipy.optimize.minimize_scalar(reach, bounds=(0, 1), method="bounded", options=options)
    return min(found.fun, reach(0), reach(1))


@pytest.mark.parametrize("c", [0.0, 0.25, 0.8])
def test_two_tasks_reach_the_dual_value(c):
    rng = np.random.default_rng(0)
    matrices = rng.normal(size=(150, 2, 3)) * 10 ** rng.uniform(-1, 1, (150, 2, 1))
    with jax.enable_x64(True):
        found, _ = updates(matrices, c)
    binds = 0
    for matrix, update in zip(matrices, found, strict=True):
        size = np.max(np.linalg.norm(matrix, axis=1))
        value = dual(matrix, c)
        assert abs(worth(matrix, update) - value) < 1e-9 * size
        if value < 1e-7 * size:
            assert not update.any()
            continue
        check_feasible(matrix, update, c, 1e-9)
        mean = matrix.mean(0)
        binds += update @ mean < (c + 1e-6) * np.linalg.norm(mean)
    # What serves both has a positive product with their mean.
    assert binds == 0 if c == 0 else binds > 10


def test_in_float32_the_direction_is_that_of_float64_where_the_condition_allows():
    matrices = np.random.default_rng(1).normal(size=(200, 3, 6))
    found, _ = updates(np.float32(matrices))
    with jax.enable_x64(True):
        wanted, _ = updates(matrices)
    values = np.array([worth(*pair) for pair in zip(matrices, wanted, strict=True)])
    lengths = np.max(np.linalg.norm(matrices, axis=2), axis=1)
    errors = np.linalg.norm(found - wanted, axis=1)
    assert np.all(errors <= 2e-6 * (lengths / values) ** 2)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e15])
def test_the_update_has_length_one_at_any_scale(scale):
    rows = np.array([[[3.0, 0.0], [0.0, 4.0]], [[1.0, 0.0], [1.0, 0.0]]])
    found, _ = updates(np.float32(scale * rows))
    np.testing.assert_allclose(found, [[0.8, 0.6], [1.0, 0.0]], atol=1e-6)


def test_where_nothing_serves_all_it_is_zero():
    opposite = [[1.0, 0.0], [-2.0, 0.0]]
    outside = [[10.0, 1.0], [-1.0, 0.0]]  # Only near (0, 1), far from the mean (4.5, 0.5).
    found, _ = updates(np.float32([opposite, outside]), c=0.25)
    np.testing.assert_array_equal(found, np.zeros((2, 2)))


def test_zero_gradients_and_absent_tasks_take_no_part():
    rng = np.random.default_rng(2)
    matrices = rng.normal(size=(20, 4, 6))
    zero = np.where(np.arange(4)[:, None] == 1, 0, matrices)
    with jax.enable_x64(True):
        wanted, _ = updates(matrices[:, [0, 2, 3]])
        without, _ = updates(zero)
        absent, state = updates(matrices, mask=jnp.array([True, False, True, True]))
    np.testing.assert_allclose(without, wanted, atol=1e-9)
    np.testing.assert_allclose(absent, wanted, atol=1e-9)
    assert not state.weights[:, 1].any()


def test_one_task_is_its_gradient_at_length_one():
    row = np.random.default_rng(3).normal(size=6)
    found, _ = updates(np.float32(row[None, None]))
    np.testing.assert_allclose(found[0], row / np.linalg.norm(row), rtol=1e-6)


def test_a_cosine_outside_of_its_interval_is_named():
    for c in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"conic_grad: c must lie in \[0, 1\), got {c}"):
            mtl.conic_grad(2, c=c)

"""UPGrad against the mean of its projections, by least distance programming and by cvxpy."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl
from mtl_optax._solvers import nnqp
from tests.matrices import KINDS, hard
from tests.projections import nearest


def updates(matrices, mask=None, **options):
    """The first updates of many matrices `(B, T, N)`, and the states, in one program."""
    tx = mtl.upgrad(matrices.shape[1], **options)
    first = lambda rows: tx.update(rows, tx.init(rows[0]), rows[0], task_mask=mask)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(first))(jnp.asarray(matrices)))


def drawn(num_tasks, size, seeds):
    """Matrices of every kind, the longest row of each of length one."""
    every = [hard(num_tasks, size, seed)[kind] for kind in KINDS for seed in range(seeds)]
    longest = [max(np.max(np.linalg.norm(matrix, axis=1)), 1e-300) for matrix in every]
    return np.stack(every) / np.array(longest)[:, None, None]


def mean_of_projections(matrix, preference=None):
    share = np.full(len(matrix), 1 / len(matrix)) if preference is None else preference
    return sum(u * nearest(matrix, row) for u, row in zip(share, matrix, strict=True))


@pytest.mark.parametrize(("num_tasks", "size"), [(3, 6), (5, 3)])
def test_equals_the_mean_of_the_projections_on_every_kind_of_matrix(num_tasks, size):
    matrices = drawn(num_tasks, size, seeds=8)
    with jax.enable_x64(True):
        found, state = updates(matrices)
    for matrix, update in zip(matrices, found, strict=True):
        np.testing.assert_allclose(update, mean_of_projections(matrix), atol=1e-9)
    assert np.max(state.inner.residual) < 1e-11


def test_in_float32_it_is_that_of_float64_where_the_condition_allows():
    matrices = np.random.default_rng(0).normal(size=(200, 4, 9))
    matrices /= np.max(np.linalg.norm(matrices, axis=2), axis=1)[:, None, None]
    found, state = updates(np.float32(matrices))
    wanted = np.stack([mean_of_projections(matrix) for matrix in matrices])
    condition = np.array([np.linalg.cond(matrix) for matrix in matrices])
    errors = np.linalg.norm(found - wanted, axis=1)
    assert np.all(errors <= 2e-7 * condition)
    assert np.max(state.inner.residual) < 1e-6


def test_equals_cvxpy():
    """The oracle above and this one share no solver."""
    for matrix in np.random.default_rng(1).normal(size=(10, 3, 4)):
        point, goal = cp.Variable(4), cp.Parameter(4)
        problem = cp.Problem(cp.Minimize(cp.sum_squares(point - goal)), [matrix @ point >= 0])
        total = np.zeros(4)
        for goal.value in matrix:
            problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
            total += point.value / 3
        np.testing.assert_allclose(mean_of_projections(matrix), total, atol=1e-6)


def test_two_tasks_give_half_of_pcgrad():
    rng = np.random.default_rng(2)
    matrices = rng.normal(size=(50, 2, 3)) * 10 ** rng.uniform(-3, 3, (50, 2, 1))
    one, other = matrices[:, 0], matrices[:, 1]
    product = np.minimum(np.sum(one * other, axis=1, keepdims=True), 0)
    square = lambda rows: np.sum(rows**2, axis=1, keepdims=True)
    pcgrad = one - product / square(other) * other + other - product / square(one) * one
    with jax.enable_x64(True):
        found, _ = updates(matrices)
    size = np.max(np.abs(matrices), axis=(1, 2))[:, None]
    np.testing.assert_allclose(found / size, pcgrad / 2 / size, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1.0, 1e15])
def test_short_gradients_are_projected_as_long_ones(scale):
    """Below a trace of 1e-4, TorchJD's and LibMTL's give the mean, (0.25, 0.5)."""
    rows = scale * np.array([[[1.0, 0.0], [-0.5, 1.0]]])
    found, _ = updates(np.float32(rows))
    np.testing.assert_allclose(found[0] / scale, [0.4, 0.7], rtol=1e-6)


def test_two_tasks_as_far_apart_as_float32_reaches():
    one, other = np.array([1.0, 0.5]), np.array([-1.0, 1.0]) * 1e-28
    rows = np.float32([one, other])
    _, state = updates(rows[None])
    product = one @ other
    wanted = one - product / (other @ other) * other + other - product / (one @ one) * one
    found = state.weights[0].astype(np.float64) @ rows.astype(np.float64)
    np.testing.assert_allclose(found, wanted / 2, rtol=1e-6)


def test_the_update_grows_with_each_task_in_proportion():
    """`d` is linear in the length of each gradient; a ridge or a normalised matrix would not be."""
    rng = np.random.default_rng(3)
    rows, sizes = rng.normal(size=(4, 3)), np.array([1.0, 1e-6, 1e3, 2.0])
    parts = [np.where(np.eye(4)[t][:, None], rows, 1e-9 * rows) for t in range(4)]
    with jax.enable_x64(True):
        found, _ = updates(np.stack([rows * sizes[:, None], *parts]))
    np.testing.assert_allclose(found[0], sizes @ found[1:], rtol=1e-6)


def test_a_zero_gradient_counts_among_the_tasks_and_an_absent_one_does_not():
    rows = np.float32([[[1.0, 0.0], [-0.5, 1.0], [0.0, 0.0]]])
    zero, state = updates(rows)
    np.testing.assert_allclose(zero[0], np.array([0.8, 1.4]) / 3, rtol=1e-6)
    assert state.weights[0, 2] == np.float32(1 / 3)
    absent, state = updates(rows, jnp.array([True, True, False]))
    np.testing.assert_allclose(absent[0], [0.4, 0.7], rtol=1e-6)
    assert state.weights[0, 2] == 0


def test_a_preference_is_used_as_given_among_the_present():
    rng = np.random.default_rng(4)
    matrices, preference = rng.normal(size=(20, 3, 4)), (0.2, 1.5, -0.3)
    keep = np.array([0, 2])
    with jax.enable_x64(True):
        found, _ = updates(matrices, preference=preference)
        masked, _ = updates(matrices, jnp.array([True, False, True]), preference=preference)
    for matrix, full, part in zip(matrices, found, masked, strict=True):
        turned = matrix * np.array([1, 1, -1])[:, None]
        projections = [nearest(matrix, row) for row in turned]
        np.testing.assert_allclose(full, np.abs(preference) @ projections, atol=2e-7)
        projections = [nearest(matrix[keep], row) for row in turned[keep]]
        np.testing.assert_allclose(part, np.array([0.2, 0.3]) @ projections, atol=2e-7)


def test_rows_of_the_update_sum_to_it_and_equal_gradients_are_their_mean():
    row = np.random.default_rng(5).normal(size=6)
    copies = np.float32(np.tile(row, (1, 4, 1)))
    rows, _ = updates(copies, combine=False)
    np.testing.assert_allclose(rows[0], copies[0] / 4, rtol=1e-6)
    opposite, _ = updates(np.float32(np.stack([row, -row])[None]))
    np.testing.assert_allclose(opposite, np.zeros((1, 6)), atol=1e-6)


def test_the_state_tells_of_the_worst_of_the_projections():
    rows = hard(5, 3, 1)["gaussian"]
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    with jax.enable_x64(True):
        each = nnqp(jnp.asarray(units @ units.T), jnp.asarray(units @ units.T))
        _, state = updates(rows[None])
    assert len(set(each.iterations.tolist())) > 1
    assert state.inner.iterations[0] == max(each.iterations.tolist())


def test_a_preference_of_the_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"upgrad: preference has shape \(2,\), wanted \(3,\)"):
        mtl.upgrad(3, preference=(1.0, 2.0))

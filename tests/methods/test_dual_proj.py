"""DualProj against its projection, by least distance programming."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl
from tests.matrices import KINDS, hard
from tests.projections import nearest


def updates(matrices, mask=None, **options):
    """The first updates of many matrices `(B, T, N)`, and the states, in one program."""
    tx = mtl.dual_proj(matrices.shape[1], **options)
    first = lambda rows: tx.update(rows, tx.init(rows[0]), rows[0], task_mask=mask)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(first))(jnp.asarray(matrices)))


@pytest.mark.parametrize(("num_tasks", "size"), [(3, 6), (5, 3)])
def test_equals_the_projection_on_every_kind_of_matrix(num_tasks, size):
    matrices = np.stack([hard(num_tasks, size, seed)[k] for k in KINDS for seed in range(8)])
    with jax.enable_x64(True):
        found, state = updates(matrices)
    assert np.max(state.inner.residual) < 1e-11
    for matrix, update in zip(matrices, found, strict=True):
        wanted = nearest(matrix, matrix.mean(0))
        np.testing.assert_allclose(update, wanted, atol=1e-9 * max(1, np.abs(matrix).max()))


def test_in_float32_it_is_that_of_float64_where_the_condition_allows():
    matrices = np.random.default_rng(0).normal(size=(200, 4, 9))
    matrices /= np.max(np.linalg.norm(matrices, axis=2), axis=1)[:, None, None]
    found, _ = updates(np.float32(matrices))
    wanted = np.stack([nearest(matrix, matrix.mean(0)) for matrix in matrices])
    condition = np.array([np.linalg.cond(matrix) for matrix in matrices])
    assert np.all(np.linalg.norm(found - wanted, axis=1) <= 2e-7 * condition)


def test_a_mean_without_conflict_is_left_alone():
    rows = np.float32([[[1.0, 0.0], [-0.5, 1.0]]])
    found, state = updates(rows)
    np.testing.assert_array_equal(found[0], [0.25, 0.5])
    np.testing.assert_array_equal(state.weights[0], [0.5, 0.5])


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1.0, 1e15])
def test_short_gradients_are_projected_as_long_ones(scale):
    """The mean (-0.5, 0.5) conflicts with the first task."""
    found, _ = updates(np.float32(scale * np.array([[[1.0, 0.0], [-2.0, 1.0]]])))
    np.testing.assert_allclose(found[0] / scale, [0.0, 0.5], atol=1e-6)


def test_a_zero_gradient_counts_among_the_tasks_and_an_absent_one_does_not():
    rows = np.float32([[[1.0, 0.0], [-2.0, 1.0], [0.0, 0.0]]])
    zero, _ = updates(rows)
    np.testing.assert_allclose(zero[0], [0.0, 1 / 3], atol=1e-6)
    absent, state = updates(rows, jnp.array([True, True, False]))
    np.testing.assert_allclose(absent[0], [0.0, 0.5], atol=1e-6)
    assert state.weights[0, 2] == 0


def test_a_preference_is_used_as_given_among_the_present():
    rng = np.random.default_rng(1)
    matrices, preference = rng.normal(size=(20, 3, 4)), np.array([0.2, 1.5, -0.3])
    keep = np.array([0, 2])
    with jax.enable_x64(True):
        found, _ = updates(matrices, preference=preference)
        masked, _ = updates(matrices, jnp.array([True, False, True]), preference=preference)
    for matrix, full, part in zip(matrices, found, masked, strict=True):
        np.testing.assert_allclose(full, nearest(matrix, preference @ matrix), atol=2e-7)
        rest = matrix[keep]
        np.testing.assert_allclose(part, nearest(rest, preference[keep] @ rest), atol=2e-7)

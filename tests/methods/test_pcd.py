"""PCD against its constrained problem, by least distance programming, and step by step in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl
from tests.matrices import KINDS, hard
from tests.projections import nearest


def updates(matrices, **options):
    """The first updates of many matrices `(B, T, N)`, and the states, in one program."""
    tx = mtl.pcd(matrices.shape[1], **options)
    first = lambda rows: tx.update(rows, tx.init(rows[0]), rows[0])
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(first))(jnp.asarray(matrices)))


def by_hand(matrix, usual, tau, *, main=0, rescale=True):
    """The update of gradients of these usual lengths; None where float64 cannot tell."""
    rows = matrix / np.where(usual > 0, usual, 1)[:, None]
    others = np.arange(len(rows)) != main
    if not rows[main].any():
        return np.zeros(rows.shape[1])
    bounds = np.broadcast_to(tau, len(rows)) * np.sum(rows**2, axis=1)
    bent = nearest(rows[others], rows[main], bounds[others])
    if bent is None:
        return matrix[main]
    length = np.linalg.norm(bent)
    return bent * (np.linalg.norm(matrix[main]) / length if rescale else usual[main])


@pytest.mark.parametrize("rescale", [True, False])
def test_equals_the_constrained_problem(rescale):
    rng = np.random.default_rng(0)
    matrices = rng.normal(size=(300, 3, 4)) * 10 ** rng.uniform(-2, 2, (300, 3, 1))
    with jax.enable_x64(True):
        found, state = updates(matrices, tau=0.3, rescale=rescale)
    assert np.max(state.inner.solved.residual) < 1e-10
    for matrix, update in zip(matrices, found, strict=True):
        norms = np.linalg.norm(matrix, axis=1)
        wanted = by_hand(matrix, norms, 0.3, rescale=rescale)
        size = norms[0] * max(1, np.linalg.cond(matrix / norms[:, None]))
        np.testing.assert_allclose(update, wanted, atol=1e-9 * size)


def test_constraints_hold_on_every_kind_of_matrix_or_the_primary_is_followed():
    """What the state says of it: a residual where there is no solution, and none elsewhere."""
    matrices = np.stack([hard(4, 3, seed)[kind] for kind in KINDS for seed in range(8)])
    with jax.enable_x64(True):
        found, state = updates(matrices, rescale=False)
    followed = solved = 0
    for matrix, update, residual in zip(matrices, found, state.inner.solved.residual, strict=True):
        norms = np.linalg.norm(matrix, axis=1)
        units = matrix / np.where(norms > 0, norms, 1)[:, None]
        bounds = np.where(norms[1:] > 0, 0.02, 0)
        if norms[0] == 0:
            assert not update.any()
        elif nearest(units[1:], units[0], bounds) is None:
            np.testing.assert_allclose(update, matrix[0], rtol=1e-12)
            assert residual > 1e-3
            followed += 1
        else:
            assert np.all(units[1:] @ update / norms[0] >= bounds - 1e-9)
            assert residual < 1e-9
            solved += 1
    assert followed > 5
    assert solved > 50


def test_twenty_steps_with_masks_equal_a_loop():
    rng = np.random.default_rng(1)
    num_tasks, main, tau, decay = 4, 2, np.array([0.1, 0.3, 9.0, 0.05]), 0.9
    gradients = rng.normal(size=(20, num_tasks, 5)) * 10 ** rng.uniform(-1, 1, (20, num_tasks, 1))
    gradients[7, 1] = 0
    masks = rng.random((20, num_tasks)) < 0.8
    masks[3], masks[5, main] = False, False
    tx = mtl.pcd(num_tasks, main=main, tau=tau, decay=decay)

    def steps(gradients, masks):
        take = lambda state, now: tx.update(now[0], state, task_mask=now[1])[::-1]
        return jax.lax.scan(take, tx.init(gradients[0, 0]), (gradients, masks))

    with jax.enable_x64(True):
        state, found = jax.tree.map(np.asarray, jax.jit(steps)(gradients, masks))
    average, count = np.zeros(num_tasks), np.zeros(num_tasks, int)
    for rows, mask, update in zip(gradients, masks, found, strict=True):
        norms = np.linalg.norm(rows, axis=1)
        average = np.where(mask, decay * average + (1 - decay) * norms**2, average)
        count += mask
        usual = np.sqrt(average / np.where(count > 0, 1 - decay**count, 1))
        if not mask.any():
            wanted = np.zeros(5)
        elif not mask[main]:
            wanted = rows[mask].mean(0)
        else:
            place = np.flatnonzero(np.flatnonzero(mask) == main)[0]
            wanted = by_hand(rows[mask], usual[mask], tau[mask], main=place)
        np.testing.assert_allclose(update, wanted, atol=2e-5 * np.max(norms))
    np.testing.assert_allclose(state.inner.lengths, usual, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-25, 1e-5, 1.0, 1e15])
def test_the_first_step_at_any_scale(scale):
    """A constant of 1e-8 beside the squares, as in TorchJD, would move it below 1e-4."""
    found, _ = updates(np.float32(scale * np.array([[[1.0, 0.0], [-0.5, 1.0]]])))
    np.testing.assert_allclose(found[0] / scale, [0.884206, 0.467097], rtol=2e-6)


def test_the_primary_can_rise_at_full_length_and_without_rescaling_hardly():
    cosines = np.array([-0.9, -0.99, -0.999, -0.9999, -1.0])
    rows = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    matrices = np.float32(np.stack([np.broadcast_to([1.0, 0.0], rows.shape), rows], axis=1))
    drawn_out, _ = updates(matrices)
    np.testing.assert_allclose(drawn_out[1:, 0], [0.0007, -0.367, -0.808, -1.0], atol=6e-4)
    np.testing.assert_allclose(np.linalg.norm(drawn_out, axis=1), 1, rtol=1e-5)
    held, _ = updates(matrices, rescale=False)
    assert np.all(held[:, 0] >= -0.02 - 1e-6)
    np.testing.assert_allclose(np.sum(held * rows, axis=1), 0.02, atol=1e-6)


def test_what_cannot_be_served_is_left_and_what_is_zero_asks_for_nothing():
    opposite = np.float32([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    zero = np.float32([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    still = np.float32([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    found, _ = updates(np.stack([opposite, zero, still]), rescale=False)
    np.testing.assert_allclose(found, [[1, 0, 0], [1, 0.02, 0], [0, 0, 0]], atol=1e-6)
    still, _ = updates(still[None])
    np.testing.assert_array_equal(still, np.zeros((1, 3)))
    cancelled, _ = updates(np.float32([[[1.0, 0.0], [-3.0, 0.0]]]), tau=0.0)
    np.testing.assert_array_equal(cancelled, np.zeros((1, 2)))


def test_a_primary_task_that_does_not_exist_is_named():
    for main in (-1, 3):
        with pytest.raises(ValueError, match=rf"pcd: main must be .* from 0 to 2, got {main}"):
            mtl.pcd(3, main=main)
    with pytest.raises(TypeError, match="pcd: main must be an integer, got 0.5"):
        mtl.pcd(3, main=0.5)
    with pytest.raises(ValueError, match=r"pcd: tau must lie in \[0, inf\), got -0.1"):
        mtl.pcd(3, tau=-0.1)

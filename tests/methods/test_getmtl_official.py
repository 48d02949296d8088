"""What GetMTL's published code computes, in NumPy, and how it departs from the paper."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import mtl_optax as mtl

EPSILON = 0.15


def shortest(vectors):
    """The weights of the point of least norm in the convex hull, as a least-squares problem."""
    vectors = vectors / np.max(np.linalg.norm(vectors, axis=1))
    system = np.concatenate([vectors.T, np.full((1, len(vectors)), 1e4)])
    weights = scipy.optimize.nnls(system, np.append(np.zeros(vectors.shape[1]), 1e4))[0]
    return weights / weights.sum()


def code_objective(gram, c):
    """The objective of the code's stage two, with the precedence of its last term."""
    mean_norm = np.sqrt(gram.mean() + 1e-8)
    rho = 1 - (c * mean_norm) ** 2

    def objective(x):
        norm = np.sqrt(x @ gram @ x + 1e-8)
        return ((c * mean_norm + 1e-8 + 1) * norm) ** 2 / (2 * c * norm * rho) - norm / 2 * c

    return objective


def transcription(rows, losses, c=EPSILON):
    gram = rows @ rows.T
    norms = np.linalg.norm(rows, axis=1)
    scales = shortest(rows / (losses * norms)[:, None])
    x = shortest(rows)
    w = np.exp(x * scales)
    w /= w.sum()
    g0 = rows.mean(0)
    mean_norm = np.sqrt(gram.mean() + 1e-8)
    rho = 1 - (c * mean_norm) ** 2
    g_w = w @ rows
    factor = (np.linalg.norm(g_w) + 1e-8) / (c * mean_norm**2 + 1e-8)
    return len(rows) * (g0 / rho + g_w / rho * factor) / (1 + c**2), w


@functools.cache
def method(num_tasks, **hyperparameters):
    tx = mtl.getmtl(num_tasks, epsilon=EPSILON, **hyperparameters)
    return tx.init, jax.jit(tx.update)


def run(rows, losses, mask=None, **hyperparameters):
    rows = jnp.asarray(rows, jnp.float32)
    init, update = method(len(rows), variant="official", **hyperparameters)
    mask = jnp.asarray(np.ones(len(rows), bool) if mask is None else mask)
    return update(rows, init(rows[0]), task_losses=jnp.asarray(losses, jnp.float32), task_mask=mask)


def draw(num_tasks, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_tasks, 9)), rng.uniform(0.2, 2.0, num_tasks)


@pytest.mark.parametrize("num_tasks", [1, 2, 4])
def test_update_is_the_codes(num_tasks):
    for seed in range(4):
        rows, losses = draw(num_tasks, seed)
        wanted, _ = transcription(rows, losses)
        updates, state = run(rows, losses)
        np.testing.assert_allclose(updates, wanted, rtol=1e-4, atol=1e-5)
        assert state.inner.gap < 1e-5


def test_the_codes_stage_two_is_mgda():
    """SciPy's SLSQP, as in the code, on the code's objective finds the min-norm weights."""
    rows, _ = draw(3, 0)
    found = scipy.optimize.minimize(
        code_objective(rows @ rows.T, EPSILON),
        np.full(3, 1 / 3),
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda x: 1 - x.sum()},
        tol=1e-12,
    )
    np.testing.assert_allclose(found.x, shortest(rows), atol=1e-4)


def test_the_weights_are_nearly_uniform_and_the_length_is_wrong():
    """The two departures from the paper that the variant is kept apart for."""
    rows, losses = draw(3, 1)
    w = transcription(rows, losses)[1]
    assert 3 * np.max(w) < 1.2
    updates, _ = run(rows, losses)
    halved, _ = run(rows / 2, losses)
    # λ = ‖g_w‖ / (ε ‖g_0‖²) doubles, so the part of g_w stays as it is. The paper's halves.
    part = lambda rows, updates: np.linalg.norm(np.asarray(updates) - 3 * rows.mean(0))
    assert 0.8 < part(rows / 2, halved) / part(rows, updates) < 1.2
    paper = mtl.getmtl(3, epsilon=EPSILON)
    direction, _ = paper.update(jnp.asarray(rows, jnp.float32), paper.init(jnp.zeros(9)))
    assert np.linalg.norm(updates) > 5 * np.linalg.norm(direction)


def test_the_radius_is_kept_where_the_code_turns_to_ascent():
    rows, losses = draw(3, 2)
    rows = 20 * rows
    code, _ = transcription(rows, losses)
    ours, _ = run(rows, losses)
    assert code @ rows.mean(0) < 0
    assert np.asarray(ours) @ rows.mean(0) > 0
    # At the cap, ε is max_radius / ‖g_0‖ everywhere but in 1 + ε².
    c = 0.9 / np.linalg.norm(rows.mean(0))
    wanted, _ = transcription(rows, losses, c)
    np.testing.assert_allclose(ours, wanted * (1 + c**2) / (1 + EPSILON**2), rtol=1e-4, atol=1e-2)


@pytest.mark.nans
def test_an_absent_task_does_not_count():
    rows, losses = draw(4, 3)
    rows[2], losses[2] = np.nan, np.nan
    updates, state = run(rows, losses, mask=[True, True, False, True])
    wanted, _ = transcription(rows[[0, 1, 3]], losses[[0, 1, 3]])
    np.testing.assert_allclose(updates, wanted, rtol=1e-4, atol=1e-5)
    assert state.weights[2] == 0


@pytest.mark.parametrize("radius", ["absolute", "relative"])
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_finite_at_the_edges(radius, scale):
    base = np.array([[1.0, -2.0], [-1.0, 2.0]])
    for rows in (base, 0 * base, base[[0, 0]], base * [[1.0], [0.0]], base * [[1.0], [1e-6]]):
        for losses in ([1.0, 2.0], [0.0, -1.0], [1e-12, 1e12]):
            updates, _ = run(rows * scale, losses, radius=radius)
            assert np.all(np.isfinite(updates))


def test_only_this_variant_reads_the_losses():
    rows = jnp.eye(2)
    with pytest.raises(ValueError, match="getmtl: task_losses is missing"):
        mtl.getmtl(2, variant="official").update(rows, mtl.getmtl(2).init(rows[0]), rows[0])
    mtl.getmtl(2, variant="exact").update(rows, mtl.getmtl(2).init(rows[0]), rows[0])

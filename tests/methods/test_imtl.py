"""IMTL against LibMTL's closed form and a NumPy transcription of the loss scales."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl

LOSSES = np.array([3.0, 0.2, 1.5])


@functools.cache
def method(name, num_tasks, **hyperparameters):
    tx = mtl.get(name, num_tasks, **hyperparameters)
    return tx.init, jax.jit(tx.update)


SGD, TWICE = optax.sgd(0.1), optax.sgd(0.2)


def run(name, rows, state=None, losses=None, mask=None, **hyperparameters):
    rows = jnp.asarray(rows, jnp.float32)
    init, update = method(name, len(rows), **hyperparameters)
    losses = np.ones(len(rows)) if losses is None else losses
    mask = np.ones(len(rows), bool) if mask is None else np.array(mask)
    state = init(rows[0]) if state is None else state
    return update(
        rows, state, task_losses=jnp.asarray(losses, jnp.float32), task_mask=jnp.asarray(mask)
    )


def draw(num_tasks, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_tasks, 9)) * np.exp(rng.normal(size=(num_tasks, 1)))


def closed_form(rows):
    """α_{2:T} = g_1 U' (D U')⁻¹ with D, U the differences of the gradients and of their units."""
    if len(rows) == 1:
        return np.ones(1)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rest = np.linalg.solve(
        (units[0] - units[1:]) @ (rows[0] - rows[1:]).T, (units[0] - units[1:]) @ rows[0]
    )
    return np.concatenate([[1 - rest.sum()], rest])


def ascending():
    """Three tasks whose M⁻¹n sums to less than zero."""
    for seed in range(1000):
        rows = draw(3, seed) * np.array([[1.0], [20.0], [1.0]])
        rows[:, 4:] = 0
        if np.sum(np.linalg.solve(rows @ rows.T, np.linalg.norm(rows, axis=1))) < -0.05:
            return rows
    raise AssertionError("none found")


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 6])
def test_weights_are_the_papers_closed_form(num_tasks):
    for seed in range(5):
        rows = draw(num_tasks, seed)
        updates, state = run("imtl_g", rows, safe=False)
        wanted = closed_form(rows)
        np.testing.assert_allclose(state.weights, wanted, rtol=2e-5, atol=1e-5)
        np.testing.assert_allclose(updates, wanted @ rows, rtol=1e-4, atol=2e-5)


def test_two_tasks_are_weighted_by_each_others_norm():
    _, state = run("imtl_g", [[3.0, 0.0], [-1.0, 1.0]])
    first, second = 3.0, np.sqrt(2)
    np.testing.assert_allclose(state.weights, np.array([second, first]) / (first + second), 1e-5)


def test_safe_descends_where_the_paper_ascends_for_every_task():
    rows = ascending()
    safe, _ = run("imtl_g", rows)
    paper, _ = run("imtl_g", rows, safe=False)
    np.testing.assert_allclose(paper, closed_form(rows) @ rows, rtol=1e-3)
    assert np.all(rows @ np.asarray(paper) < 0)
    np.testing.assert_allclose(safe, -np.asarray(paper), rtol=1e-6)
    projections = rows @ np.asarray(safe, np.float64) / np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(projections, projections[0], rtol=1e-4)


@pytest.mark.parametrize("safe", [True, False])
def test_where_the_weights_sum_to_zero_the_length_is_configs(safe):
    """C⁻¹1 = x with Σ x_t / n_t = 0, by choice of the lengths of gradients of given angles."""
    rows = np.array([[1.0, 0.0, 0.0], [0.9, 0.19**0.5, 0.0], [0.85, -0.1, 0.0]])
    rows[2, 2] = np.sqrt(1 - rows[2] @ rows[2])
    point = np.linalg.solve(rows @ rows.T, np.ones(3))
    assert np.min(point) < 0
    lengths = np.where(point < 0, 1.0, 2 * np.abs(point / np.min(point)))
    assert abs(np.sum(point / lengths)) < 1e-12
    rows = rows * lengths[:, None]
    direction = (point / lengths) @ rows
    direction /= np.linalg.norm(direction)
    updates, _ = run("imtl_g", rows, safe=safe)
    wanted = np.mean(rows @ direction) * direction
    np.testing.assert_allclose(updates, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (np.array([[1.0, 2.0], [-1.0, -2.0]]), [0.0, 0.0]),
        (np.array([[1.0, 2.0], [-3.0, -6.0]]), [0.0, 0.0]),
        (np.array([[1.0, 2.0]] * 3), [1.0, 2.0]),
        (np.zeros((3, 2)), [0.0, 0.0]),
        (np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]), [0.5, 0.5]),
    ],
    ids=["opposite", "opposite of another length", "equal", "zero", "one zero"],
)
def test_dependent_gradients(rows, wanted):
    updates, _ = run("imtl_g", rows)
    np.testing.assert_allclose(updates, wanted, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_tasks_of_far_scales_project_equally(scale):
    rows = draw(3) * np.array([[1.0], [scale], [1.0]])
    updates, _ = run("imtl_g", rows)
    rows = rows * min(1, 1 / scale)
    projections = rows @ np.asarray(updates, np.float64) / np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(projections, projections[0], rtol=1e-4)
    assert projections[0] > 0


def scales_of(steps, rate=0.1):
    """s_{k+1} = s_k - rate (e^{s_k} L - 1), from zero."""
    s = np.zeros(3)
    for _ in range(steps):
        yield np.exp(s)
        s = s - rate * (np.exp(s) * LOSSES - 1)


def test_loss_scales_over_steps():
    state = None
    for step, scales in enumerate(scales_of(6)):
        rows = draw(3, step)
        updates, state = run("imtl_l", rows, state, LOSSES, optimizer=SGD)
        np.testing.assert_allclose(state.weights, scales, rtol=1e-6)
        np.testing.assert_allclose(updates, scales @ rows, rtol=1e-5, atol=1e-6)


def test_twice_uw_of_the_negated_scales():
    """Both losses are one function of ±s, up to a factor of two that the rate takes up."""
    imtl_state = uw_state = None
    for step in range(4):
        rows = draw(3, step)
        _, imtl_state = run("imtl_l", rows, imtl_state, LOSSES, optimizer=SGD)
        _, uw_state = run("uw", rows, uw_state, LOSSES, optimizer=TWICE)
        np.testing.assert_allclose(imtl_state.weights, 2 * uw_state.weights, rtol=1e-6)


def test_both_over_steps():
    """LibMTL's: the closed form on the scaled gradients; s descends its own, unweighted loss."""
    state = None
    for step, scales in enumerate(scales_of(6)):
        rows = draw(3, step)
        updates, state = run("imtl", rows, state, LOSSES, optimizer=SGD, safe=False)
        wanted = closed_form(scales[:, None] * rows) * scales
        np.testing.assert_allclose(state.weights, wanted, rtol=2e-5, atol=1e-5)
        np.testing.assert_allclose(updates, wanted @ rows, rtol=1e-4, atol=2e-5)


def test_the_scales_set_the_length_of_both_and_not_its_direction():
    rows, fast = draw(3), optax.sgd(1.0)
    _, state = run("imtl", rows, losses=LOSSES, optimizer=fast)
    both, _ = run("imtl", rows, state, LOSSES, optimizer=fast)
    alone, _ = run("imtl_g", rows)
    ratio = np.asarray(both) / np.asarray(alone)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    assert abs(ratio[0] - 1) > 0.1


@pytest.mark.parametrize("name", ["imtl_l", "imtl"])
def test_an_absent_tasks_scale_stands_still(name):
    rows, mask = draw(3), [True, False, True]
    _, state = run(name, rows, losses=LOSSES, optimizer=SGD)
    masked, after = run(name, rows, state, LOSSES, mask, optimizer=SGD)
    assert after.inner.values[1] == state.inner.values[1]
    assert np.all(after.inner.values[::2] != state.inner.values[::2])
    small_state = None
    for _ in range(2):
        small, small_state = run(name, rows[::2], small_state, LOSSES[::2], optimizer=SGD)
    np.testing.assert_allclose(masked, small, rtol=1e-5, atol=1e-6)


def test_losses_that_are_not_positive_drive_the_scale_to_the_clip():
    state = None
    for _ in range(60):
        _, state = run("imtl_l", np.eye(2), state, np.array([0.0, -1.0]), optimizer=SGD, clip=2.0)
    np.testing.assert_allclose(state.weights, np.exp(2.0), rtol=1e-6)


def test_large_losses_drive_the_scale_to_minus_the_clip():
    _, state = run("imtl_l", np.eye(2), losses=np.array([1e3, 50.0]), optimizer=SGD, clip=2.0)
    np.testing.assert_array_equal(state.inner.values, [-2.0, -2.0])


def test_arguments_are_checked():
    with pytest.raises(TypeError, match="imtl_l: optimizer must be an optax"):
        mtl.imtl_l(2, 0.1)
    with pytest.raises(ValueError, match="imtl: clip must lie in"):
        mtl.imtl(2, clip=0.0)

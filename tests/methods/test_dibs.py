"""DiBS-MTL against its walk in the space of the parameters, in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl

T, N = 4, 6


@functools.cache
def program(num_tasks, num_steps):
    def first(matrix, radius, step_size, mask):
        tx = mtl.dibs(num_tasks, radius=radius, step_size=step_size, num_steps=num_steps)
        return tx.update(matrix, tx.init(matrix[0]), matrix[0], task_mask=mask)

    return jax.jit(jax.vmap(first, in_axes=(0, 0, 0, None)))


def run(matrices, radius=1.0, step_size=0.2, num_steps=5, mask=None, dtype=np.float32):
    matrices = np.asarray(matrices, dtype)
    batch, num_tasks, _ = matrices.shape
    mask = np.ones(num_tasks, bool) if mask is None else np.array(mask)
    numbers = (np.full(batch, x, dtype) * np.ones(batch, dtype) for x in (radius, step_size))
    with jax.enable_x64(dtype == np.float64):
        updates, state = program(num_tasks, num_steps)(matrices, *numbers, mask)
        return np.asarray(updates, np.float64), np.asarray(state.weights)


def oracle(matrix, radius=1.0, step_size=0.2, num_steps=5):
    """As the public code walks, whose weights include the step that leaves the ball."""
    units = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    point = np.zeros(matrix.shape[1])
    for _ in range(num_steps):
        distances = np.linalg.norm(radius * units - point, axis=1)
        point = point + step_size * distances @ units
        if np.linalg.norm(point) > radius:
            break
    return point


def draws(number=200):
    """Matrices of every rank, with rows of other lengths."""
    rng = np.random.default_rng(0)
    ranks = rng.integers(1, T + 1, number)
    parts = [(rng.normal(size=(T, r)), rng.normal(size=(r, N))) for r in ranks]
    return np.stack([a @ b for a, b in parts]) * np.exp(2 * rng.normal(size=(number, T, 1)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-7), (np.float32, 2e-3)])
@pytest.mark.parametrize("num_steps", [1, 5])
def test_equals_the_walk_of_the_parameters(num_steps, dtype, tolerance):
    """Where `d` stands on a point that a task prefers, a distance is the root of rounding."""
    matrices = draws()
    rng = np.random.default_rng(1)
    radius, step_size = rng.uniform(0.1, 3, (2, len(matrices))) * [[1.0], [0.3]]
    updates, _ = run(matrices, radius, step_size, num_steps, dtype=dtype)
    wanted = np.stack(
        [oracle(m, r, h, num_steps) for m, r, h in zip(matrices, radius, step_size, strict=True)]
    )
    errors = np.linalg.norm(updates - wanted, axis=1) / radius
    assert np.max(errors) < tolerance
    assert np.median(errors) < 1e3 * tolerance**2


def test_weights_at_the_authors_numbers_are_those_of_unit_gradients():
    matrices = draws(10)
    _, weights = run(matrices, radius=1e-3, step_size=2e-4)
    wanted = 1e-6 / np.linalg.norm(matrices, axis=2)
    np.testing.assert_allclose(weights, wanted, rtol=5e-3)
    assert np.max(np.abs(run(matrices)[1] * 1e-6 / wanted - 1)) > 0.2


def test_an_absent_task_or_a_zero_gradient_does_not_pull():
    matrices = draws(20)
    wanted = np.stack([oracle(m[[0, 2, 3]]) for m in matrices])
    absent, weights = run(matrices, mask=[True, False, True, True], dtype=np.float64)
    np.testing.assert_allclose(absent, wanted, atol=1e-7)
    assert np.all(weights[:, 1] == 0)
    matrices[:, 1] = 0
    zero, weights = run(matrices, dtype=np.float64)
    np.testing.assert_allclose(zero, wanted, atol=1e-7)
    assert np.all(weights[:, 1] == 0)


@pytest.mark.parametrize("scale", [1e-25, 1e20])
def test_only_directions_count(scale):
    matrices = draws(5)
    far = scale ** np.array([[1.0], [0.5], [0.0], [1.0]])
    base, _ = run(matrices)
    np.testing.assert_allclose(run(matrices * scale)[0], base, atol=2e-3)
    np.testing.assert_allclose(run(matrices * far)[0], base, atol=2e-3)


def test_by_default_the_steps_are_shares_of_the_present_tasks():
    tx = mtl.dibs(T, radius=0.5)
    for mask in ([True, False, True, True], [True] * T):
        for matrix in np.float32(draws(5)):
            updates, _ = tx.update(matrix, tx.init(matrix[0]), matrix[0], task_mask=jnp.array(mask))
            wanted = oracle(np.float64(matrix[mask]), 0.5, 1 / (5 * sum(mask)))
            np.testing.assert_allclose(updates, wanted, atol=1e-5)


def test_the_number_of_steps_may_be_an_array():
    matrix = jnp.asarray(draws(1)[0], jnp.float32)

    @jax.jit
    def update(num_steps):
        tx = mtl.dibs(T, step_size=0.2, num_steps=num_steps)
        return tx.update(matrix, tx.init(matrix[0]), matrix[0])[0]

    for number in (1, 3):
        wanted = oracle(np.asarray(matrix, np.float64), num_steps=number)
        np.testing.assert_allclose(update(number), wanted, atol=1e-4)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="dibs: radius must lie in"):
        mtl.dibs(2, radius=0.0)
    with pytest.raises(ValueError, match="dibs: step_size must lie in"):
        mtl.dibs(2, step_size=-1.0)
    with pytest.raises(ValueError, match="dibs: num_steps must be at least 1"):
        mtl.dibs(2, num_steps=0)

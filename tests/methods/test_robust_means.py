"""Krum and the trimmed mean against their definitions in NumPy, and fixed weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl

T, N = 7, 5
PARAMS = jnp.zeros(N)


def krum(rows, byzantine, selected, squared):
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=2) ** (2 if squared else 1)
    near = max(len(rows) - byzantine - 2, 1)
    scores = np.sort(distances, axis=1)[:, 1 : near + 1].sum(axis=1)
    return rows[np.argsort(scores)[:selected]].mean(axis=0)


@pytest.mark.nans
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("byzantine", "selected", "squared"), [(0, 1, True), (1, 3, True), (2, 2, False)]
)
def test_krum_over_draws(byzantine, selected, squared, masked):
    rng = np.random.default_rng(byzantine)
    tx = mtl.krum(T, num_byzantine=byzantine, num_selected=selected, squared=squared)
    draws = rng.normal(size=(100, T, N)) * np.exp(rng.normal(size=(100, T, 1)))
    mask = np.array([True, True, False, True, True, False, True]) | (not masked)
    given = jnp.asarray(draws, jnp.float32).at[:, ~mask].set(jnp.nan)
    one = lambda rows: tx.update(rows, tx.init(PARAMS), PARAMS, task_mask=jnp.asarray(mask))[0]
    found = jax.jit(jax.vmap(one))(given)
    wanted = np.stack([krum(rows[mask], byzantine, selected, squared) for rows in draws])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_tasks_with_one_score_share_a_place():
    rows = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    tx = mtl.krum(2)
    _, state = tx.update(rows, tx.init(jnp.zeros(2)), jnp.zeros(2))
    np.testing.assert_array_equal(state.weights, 0.5)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_krum_at_any_scale(scale):
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(T, N)), jnp.float32)
    tx = mtl.krum(T, num_selected=3)
    wanted = tx.update(rows, tx.init(PARAMS), PARAMS)[1].weights
    found = tx.update(rows * scale, tx.init(PARAMS), PARAMS)[1].weights
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.nans
@pytest.mark.parametrize("trim", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("masked", [False, True])
def test_the_trimmed_mean_over_draws(trim, masked):
    rng = np.random.default_rng(trim)
    rows = rng.normal(size=(T, 200))
    mask = np.array([True, True, False, True, True, False, True]) | (not masked)
    tx, params = mtl.trimmed_mean(T, trim=trim), jnp.zeros(200)
    given = jnp.asarray(rows, jnp.float32).at[~mask].set(jnp.nan)
    found, _ = tx.update(given, tx.init(params), params, task_mask=jnp.asarray(mask))
    cut = min(trim, (mask.sum() - 1) // 2)
    wanted = np.sort(rows[mask], axis=0)[cut : mask.sum() - cut].mean(axis=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tasks", [3, 20])
@pytest.mark.parametrize("combine", [True, False])
def test_of_equal_entries_as_many_are_trimmed_as_of_others(tasks, combine):
    """In a loop over the tasks too, where they are many."""
    rows = np.random.default_rng(0).integers(-2, 3, (tasks, 300)).astype(np.float32)
    tx, params = mtl.trimmed_mean(tasks, combine=combine), jnp.zeros(300)
    found, _ = tx.update(jnp.asarray(rows), tx.init(params), params)
    if not combine:
        found = np.asarray(found)
        assert np.all((found == 0) | np.isclose(found, rows / (tasks - 2)))
        found = np.sum(found, axis=0)
    wanted = np.sort(rows, axis=0)[1:-1].mean(axis=0)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.nans
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_trimmed_away(bad):
    rows = jnp.ones((T, N)).at[2, 1].set(bad)
    tx = mtl.trimmed_mean(T, trim=2)
    found, _ = tx.update(rows, tx.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(np.isfinite(found), np.arange(N) != 1)


def test_the_trimmed_mean_of_complex_gradients_goes_by_parts():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(3, N)) + 1j * rng.normal(size=(3, N))
    params = jnp.zeros(N, jnp.complex64)
    tx = mtl.trimmed_mean(3)
    found, _ = tx.update(jnp.asarray(rows, jnp.complex64), tx.init(params), params)
    wanted = np.median(rows.real, axis=0) + 1j * np.median(rows.imag, axis=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_fixed_weights_are_used_as_they_are():
    weights = np.array([0.5, -1.0, 0.0, 2.0, 3.0, 0.1, 0.2])
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(T, N)), jnp.float32)
    tx, mask = mtl.constant(T, weights), jnp.arange(T) != 3
    found, state = tx.update(rows, tx.init(PARAMS), PARAMS, task_mask=mask)
    np.testing.assert_allclose(state.weights, weights * np.asarray(mask), rtol=1e-6)
    np.testing.assert_allclose(found, (weights * np.asarray(mask)) @ rows, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"constant: weights has shape \(2,\), wanted \(7,\)"):
        mtl.constant(T, [1.0, 2.0])
    with pytest.raises(TypeError, match="constant: weights must hold one number per task"):
        mtl.constant(T, None)

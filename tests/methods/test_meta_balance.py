"""MetaBalance against the formula in NumPy, leaf by leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl

T = 3
PARAMS = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)}


def drawn(rng):
    lengths = np.array([1.0, 10.0, 0.01])
    return {
        key: rng.normal(size=(T, *p.shape)) * lengths.reshape(T, *(1 for _ in p.shape))
        for key, p in PARAMS.items()
    }


@pytest.mark.nans
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("main", [0, 2])
def test_twenty_steps_are_those_of_the_loop(main, masked):
    rng = np.random.default_rng(main)
    tx = mtl.meta_balance(T, main=main, r=0.6, decay=0.8)
    state, step = tx.init(PARAMS), jax.jit(tx.update)
    norms, counts = {key: np.zeros(T) for key in PARAMS}, np.zeros(T)
    for _ in range(20):
        rows = drawn(rng)
        mask = rng.uniform(size=T) < 0.6 if masked else np.ones(T, bool)
        given = jax.tree.map(
            lambda g, m=mask: jnp.asarray(g, jnp.float32).at[~m].set(jnp.nan), rows
        )
        updates, state = step(given, state, PARAMS, task_mask=jnp.asarray(mask))
        counts += mask
        for key, g in rows.items():
            length = np.linalg.norm(g.reshape(T, -1), axis=1)
            norms[key] = np.where(mask, 0.8 * norms[key] + 0.2 * length, norms[key])
            m = norms[key] / np.where(counts, 1 - 0.8**counts, 1)
            with np.errstate(divide="ignore", invalid="ignore"):
                weights = 0.6 * m[main] / m + 0.4 if mask[main] else np.ones(T)
            wanted = np.einsum(
                "t,t...->...",
                np.where(mask, weights, 0),
                np.where(mask.reshape(T, *(1 for _ in g.shape[1:])), g, 0),
            )
            np.testing.assert_allclose(updates[key], wanted, rtol=2e-4, atol=1e-5)


def test_without_absences_it_is_the_authors_code():
    """Theirs does not correct the averages: the correction cancels in the ratio."""
    rng = np.random.default_rng(5)
    tx = mtl.meta_balance(2)
    params, moving = jnp.zeros(3), np.zeros(2)
    state = tx.init(params)
    for _ in range(4):
        rows = rng.normal(size=(2, 3))
        moving = 0.9 * moving + 0.1 * np.linalg.norm(rows, axis=1)
        updates, state = tx.update(jnp.asarray(rows, jnp.float32), state, params)
        wanted = rows[0] + (0.7 * moving[0] / moving[1] + 0.3) * rows[1]
        np.testing.assert_allclose(updates, wanted, rtol=1e-5)


def test_a_zero_auxiliary_gradient_is_no_nan():
    """In the authors' code it is one."""
    tx, params = mtl.meta_balance(2), jnp.zeros(2)
    rows = jnp.array([[1.0, 2.0], [0.0, 0.0]])
    updates, _ = tx.update(rows, tx.init(params), params)
    np.testing.assert_array_equal(updates, [1, 2])
    updates, _ = tx.update(rows[::-1], tx.init(params), params)
    np.testing.assert_allclose(updates, [0.3, 0.6], rtol=1e-5)


@pytest.mark.parametrize("r", [0.0, 1.0])
def test_the_ends_of_r(r):
    tx, params = mtl.meta_balance(2, r=r), jnp.zeros(2)
    updates, _ = tx.update(jnp.array([[1.0, 0.0], [0.0, 5.0]]), tx.init(params), params)
    np.testing.assert_allclose(updates, [1, 5 if r == 0 else 1], rtol=1e-5)


def test_groups_are_those_asked_for():
    tx = mtl.meta_balance(T, group=lambda path: "all")
    assert tx.init(PARAMS).group_weights.shape == (1, T)
    assert mtl.meta_balance(T).init(PARAMS).group_weights.shape == (2, T)
    with pytest.raises(
        ValueError, match="meta_balance: main must be the number of a task, from 0 to 2"
    ):
        mtl.meta_balance(T, main=3)

"""MoDo and SDMGrad against loops in NumPy, and SDMGrad's limit against cvxpy."""

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl

T, N = 3, 6
PARAMS = jnp.zeros(N)


def projected(values, mask):
    """The nearest point of the simplex over the tasks in the mask, by sorting."""
    here = np.sort(values[mask])[::-1]
    sums = (np.cumsum(here) - 1) / np.arange(1, len(here) + 1)
    level = sums[np.nonzero(here > sums)[0][-1]]
    return np.where(mask, np.maximum(values - level, 0), 0)


def modo(w, a, mask):
    return (after := projected(w - 0.2 * (a @ w + 0.3 * w), mask)), after


def sdmgrad(w, a, mask):
    scale = np.mean(np.sqrt(np.maximum(np.diag(a)[mask], 0)))
    a, wish, v = a / scale**2, mask / mask.sum(), np.zeros(T)
    for _ in range(7):
        v = 0.4 * v + a @ (w + 0.5 * wish)
        w = projected(w - 0.3 * v, mask)
    return w, (w + 0.5 * wish) / 1.5


METHODS = {
    "modo": (lambda: mtl.modo(T, learning_rate=0.2, regularization=0.3), modo),
    "sdmgrad": (
        lambda: mtl.sdmgrad(T, learning_rate=0.3, regularization=0.5, momentum=0.4, steps=7),
        sdmgrad,
    ),
}


@pytest.mark.nans
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("batches", [2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps_are_those_of_the_loop(name, batches, masked):
    rng = np.random.default_rng(batches)
    make, oracle = METHODS[name]
    tx = make()
    state, step, w = tx.init(PARAMS), jax.jit(tx.update), np.full(T, 1 / T)
    for _ in range(20):
        common = rng.normal(size=(T, N))
        stacks = [common + 0.3 * rng.normal(size=(T, N)) for _ in range(3)]
        mask = rng.uniform(size=T) < 0.7 if masked else np.ones(T, bool)
        mask[1] |= ~mask.any()
        pair = stacks[:2] if batches == 2 else stacks[1:]
        a = np.where(np.outer(mask, mask), pair[0] @ pair[1].T, 0)
        total = w[mask].sum()
        start = np.where(mask, w / total if total > 0 else 1 / mask.sum(), 0)
        after, weights = oracle(start, a, mask)
        w = np.where(mask, after, w)
        given = [jnp.asarray(s, jnp.float32).at[~mask].set(jnp.nan) for s in stacks]
        extra = {"query_gradients": given[1]}
        if batches == 3:
            extra["second_query_gradients"] = given[2]
        updates, state = step(given[0], state, PARAMS, task_mask=jnp.asarray(mask), **extra)
        np.testing.assert_allclose(state.weights, weights, rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(updates, weights @ stacks[0], rtol=1e-3, atol=1e-4)


def test_small_steps_of_sdmgrad_reach_the_optimum():
    """Of `1/2 |G'(w + λ w̃)|²` over the simplex, where both batches are one."""
    rng = np.random.default_rng(0)
    tx = mtl.sdmgrad(T, learning_rate=0.1, regularization=0.3, steps=2000)
    draws = [rng.normal(size=(T, N)) * np.exp(0.5 * rng.normal(size=(T, 1))) for _ in range(10)]

    def weights(rows):
        return tx.update(rows, tx.init(PARAMS), PARAMS, query_gradients=rows)[1].inner.values

    found = jax.jit(jax.vmap(weights))(jnp.asarray(np.stack(draws), jnp.float32))
    for rows, got in zip(draws, found, strict=True):
        w = cvxpy.Variable(T, nonneg=True)
        objective = cvxpy.sum_squares(rows.T @ (w + 0.3 / T))
        cvxpy.Problem(cvxpy.Minimize(objective), [cvxpy.sum(w) == 1]).solve()
        np.testing.assert_allclose(got, w.value, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_no_scale_has_a_say_in_sdmgrad(scale):
    rows = jnp.asarray(np.random.default_rng(1).normal(size=(T, N)), jnp.float32)
    tx = mtl.sdmgrad(T)
    one, other = (
        tx.update(s * rows, tx.init(PARAMS), PARAMS, query_gradients=s * rows)[1].weights
        for s in (1.0, scale)
    )
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_batches_that_contradict_each_other_move_nothing():
    rows = jnp.eye(T, N)
    tx = mtl.sdmgrad(T)
    _, state = tx.update(rows, tx.init(PARAMS), PARAMS, query_gradients=-rows)
    np.testing.assert_allclose(state.weights, 1 / T, rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_second_batch_has_to_be_given_in_the_shapes_of_the_first(name):
    tx = METHODS[name][0]()
    rows = jnp.ones((T, N))
    with pytest.raises(ValueError, match=f"{name}: query_gradients is missing"):
        tx.update(rows, tx.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match=rf"{name}: query_gradients has shape \(3, 2\), wanted"):
        tx.update(rows, tx.init(PARAMS), PARAMS, query_gradients=rows[:, :2])
    with pytest.raises(ValueError, match=f"{name}: second_query_gradients has shape"):
        tx.update(
            rows, tx.init(PARAMS), PARAMS, query_gradients=rows, second_query_gradients=rows[0]
        )

"""Weights that serve several steps, and what a step in between costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl
from tests.common import make, one_step

T = 3
PARAMS = jnp.zeros(5)


def rows_of(seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(T, 5)), jnp.float32)


@pytest.mark.parametrize("name", ["nash_mtl", "pcgrad", "uw"])
def test_weights_serve_k_steps(name):
    tx, alone = mtl.every(make(name, T), 3), make(name, T)
    state, other = tx.init(PARAMS), alone.init(PARAMS)
    step = jax.jit(tx.update)
    for number in range(7):
        rows, losses = rows_of(number), jnp.array([1.0, 2.0, 0.5]) + number
        if number % 3 == 0:
            _, other = alone.update(rows, other, PARAMS, task_losses=losses)
        updates, state = step(rows, state, PARAMS, task_losses=losses)
        np.testing.assert_allclose(state.weights, other.weights, rtol=1e-5)
        np.testing.assert_allclose(updates, other.weights @ rows, rtol=1e-4, atol=1e-5)
        assert state.inner.age == number % 3 + 1


def test_a_newcomer_brings_the_next_look_forward():
    tx, mgda = mtl.every(mtl.mgda(T), 10), mtl.mgda(T)
    two, nobody = jnp.array([True, False, True]), jnp.zeros(T, bool)
    weights_of = lambda rows, mask: (
        mgda.update(rows, mgda.init(PARAMS), PARAMS, task_mask=mask)[1].weights
    )
    first, second, third = map(rows_of, range(3))
    _, state = tx.update(first, tx.init(PARAMS), PARAMS, task_mask=two)
    np.testing.assert_allclose(state.weights, weights_of(first, two), rtol=1e-5)
    _, state = tx.update(second, state, PARAMS, task_mask=two)
    np.testing.assert_allclose(state.weights, weights_of(first, two), rtol=1e-5)
    assert state.inner.age == 2
    _, state = tx.update(third, state, PARAMS)
    np.testing.assert_allclose(state.weights, weights_of(third, None), rtol=1e-5)
    assert state.inner.age == 1
    update, after = tx.update(first, state, PARAMS, task_mask=nobody)
    np.testing.assert_array_equal(update, 0)
    assert after.inner.age == 1
    one = jnp.array([True, False, False])
    _, after = tx.update(first, after, PARAMS, task_mask=one)
    np.testing.assert_allclose(after.weights, weights_of(third, None) * one, rtol=1e-5)


def test_of_steps_without_rows_one_backward_pass_is_left():
    """In the branch that keeps the weights nothing is gathered: one product, of the update."""
    x = jnp.ones((8, 5))

    def losses(p):
        return jnp.mean((x @ p) ** 2, axis=0)

    step, init = one_step(losses, mtl.every(mtl.mgda(T), 4), "rows")
    params = jnp.ones((5, 3))
    results = []
    for way in ("rows", "taps", "stacked"):
        step, init = one_step(losses, mtl.every(mtl.mgda(T), 4), way)
        state, compiled = init(params), jax.jit(step)
        for number in range(6):
            _, updates, state = compiled(params * (1 + number), state)
        results.append((updates, state.weights))
    for got in results[:2]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, results[2])
    jaxpr = jax.make_jaxpr(one_step(losses, mtl.every(mtl.mgda(T), 4), "taps")[0])(
        params, init(params)
    )
    (branches,) = [e.params["branches"] for e in jaxpr.eqns if e.primitive.name == "cond"]
    kept = [b for b in branches if "dot_general" not in str(b)]
    assert len(branches) == 2
    assert len(kept) == 1
    outside = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    assert len(outside) == 2  # The forward pass, and the backward pass of the weighted sum.


@pytest.mark.nans
def test_nothing_that_is_not_finite_is_hidden():
    tx = mtl.every(mtl.mgda(T), 4)
    state = tx.init(PARAMS)
    _, state = tx.update(rows_of(0), state, PARAMS)
    update, state = tx.update(rows_of(1).at[1].set(jnp.nan), state, PARAMS)
    assert np.all(np.isnan(update))
    update, _ = tx.update(rows_of(2), state, PARAMS)
    assert np.all(np.isfinite(update))

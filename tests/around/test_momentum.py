"""Averaged weights, against the recursion in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import make

T = 3
PARAMS = jnp.zeros(5)


def rows_of(seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(T, 5)), jnp.float32)


@pytest.mark.parametrize("name", ["mgda", "cagrad", "pcgrad"])
def test_the_average_is_that_of_the_recursion(name):
    tx, alone = mtl.momentum(make(name, T), decay=0.8), make(name, T)
    state, other, average = tx.init(PARAMS), alone.init(PARAMS), None
    step = jax.jit(tx.update)
    for number in range(20):
        rows = rows_of(number)
        _, other = alone.update(rows, other, PARAMS)
        found = np.asarray(other.weights, np.float64)
        average = found if average is None else 0.8 * average + 0.2 * found
        updates, state = step(rows, state, PARAMS)
        np.testing.assert_allclose(state.weights, average, rtol=1e-5)
        np.testing.assert_allclose(updates, average @ np.asarray(rows), rtol=1e-4, atol=1e-5)


def test_the_example_of_torchjd():
    """(.8, .2), then .9 * .8 + .1 * .2 = .74, of TorchJD 0.18's CRMOGMWeighting."""
    rule = mtl.Weighting(
        "given", 2, frozenset({"losses"}), optax.EmptyState, lambda e, s: (e.losses, s)
    )
    tx = mtl.momentum(mtl.from_weighting(rule))
    rows, state = jnp.eye(2), tx.init(jnp.zeros(2))
    for losses in ((0.8, 0.2), (0.2, 0.8)):
        _, state = tx.update(rows, state, jnp.zeros(2), task_losses=jnp.array(losses))
    np.testing.assert_allclose(state.weights, [0.74, 0.26], rtol=1e-6)


def test_an_absent_task_is_held_and_the_others_keep_their_sum():
    tx, mgda = mtl.momentum(mtl.mgda(T), decay=0.5), mtl.mgda(T)
    mask = jnp.array([True, True, False])
    _, state = tx.update(rows_of(0), tx.init(PARAMS), PARAMS)
    before = np.asarray(state.weights)
    _, state = tx.update(rows_of(1), state, PARAMS, task_mask=mask)
    found = np.asarray(
        mgda.update(rows_of(1), mgda.init(PARAMS), PARAMS, task_mask=mask)[1].weights
    )
    mixed = (0.5 * before + 0.5 * found)[:2]
    np.testing.assert_allclose(state.weights, [*(mixed / mixed.sum()), 0], rtol=1e-5)
    np.testing.assert_allclose(state.inner.average[2], before[2])
    # A task that was never there counts for nothing.
    _, state = tx.update(rows_of(0), tx.init(PARAMS), PARAMS, task_mask=mask)
    first = np.asarray(state.weights)
    _, state = tx.update(rows_of(1), state, PARAMS, task_mask=mask)
    np.testing.assert_allclose(state.weights, 0.5 * first + 0.5 * found, rtol=1e-5)


def test_it_goes_on_while_weights_are_kept():
    tx = mtl.momentum(mtl.every(mtl.mgda(T), 2), decay=0.5)
    _, state = tx.update(rows_of(0), tx.init(PARAMS), PARAMS)
    first = np.asarray(state.weights)
    _, state = tx.update(rows_of(1), state, PARAMS)
    np.testing.assert_allclose(state.weights, first, rtol=1e-6)
    _, state = tx.update(rows_of(2), state, PARAMS)
    third = np.asarray(mtl.mgda(T).update(rows_of(2), mtl.mgda(T).init(PARAMS), PARAMS)[1].weights)
    _, state = tx.update(rows_of(3), state, PARAMS)
    np.testing.assert_allclose(state.weights, 0.25 * first + 0.75 * third, rtol=1e-5)


def test_a_schedule_of_the_decay():
    made = optax.inject_hyperparams(lambda decay: mtl.momentum(mtl.mgda(T), decay))
    tx = made(decay=optax.piecewise_constant_schedule(0.0, {1: 1.0}))
    _, state = tx.update(rows_of(0), tx.init(PARAMS), PARAMS)
    _, state = tx.update(rows_of(1), state, PARAMS)
    second = mtl.mgda(T).update(rows_of(1), mtl.mgda(T).init(PARAMS), PARAMS)[1].weights
    np.testing.assert_allclose(mtl.task_weights(state), second, rtol=1e-6)

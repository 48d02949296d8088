"""Random keys in states: plain arrays for whatever takes trees of numbers, and equal draws."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

import mtl_optax as mtl
from tests.common import METHODS, flat, inputs, make, step

DRAWING = ["pcgrad", "rlw", "graddrop"]


@pytest.mark.parametrize("name", METHODS)
def test_a_state_is_numbers_alone_and_survives_bytes(name):
    state = make(name, 3).init(inputs(3).params)
    assert not any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(state))
    kept = serialization.from_bytes(state, serialization.to_bytes(state))
    jax.tree.map(np.testing.assert_array_equal, kept, state)


@pytest.mark.parametrize("num_tasks", [1, 2])
def test_where_nothing_is_drawn_there_is_no_key(num_tasks):
    state = mtl.pcgrad(num_tasks).init(None)
    assert [leaf.shape for leaf in jax.tree.leaves(state)] == [(num_tasks,)]


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_draws_are_those_of_jax_with_the_key_of_any_kind(kind):
    key, tx = jax.random.key(5, impl=kind), mtl.rlw(4, key=jax.random.key(5, impl=kind))
    state = tx.init(jnp.zeros(4))
    for _ in range(3):
        key, now = jax.random.split(key)
        _, state = tx.update(jnp.eye(4), state)
        wanted = jax.nn.softmax(jax.random.normal(now, (4,), jnp.float32))
        np.testing.assert_allclose(state.weights, wanted, rtol=1e-6)


CHANGES = {
    "bytes": lambda state: serialization.from_bytes(state, serialization.to_bytes(state)),
    "a cast": lambda state: optax.tree_utils.tree_cast(state, jnp.float32),
    "an average": lambda state: optax.incremental_update(state, state, 0.1),
}


@pytest.mark.parametrize("name", DRAWING)
@pytest.mark.parametrize("change", CHANGES)
def test_the_next_step_takes_a_state_that_was_saved_cast_or_averaged(name, change):
    given, tx = inputs(3), make(name, 3)
    _, state = step(tx, tx.init(given.params), given)
    updates, after = step(tx, CHANGES[change](state), given)
    dtypes = lambda tree: [leaf.dtype for leaf in jax.tree.leaves(tree)]
    assert dtypes(after) == dtypes(state)
    wanted, _ = step(tx, state, given)
    if change == "bytes":
        np.testing.assert_array_equal(flat(updates), flat(wanted))
    assert np.all(np.isfinite(flat(updates)))


@pytest.mark.parametrize("name", DRAWING)
def test_sam_goes_around_a_method_that_draws(name):
    given = inputs(3)
    tx = optax.contrib.sam(
        optax.chain(make(name, 3), optax.sgd(0.1)),
        optax.chain(mtl.sum_tasks(3), optax.contrib.normalize(), optax.sgd(0.05)),
        sync_period=2,
    )
    state, params = tx.init(given.params), given.params
    for _ in range(2):
        updates, state = tx.update(given.gradients, state, params)
        params = optax.apply_updates(params, updates)
    assert np.any(flat(params) != flat(given.params))

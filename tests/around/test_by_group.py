"""Weights by groups of leaves: each group as if it were all there is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl
from tests.common import make, one_step

T = 3
RNG = np.random.default_rng(0)
PARAMS = {
    "a": {"bias": jnp.zeros(2), "kernel": jnp.ones((3, 2))},
    "b": {"kernel": jnp.ones((2, 4))},
}
GROUPS = {
    "leaf": [[0], [1], [2]],
    "layer": [[0, 1], [2]],
    "by name": [[0], [1, 2]],
}
LOSSES = jnp.array([1.0, 3.0, 0.5])


def by(group):
    return (lambda path: path[-1].key) if group == "by name" else group


def gradients():
    draw = lambda p: jnp.asarray(RNG.normal(size=(T, *p.shape)), jnp.float32)
    return jax.tree.map(draw, PARAMS)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", ["mgda", "pcgrad", "emtl", "gradnorm", "uw"])
@pytest.mark.parametrize("masked", [False, True])
def test_each_group_is_weighted_as_if_it_were_alone(name, group, masked):
    tx = mtl.by_group(make(name, T), by(group))
    extra = {"task_losses": LOSSES}
    if masked:
        extra["task_mask"] = jnp.array([True, False, True])
    state, alone = tx.init(PARAMS), [make(name, T) for _ in GROUPS[group]]
    some = lambda tree, leaves: [jax.tree.leaves(tree)[leaf] for leaf in leaves]
    states = [
        of.init(some(PARAMS, leaves)) for of, leaves in zip(alone, GROUPS[group], strict=True)
    ]
    step = jax.jit(tx.update)
    for _ in range(3):
        given = gradients()
        updates, state = step(given, state, PARAMS, **extra)
        for number, leaves in enumerate(GROUPS[group]):
            wanted, states[number] = alone[number].update(
                some(given, leaves), states[number], **extra
            )
            for got, want in zip(some(updates, leaves), wanted, strict=True):
                np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
            np.testing.assert_allclose(
                state.group_weights[number], states[number].weights, rtol=2e-5, atol=1e-6
            )


@pytest.mark.parametrize("way", ["taps", "rows"])
def test_task_gradients_that_are_not_stacked_are_taken(way):
    x = jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32)

    def losses(p):
        hidden = jnp.tanh(x @ p["a"]["kernel"] + jnp.expand_dims(p["a"]["bias"], 0))
        return jnp.mean((hidden @ p["b"]["kernel"]) ** 2, axis=0)[:T]

    params = jax.tree.map(lambda g: g[0], gradients())
    results = []
    for of in (way, "stacked"):
        step, init = one_step(losses, mtl.by_group(mtl.mgda(T)), of)
        results.append(jax.jit(step)(params, init(params))[1:])
    jax.tree.map(
        lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6), *results
    )


def test_rows_are_kept_where_the_method_keeps_them():
    given = gradients()
    rows = mtl.by_group(mtl.pcgrad(T, combine=False))
    total = mtl.by_group(mtl.pcgrad(T))
    kept, _ = rows.update(given, rows.init(PARAMS), PARAMS)
    summed, state = total.update(given, total.init(PARAMS), PARAMS)
    jax.tree.map(
        lambda k, s: np.testing.assert_allclose(k.sum(0), s, rtol=1e-5, atol=1e-6), kept, summed
    )
    with pytest.raises(ValueError, match="state holds no task weights, got .*GroupsState"):
        mtl.task_weights(state)


def test_query_gradients_are_those_of_the_group():
    """Of a weighting that reads the inner products between two batches."""
    rule = mtl.stateless(
        "rows", T, frozenset({"cross"}), lambda e: e.cross * e.cross_scale[:, None] * e.cross_unit
    )
    tx = mtl.by_group(mtl.from_weighting(rule), "leaf")
    given, query, third = gradients(), gradients(), gradients()
    updates, _ = tx.update(
        given, tx.init(PARAMS), PARAMS, query_gradients=query, second_query_gradients=third
    )
    for got, *of in zip(*map(jax.tree.leaves, (updates, given, query, third)), strict=True):
        g, q, r = (np.asarray(x, np.float64).reshape(T, -1) for x in of)
        np.testing.assert_allclose(got.ravel(), (q @ r.T @ g).sum(0), rtol=1e-4, atol=1e-4)

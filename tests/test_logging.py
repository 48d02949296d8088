"""`scalars` reads the state's numbers, all of them and no others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import mtl_optax as mtl
from tests.common import METHODS, inputs, make, step, weights_of

T = 3


@pytest.mark.parametrize("name", METHODS)
def test_every_methods_state_gives_finite_numbers_and_its_weights(name):
    given = inputs(T)
    tx = optax.chain(make(name, T), optax.adam(1e-3))
    _, state = step(tx, tx.init(given.params), given)
    found = mtl.scalars(state)
    assert all(isinstance(value, float) and np.isfinite(value) for value in found.values())
    for field in ("gap", "residual", "iterations"):
        number = optax.tree_utils.tree_get(state[0], field, None)
        assert (field in found) == (number is not None)
    if "linear" in mtl.method_info(name).properties:
        weights = [found[f"weights/{t}"] for t in range(T)]
        np.testing.assert_array_equal(weights, weights_of(state))


@pytest.mark.nans
def test_a_chain_of_everything():
    gradients = jnp.array([[3.0, 0.0], [-4.0, 3.0], [np.nan, 0.0]])
    inner = optax.chain(
        mtl.track_conflict(T),
        mtl.mgda(T),
        optax.inject_hyperparams(optax.adam)(optax.linear_schedule(0.5, 0.0, 10)),
    )
    tx = mtl.skip_nonfinite(inner)
    _, state = tx.update(gradients, tx.init(jnp.zeros(2)), task_losses=jnp.ones(T))
    found = mtl.scalars(state, tasks=["a", "b", "c"])
    assert found["dropped/a"] == found["skipped"] == 0
    assert found["dropped/c"] == found["consecutive"] == 1
    assert found["cosines/a/b"] == pytest.approx(-0.8)
    assert found["conflicting"] == 1
    assert found["norms/b"] == 5
    assert found["norm_ratios/a"] == pytest.approx(0.6)
    # The shortest vector between a and b: the weights of NumPy's two by two.
    share = (25 + 12) / (9 + 25 + 24)
    assert found["weights/a"] == pytest.approx(share)
    assert found["weights/c"] == 0
    assert found["learning_rate"] == 0.5
    assert found["b1"] == pytest.approx(0.9)
    assert "cosines/a/a" not in found
    assert "cosines/b/a" not in found
    assert not any("mu" in key or "count" in key for key in found)


def test_what_stands_twice_says_where():
    trackers = [mtl.track_conflict(2), mtl.pcgrad(2, combine=False), mtl.track_conflict(2)]
    plain, named = (
        optax.chain(*trackers),
        optax.named_chain(*zip(["before", "method", "after"], trackers, strict=True)),
    )
    gradients = jnp.array([[1.0, 0.0], [-3.0, 4.0]])
    for tx, first, last in ((plain, "0", "2"), (named, "before", "after")):
        _, state = tx.update(gradients, tx.init(jnp.zeros(2)))
        found = mtl.scalars(state)
        assert found[f"{first}/conflicting"] == 1
        assert found[f"{last}/conflicting"] == 0
        assert found[f"{first}/cosines/0/1"] == pytest.approx(-0.6)
        assert found[f"{last}/cosines/0/1"] > 0


def test_an_optimiser_without_a_method_tells_nothing():
    assert mtl.scalars(optax.adam(1e-3).init({"weights": jnp.ones(3), "gap": jnp.ones(())})) == {}


def test_nnx_puts_a_variable_around_each_array():
    tx = optax.chain(mtl.mgda(2), optax.inject_hyperparams(optax.sgd)(0.5))
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    wanted = mtl.scalars(tx.init(nnx.state(model, nnx.Param)))
    assert mtl.scalars(optimizer.opt_state) == wanted
    assert {"weights/0", "gap", "learning_rate"} <= wanted.keys()


def test_runs_of_several_seeds_are_read_one_by_one():
    tx = mtl.mgda(2)
    gradients = jax.random.normal(jax.random.key(0), (5, 2, 4))
    states = jax.vmap(lambda g: tx.update(g, tx.init(g[0]))[1])(gradients)
    fourth = mtl.scalars(jax.tree.map(lambda x: x[4], states))
    _, alone = tx.update(gradients[4], tx.init(gradients[4, 0]))
    assert fourth == pytest.approx(mtl.scalars(alone))

"""`scalars` reads the state's numbers, all of them and no others."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import mtl_optax as mtl
from tests.common import METHODS, WEIGHTED, inputs, make, step, weights_of

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
    np.testing.assert_array_equal(mtl.task_weights(optimizer.opt_state), np.zeros(2))
    assert {"weights/0", "gap", "learning_rate"} <= wanted.keys()


def test_runs_of_several_seeds_are_read_one_by_one():
    tx = mtl.mgda(2)
    gradients = jax.random.normal(jax.random.key(0), (5, 2, 4))
    states = jax.vmap(lambda g: tx.update(g, tx.init(g[0]))[1])(gradients)
    fourth = mtl.scalars(jax.tree.map(lambda x: x[4], states))
    _, alone = tx.update(gradients[4], tx.init(gradients[4, 0]))
    assert fourth == pytest.approx(mtl.scalars(alone))


def test_names_of_parameters_do_not_count():
    """A parameter may be called as a field of a state, in a dictionary and as an attribute."""

    class Named(NamedTuple):
        weights: jax.Array
        norms: jax.Array
        gap: jax.Array
        hyperparams: jax.Array

    by_attribute = Named(jnp.ones((2, 3)), jnp.ones(2), jnp.ones(3), jnp.ones(()))
    tx = optax.chain(mtl.track_conflict(2), mtl.mgda(2), optax.adam(0.1))
    found = []
    for params in (by_attribute, by_attribute._asdict()):
        gradients = jax.tree.map(lambda p: jnp.stack([p, 3 * p]), params)
        _, state = tx.update(gradients, tx.init(params), params)
        np.testing.assert_array_equal(mtl.task_weights(state), [1, 0])
        found.append(mtl.scalars(state))
    length = np.sqrt(6 + 2 + 3 + 1)
    assert found[0] == pytest.approx(found[1])
    assert found[0]["norms/1"] == pytest.approx(3 * length)
    assert found[0].keys() == {
        *("cosines/0/1", "conflicting", "norms/0", "norms/1", "norm_ratios/0", "norm_ratios/1"),
        *("weights/0", "weights/1", "gap", "iterations"),
    }


def test_a_parameter_called_residual_does_not_count():
    params = {"residual": jnp.ones(2), "iterations": jnp.ones(())}
    found = mtl.scalars(optax.chain(mtl.nash_mtl(2), optax.adam(0.1)).init(params))
    assert found.keys() == {"weights/0", "weights/1", "residual", "iterations"}


P = {"a": jnp.ones(3), "weights": jnp.ones(())}
WRAPPED = {
    "alone": lambda m: m,
    "chain": lambda m: optax.chain(m, optax.adam(0.1)),
    "named_chain": lambda m: optax.named_chain(("method", m), ("opt", optax.adam(0.1))),
    "skip_nonfinite": mtl.skip_nonfinite,
    "apply_if_finite": lambda m: optax.apply_if_finite(optax.chain(m, optax.sgd(0.1)), 3),
    "inject_hyperparams": lambda m: optax.inject_hyperparams(
        lambda r: optax.chain(m, optax.sgd(r))
    )(0.1),
    "MultiSteps": lambda m: optax.MultiSteps(m, 2).gradient_transformation(),
    "accumulate": lambda m: mtl.accumulate_task_gradients(2, 1, then=m),
    "on_shared": lambda m: mtl.on_shared(m, "a"),
    "masked": lambda m: optax.masked(m, {"a": True, "weights": False}),
    "partition": lambda m: optax.partition(
        {"m": m, "o": optax.adam(0.1)}, {"a": "m", "weights": "o"}
    ),
    "schedule_free": lambda m: optax.contrib.schedule_free(optax.chain(m, optax.sgd(0.1)), 0.1),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_task_weights_are_found_in_every_wrapper(name):
    """Weights of 1 and 3, as a state of the wrapper holds them."""
    tx = WRAPPED[name](mtl.mgda(2))
    state = jax.tree.map(
        lambda node: node._replace(weights=jnp.array([1.0, 3.0])) if is_method(node) else node,
        tx.init(P),
        is_leaf=is_method,
    )
    np.testing.assert_array_equal(mtl.task_weights(state), [1, 3])


@pytest.mark.parametrize("inner", ["a field", "a state"])
def test_weights_that_a_weighting_keeps_to_itself_are_not_the_task_weights(inner):
    """A field of its own state has that name, or a method's whole state lies in there."""

    class Mine(NamedTuple):
        weights: jax.Array

    def update(evidence, state):
        sevens = jax.tree.map(lambda w: jnp.full_like(w, 7), state)
        return evidence.mask / evidence.losses, sevens

    init = lambda: Mine(jnp.zeros(2)) if inner == "a field" else mtl.mgda(2).init(None)
    method = mtl.from_weighting(mtl.Weighting("mine", 2, frozenset({"losses"}), init, update))
    tx = mtl.on_shared(method, "a", heads="weighted")
    params = {"a": jnp.ones(3), "heads": jnp.ones(2)}
    gradients = {"a": jnp.ones((2, 3)), "heads": jnp.ones(2)}
    updates, state = tx.update(
        gradients, tx.init(params), params, task_losses=jnp.array([2.0, 4.0])
    )
    np.testing.assert_array_equal(mtl.task_weights(state), [0.5, 0.25])
    np.testing.assert_array_equal(updates["heads"], [0.5, 0.25])


def is_method(node):
    return type(node).__name__ == "WeightingState"


@pytest.mark.parametrize("name", METHODS)
def test_task_weights_of_every_method(name):
    given = inputs(T)
    _, state = step(tx := make(name, T), tx.init(given.params), given)
    if name in WEIGHTED:
        np.testing.assert_array_equal(mtl.task_weights(state), state.weights)
    else:
        with pytest.raises(ValueError, match="task_weights: state holds no task weights, got"):
            mtl.task_weights(state)


def test_of_several_methods_the_last_counts():
    tx = optax.chain(mtl.mean_tasks(2, combine=False), mtl.mgda(2), optax.adam(0.1))
    gradients = jnp.diag(jnp.array([1.0, 3.0]))
    _, state = tx.update(gradients, tx.init(jnp.zeros(2)))
    first, last = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    for which, wanted in ((-1, last), (1, last), (0, first), (-2, first)):
        np.testing.assert_allclose(mtl.task_weights(state, which=which), wanted, rtol=1e-5)
    np.testing.assert_allclose(mtl.task_weights(state), last, rtol=1e-5)
    for which in (2, -3):
        with pytest.raises(
            ValueError, match=f"task_weights: which={which} asks for a method beyond"
        ):
            mtl.task_weights(state, which)


def test_fields_of_a_weighting_of_ones_own_are_logged():
    class Mine(NamedTuple):
        gap: jax.Array

    def update(evidence, state):
        return evidence.mask / evidence.losses, state._replace(gap=evidence.losses[0])

    init = lambda: Mine(jnp.zeros(()))
    tx = mtl.from_weighting(mtl.Weighting("mine", 2, frozenset({"losses"}), init, update))
    _, state = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)), task_losses=jnp.array([2.0, 4.0]))
    assert mtl.scalars(state) == {"weights/0": 0.5, "weights/1": 0.25, "gap": 2.0}

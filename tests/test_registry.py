"""What the registry says of a method is what the method is, for all of them in one loop."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from mtl_optax._frame import Method
from tests.common import METHODS, WAYS, flat, inputs, make, one_step

T = 3


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_reads_stands_in_the_registry_as_in_its_weighting(name):
    info, method = mtl.method_info(name), make(name, T)
    assert info.is_weighting == isinstance(method, Method)
    if info.is_weighting:
        assert method.recipe.weighting.reads == info.reads
    else:
        assert info.reads - {"losses"} <= {"coordinates", "query gradients"}
        assert info.reads != {"losses"}


@pytest.mark.parametrize("name", METHODS)
def test_a_loop_over_all_methods_needs_no_special_case(name):
    """The registry's fields say what to pass, what may follow and what can be read."""
    info, given = mtl.method_info(name), inputs(T)
    method = mtl.get(name, T)
    tx = method if info.is_optimizer else optax.chain(method, optax.sgd(0.1))
    known = {"task_losses": given.losses, "query_gradients": given.query_gradients}
    known["next_losses"] = given.losses
    read = {key: known[key] for key in info.update_arguments}
    state = tx.init(given.params)
    updates, state = tx.update(given.gradients, state, given.params, **read)
    assert np.all(np.isfinite(flat(updates)))
    for argument in info.update_arguments:
        without = {key: value for key, value in read.items() if key != argument}
        with pytest.raises(ValueError, match=f"{name}: {argument} is missing"):
            tx.update(given.gradients, state, given.params, **without)
    if info.has_task_weights:
        assert mtl.task_weights(state).shape == (T,)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "stacked"])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_asks_for_what_it_reads(name, way, monkeypatch):
    """So that what reads the losses costs one backward pass, whatever the way."""
    asked = set()

    def heard(read, answer):
        def listen(*args):
            asked.add(read)
            return answer(*args)

        return listen

    for name_of, read in (("scaled_gram", "gram"), ("norms", "norms"), ("stack", "coordinates")):
        answer = heard(read, getattr(mtl.TaskGradients, name_of))
        monkeypatch.setattr(mtl.TaskGradients, name_of, answer)
    info, params, query = mtl.method_info(name), jnp.ones(2), jnp.ones((T, 2))

    def loss_of(p):
        z = mtl.mark_features(p)
        return jnp.stack([jnp.sum(z), jnp.sum(z**2), jnp.sum(z)])

    step, init = one_step(loss_of, mtl.get(name, T), way)
    extra = {"query_gradients": query, "next_losses": jnp.ones(T)}
    jax.eval_shape(lambda: step(params, init(params), **extra))
    beyond = info.reads - {"losses", "next_losses"}
    stacked = not info.is_weighting or "cross" in beyond
    assert asked == ({"coordinates"} if stacked else beyond)


def test_get_takes_what_the_factory_takes():
    given, sgd = inputs(T), optax.sgd(0.5)
    wanted = jax.tree.map(lambda g: -0.5 * g.sum(0), given.gradients)
    for tx in (mtl.get("adatask", T, sgd), mtl.get("adatask", T, optimizer=sgd)):
        updates, _ = tx.update(given.gradients, tx.init(given.params))
        np.testing.assert_allclose(flat(updates), flat(wanted), rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match="adatask: multiple values for argument 'optimizer'"):
        mtl.get("adatask", T, sgd, optimizer=sgd)


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        lambda method: method._replace(init=lambda params: method.init(params)),
        lambda method: method._replace(update=lambda *args, **extra: method.update(*args, **extra)),
        lambda method: copy.copy(method._replace(update=lambda *args: method.update(*args))),
        lambda method: jax.tree.map(lambda function: function, method),
        lambda method: jax.tree.unflatten(*reversed(jax.tree.flatten(method))),
    ],
)
def test_a_copy_of_a_method_has_its_recipe(copied):
    method = mtl.uw(2)
    other = copied(method)
    assert type(other) is type(method)
    assert other.recipe == method.recipe
    loss = lambda w: jnp.stack([jnp.sum(w**2), jnp.sum(w)])
    step, init = one_step(loss, other, "taps")
    _, gradient, _ = step(jnp.ones(2), init(jnp.ones(2)))
    np.testing.assert_allclose(gradient, 0.5 * (2 + 1) * np.ones(2), rtol=1e-6)


def test_a_method_taken_apart_is_no_method():
    """As a tree of a module that holds one is, by `equinox.partition`."""
    hollow = jax.tree.map(lambda function: None, mtl.uw(2))
    with pytest.raises(TypeError, match="must be a method made from a weighting"):
        mtl.emtl(2, base=hollow)

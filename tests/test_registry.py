"""What the registry says of a method is what the method is, for all of them in one loop."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from mtl_optax._frame import Method
from tests.common import METHODS, flat, inputs, make

T = 3


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_reads_stands_in_the_registry_as_in_its_weighting(name):
    info, method = mtl.method_info(name), make(name, T)
    assert info.is_weighting == isinstance(method, Method)
    if info.is_weighting:
        assert method.weighting.reads == info.reads
    else:
        assert info.reads <= {"coordinates", "query gradients"}


@pytest.mark.parametrize("name", METHODS)
def test_a_loop_over_all_methods_needs_no_special_case(name):
    """The registry's fields say what to pass, what may follow and what can be read."""
    info, given = mtl.method_info(name), inputs(T)
    method = mtl.get(name, T)
    tx = method if info.is_optimizer else optax.chain(method, optax.sgd(0.1))
    known = {"task_losses": given.losses, "query_gradients": given.query_gradients}
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
    loss = lambda p: jnp.stack([jnp.sum(p), jnp.sum(p**2), jnp.sum(p)])
    ways = [mtl.streamed_value_and_grad] if info.is_weighting else []
    ways += [mtl.weighted_value_and_grad] if info.reads <= {"losses"} else []
    for way in ways:
        jax.eval_shape(way(loss, method), jnp.ones(2), method.init(jnp.ones(2)))
    if not info.is_weighting:
        with pytest.raises(TypeError, match="must be one made from a weighting"):
            mtl.streamed_value_and_grad(loss, method)


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
def test_a_copy_of_a_method_has_its_weighting(copied):
    method = mtl.uw(2)
    other = copied(method)
    assert type(other) is type(method)
    loss = lambda w: jnp.stack([jnp.sum(w**2), jnp.sum(w)])
    step = mtl.weighted_value_and_grad(loss, other)
    _, gradient, _ = step(jnp.ones(2), other.init(jnp.ones(2)))
    np.testing.assert_allclose(gradient, 0.5 * (2 + 1) * np.ones(2), rtol=1e-6)


def test_a_method_taken_apart_is_no_method():
    """As a tree of a module that holds one is, by `equinox.partition`."""
    hollow = jax.tree.map(lambda function: None, mtl.uw(2))
    with pytest.raises(TypeError, match="must be one made from a weighting"):
        mtl.weighted_value_and_grad(lambda w: w, hollow)

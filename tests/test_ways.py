"""One method, several ways to gather its evidence, the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import METHODS
from tests.test_gradients import SHARED, T, batch, close, losses_of, params, task_batches

READS_LOSSES_AT_MOST = [
    name
    for name in METHODS
    if mtl.method_info(name).reads <= {"losses"} and "linear" in mtl.method_info(name).properties
]
READS_GRAM = [
    name
    for name in METHODS
    if "gram" in mtl.method_info(name).reads and "linear" in mtl.method_info(name).properties
]


@pytest.mark.parametrize("heads", ["weighted", "unweighted"])
@pytest.mark.parametrize("name", READS_LOSSES_AT_MOST)
def test_losses_only_equals_the_stacked_way(name, heads):
    """Over three steps with state, the last one with a task absent."""
    p, method = params(), mtl.get(name, T)
    stacked = mtl.on_shared(method, SHARED, heads=heads)
    stacked_state, state = stacked.init(p), method.init(p)
    one_pass = jax.jit(mtl.weighted_value_and_grad(losses_of, method, shared=SHARED, heads=heads))
    for seed in range(3):
        mask = jnp.array([True, seed < 2, True])
        data = batch(seed)
        # With a task absent, plain heads belong to the sum over the present tasks.
        of_present = lambda q, d, mask=mask: jnp.where(mask, losses_of(q, d), 0)
        _, gradients = mtl.value_and_task_grads(of_present, shared=SHARED)(p, data)
        losses, gradient, state = one_pass(p, state, data, task_mask=mask)
        updates, stacked_state = stacked.update(
            gradients, stacked_state, p, task_losses=losses, task_mask=mask
        )
        close(losses, losses_of(p, data))
        close(gradient, updates)
        close(state, stacked_state.shared)


def encoder(p, data):
    """The trunk's parameters themselves: then feature gradients are those of the trunk."""
    return p["trunk"]


def decoder(p, trunk, data):
    return losses_of({"trunk": trunk, "heads": p["heads"]}, data)


@pytest.mark.parametrize("heads", ["weighted", "unweighted"])
@pytest.mark.parametrize("name", READS_GRAM)
def test_features_that_are_the_trunk_equal_the_stacked_way(name, heads):
    p, data, method = params(), batch(), mtl.get(name, T)
    stacked = mtl.on_shared(method, SHARED, heads=heads)
    losses, gradients = mtl.value_and_task_grads(losses_of, shared=SHARED)(p, data)
    updates, stacked_state = stacked.update(gradients, stacked.init(p), p, task_losses=losses)
    step = jax.jit(mtl.feature_value_and_grad(encoder, decoder, method, heads=heads))
    got_losses, gradient, state = step(p, method.init(p), data)
    close(got_losses, losses)
    close(gradient, updates)
    close(state.weights, stacked_state.shared.weights)


def test_mgda_ub_is_the_min_norm_point_of_the_feature_gradients():
    """Weights from the Gram of `∂L_t/∂z` over the whole batch, by hand."""
    p, data = params(), batch()
    encode = lambda q, d: jnp.tanh(d["x"] @ q["trunk"]["w"] + q["trunk"]["b"][None])
    decode = lambda q, z, d: jnp.mean((z @ q["heads"].T - d["y"]) ** 2, axis=0)
    method = mtl.mgda(T)
    losses, gradient, state = mtl.feature_value_and_grad(encode, decode, method)(
        p, method.init(p), data
    )
    z, heads = np.asarray(encode(p, data)), np.asarray(p["heads"])
    errors = z @ heads.T - np.asarray(data["y"])
    rows = np.stack([np.outer(2 * errors[:, t] / len(z), heads[t]).ravel() for t in range(T)])
    weights = mtl.mgda(T).update(jnp.asarray(rows), mtl.mgda(T).init(None))[1].weights
    np.testing.assert_allclose(state.weights, weights, atol=1e-5)
    trunk = lambda q: jnp.dot(jax.lax.stop_gradient(state.weights), losses_of(q, data))
    close(gradient["trunk"], jax.grad(trunk)(p)["trunk"])
    close(gradient["heads"], jax.grad(lambda q: losses_of(q, data).sum())(p)["heads"])
    close(losses, losses_of(p, data))


def test_a_batch_for_each_task_through_vmap():
    p, data, method = params(), task_batches(), mtl.uw(T)

    def own_loss(q, d):
        z = jnp.tanh(d["x"] @ q["trunk"]["w"] + q["trunk"]["b"][None])
        return jnp.mean((z @ q["heads"][d["task"]] - d["y"]) ** 2)

    step = mtl.weighted_value_and_grad(jax.vmap(own_loss, in_axes=(None, 0)), method)
    losses, gradient, _ = step(p, method.init(p), data)
    wanted_losses, rows = mtl.per_task_value_and_grad(own_loss)(p, data)
    close(losses, wanted_losses)
    close(gradient, mtl.combine(jnp.full(T, 0.5), rows))


def test_losses_only_costs_one_backward_pass():
    """XLA's own count of operations: equal weighting plus a little, not T times it."""
    p, method = params(), mtl.uw(T)
    wide = {
        "trunk": {"w": jnp.ones((4, 500)), "b": jnp.ones(500)},
        "heads": jnp.ones((T, 500)),
    }
    flops = lambda f, *a: jax.jit(f).lower(*a).compile().cost_analysis()["flops"]
    plain = flops(jax.grad(lambda q, d: losses_of(q, d).sum()), wide, batch())
    one_pass = mtl.weighted_value_and_grad(losses_of, method)
    assert flops(one_pass, wide, method.init(p), batch()) < 1.05 * plain
    assert flops(mtl.value_and_task_grads(losses_of), wide, batch()) > 1.5 * plain


def test_auxiliary_outputs():
    p, data, method = params(), batch(), mtl.uw(T)
    with_aux = lambda *a: (losses_of(*a), {"n": jnp.array(8)})
    (losses, aux), _, _ = mtl.weighted_value_and_grad(with_aux, method, has_aux=True)(
        p, method.init(p), data
    )
    close(losses, losses_of(p, data))
    assert aux["n"] == 8
    decode = lambda *a: (decoder(*a), {"n": jnp.array(8)})
    (losses, aux), _, _ = mtl.feature_value_and_grad(encoder, decode, mtl.mgda(T), has_aux=True)(
        p, method.init(p), data
    )
    close(losses, losses_of(p, data))
    assert aux["n"] == 8


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"weighted_value_and_grad: mgda reads \['gram'\]"):
        mtl.weighted_value_and_grad(losses_of, mtl.mgda(T))
    with pytest.raises(TypeError, match="weighted_value_and_grad: method must be one made from a"):
        mtl.weighted_value_and_grad(losses_of, optax.adam(1.0))
    with pytest.raises(ValueError, match='heads="unweighted" needs `shared`'):
        mtl.weighted_value_and_grad(losses_of, mtl.uw(T), heads="unweighted")
    with pytest.raises(TypeError, match="feature_value_and_grad: method must be one made from a"):
        mtl.feature_value_and_grad(encoder, decoder, mtl.adatask(T, optax.sgd(1.0)))
    scalar = lambda p, data: losses_of(p, data).sum()
    with pytest.raises(ValueError, match="weighted_value_and_grad: the function must return one"):
        mtl.weighted_value_and_grad(scalar, mtl.uw(T))(params(), mtl.uw(T).init(None), batch())
    other = mtl.mgda(T + 1)
    with pytest.raises(ValueError, match=r"mgda: .*wanted \(4, "):
        mtl.feature_value_and_grad(encoder, decoder, other)(params(), other.init(None), batch())

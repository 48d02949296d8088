"""One method, several ways to gather its evidence, the same numbers."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import METHODS, optimised
from tests.task_gradients.test_stacked import (
    SHARED,
    T,
    batch,
    close,
    losses_of,
    params,
    task_batches,
)

READS_LOSSES_AT_MOST = [
    name
    for name in METHODS
    if mtl.method_info(name).reads <= {"losses"} and "linear" in mtl.method_info(name).properties
]
FROM_A_WEIGHTING = [
    name
    for name in METHODS
    if mtl.method_info(name).reads <= {"losses", "gram", "norms"}
    and "linear" in mtl.method_info(name).properties
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


@pytest.mark.parametrize("name", FROM_A_WEIGHTING)
def test_streamed_equals_the_stacked_way(name):
    """Over three steps with state, the last one with a task absent."""
    p, method = params(), mtl.get(name, T)
    heads = mtl.method_info(name).heads
    stacked = mtl.on_shared(method, SHARED, heads=heads)
    stacked_state, state = stacked.init(p), method.init(p)
    streamed = jax.jit(mtl.streamed_value_and_grad(losses_of, method, shared=SHARED, heads=heads))
    for seed in range(3):
        mask = jnp.array([True, seed < 2, True])
        data = batch(seed)
        of_present = lambda q, d, mask=mask: jnp.where(mask, losses_of(q, d), 0)
        _, gradients = mtl.value_and_task_grads(of_present, shared=SHARED)(p, data)
        losses, gradient, state = streamed(p, state, data, task_mask=mask)
        updates, stacked_state = jax.jit(stacked.update)(
            gradients, stacked_state, p, task_losses=losses, task_mask=mask
        )
        close(losses, losses_of(p, data))
        close(gradient, updates)
        close(state.weights, stacked_state.shared.weights)


def test_streamed_norms_of_chosen_leaves():
    """Over two steps: GradNorm's weights move by the norms of the first."""
    method = mtl.gradnorm(T, norm_mask={"trunk": {"w": False, "b": True}, "heads": False})
    p, data = params(), batch()
    losses, gradients = mtl.value_and_task_grads(losses_of)(p, data)
    streamed = mtl.streamed_value_and_grad(losses_of, method)
    state = wanted_state = method.init(p)
    for _ in range(2):
        _, gradient, state = streamed(p, state, data)
        wanted, wanted_state = method.update(gradients, wanted_state, p, task_losses=losses)
        close(gradient, wanted)
        close(state.weights, wanted_state.weights)


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e25])
@pytest.mark.parametrize("name", ["mgda", "cagrad", "nash_mtl", "imtl_g"])
def test_streamed_is_exact_at_any_scale(name, scale):
    p, data, method = params(), batch(), mtl.get(name, T)
    plain = mtl.streamed_value_and_grad(losses_of, method)(p, method.init(p), data)
    scaled = mtl.streamed_value_and_grad(lambda *a: scale * losses_of(*a), method)
    _, gradient, state = jax.jit(scaled)(p, method.init(p), data)
    factor = 1 / scale if name == "nash_mtl" else 1.0
    np.testing.assert_allclose(state.weights / factor, plain[2].weights, rtol=1e-4, atol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def gradient_of_way(way, fun, method, p):
    """The gradient and the state of a first step of one way, of losses of the parameters alone."""
    if way == "features":  # The parameters themselves, so that all gradients pass through them.
        step = mtl.feature_value_and_grad(lambda q: q, lambda _, z: fun(z), method)
    else:
        step = getattr(mtl, f"{way}_value_and_grad")(fun, method)
    return step(p, method.init(p))[1:]


@pytest.mark.parametrize("way", ["weighted", "streamed", "features"])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_weights_may_leave_the_range_of_the_losses(way, dtype):
    """`1 / L` beyond 65504, where gradients, and what they add up to, lie within."""
    coefficients = jnp.asarray(2.0**-10, dtype)
    p = jnp.asarray([2.0**-9, 2.0**-8], dtype)  # Losses of 2e-6 and 4e-6.
    method = mtl.scale_invariant(2, eps=1e-20)
    gradient, state = gradient_of_way(way, lambda q: coefficients * q, method, p)
    np.testing.assert_array_equal(state.weights, [2.0**19, 2.0**18])
    np.testing.assert_array_equal(gradient, [2.0**9, 2.0**8])


def test_streamed_products_may_leave_the_range_of_the_losses():
    """Norms of 2**16 and 2**17, of entries that float16 holds: MGDA's weights are 0.8 and 0.2."""
    rows = jnp.zeros((2, 512), jnp.float16).at[0, :256].set(2.0**12).at[1, 256:].set(2.0**13)
    p = jnp.full(512, 2.0**-10, jnp.float16)
    gradient, state = gradient_of_way("streamed", lambda q: rows @ q, mtl.mgda(2), p)
    np.testing.assert_allclose(state.weights, [0.8, 0.2], rtol=1e-6)
    np.testing.assert_allclose(gradient[::511], [0.8 * 2**12, 0.2 * 2**13], rtol=1e-3)


def test_streamed_takes_no_memory_for_more_tasks():
    """Temporaries stay as they are from 4 tasks to 32, within three times equal weighting's."""

    def temporaries(num_tasks, streamed):
        heads = jax.ShapeDtypeStruct((num_tasks, 256), jnp.float32)
        p = {"a": jax.ShapeDtypeStruct((256, 256), jnp.float32), "heads": heads}
        p |= {"b": p["a"], "c": p["a"]}
        x = jax.ShapeDtypeStruct((4, 256), jnp.float32)

        def losses(q, x):
            z = jnp.tanh(jnp.tanh(jnp.tanh(x @ q["a"]) @ q["b"]) @ q["c"])
            return jnp.mean((z @ q["heads"].T) ** 2, axis=0)

        method = mtl.mgda(num_tasks)
        if streamed:
            shared = lambda path: path[0].key != "heads"
            way = mtl.streamed_value_and_grad(losses, method, shared=shared)
            fun = lambda q, x: way(q, method.init(None), x)[1]
        else:
            fun = jax.grad(lambda q, x: losses(q, x).sum())
        return optimised(fun).lower(p, x).compile().memory_analysis().temp_size_in_bytes

    few, many = temporaries(4, True), temporaries(32, True)
    gradient = 4 * 3 * 256**2
    assert many < few + gradient / 2
    assert many < 3 * max(temporaries(32, False), gradient)


def test_streamed_counts_a_backward_pass_of_its_own():
    """A function with its own gradient rule counts as in the stacked way."""

    @jax.custom_vjp
    def twice(x):
        return x

    twice.defvjp(lambda x: (x, None), lambda _, g: (2 * g,))
    fun = lambda w: jnp.stack([jnp.sum(twice(w) ** 2), jnp.sum((w - 1) ** 2)])
    w, method = jnp.array([2.0, 0.5]), mtl.mgda(2)
    _, gradient, state = mtl.streamed_value_and_grad(fun, method)(w, method.init(w))
    _, rows = mtl.value_and_task_grads(fun)(w)
    wanted, stacked = method.update(rows, method.init(w))
    close(gradient, wanted)
    close(state.weights, stacked.weights)


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
    tx, rows = mtl.mgda(T), jnp.asarray(rows)
    weights = tx.update(rows, tx.init(rows[0]))[1].weights
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
    flops = lambda f, *a: optimised(f).lower(*a).compile().cost_analysis()["flops"]
    plain = flops(jax.grad(lambda q, d: losses_of(q, d).sum()), wide, batch())
    one_pass = mtl.weighted_value_and_grad(losses_of, method)
    assert flops(one_pass, wide, method.init(p), batch()) < 1.05 * plain
    assert flops(mtl.value_and_task_grads(losses_of), wide, batch()) > 1.5 * plain


def test_auxiliary_outputs():
    p, data, method, of_gram = params(), batch(), mtl.uw(T), mtl.mgda(T)
    with_aux = lambda *a: (losses_of(*a), {"n": jnp.array(8)})
    (losses, aux), _, _ = mtl.weighted_value_and_grad(with_aux, method, has_aux=True)(
        p, method.init(p), data
    )
    close(losses, losses_of(p, data))
    assert aux["n"] == 8
    (losses, aux), _, _ = mtl.streamed_value_and_grad(with_aux, of_gram, has_aux=True)(
        p, of_gram.init(p), data
    )
    close(losses, losses_of(p, data))
    assert aux["n"] == 8
    decode = lambda *a: (decoder(*a), {"n": jnp.array(8)})
    (losses, aux), _, _ = mtl.feature_value_and_grad(encoder, decode, of_gram, has_aux=True)(
        p, of_gram.init(p), data
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
    with pytest.raises(TypeError, match="streamed_value_and_grad: method must be one made from a"):
        mtl.streamed_value_and_grad(losses_of, mtl.graddrop(T))
    with pytest.raises(ValueError, match="streamed_value_and_grad: heads must be"):
        mtl.streamed_value_and_grad(losses_of, mtl.mgda(T), heads="none")
    wrong = mtl.mgda(T + 1)
    with pytest.raises(ValueError, match=r"mgda: .*\(4,"):
        mtl.streamed_value_and_grad(losses_of, wrong)(params(), wrong.init(None), batch())
    with pytest.raises(TypeError, match="feature_value_and_grad: method must be one made from a"):
        mtl.feature_value_and_grad(encoder, decoder, mtl.adatask(T, optax.sgd(1.0)))
    scalar = lambda p, data: losses_of(p, data).sum()
    with pytest.raises(ValueError, match="weighted_value_and_grad: the function must return one"):
        mtl.weighted_value_and_grad(scalar, mtl.uw(T))(params(), mtl.uw(T).init(None), batch())
    other = mtl.mgda(T + 1)
    with pytest.raises(ValueError, match=r"mgda: .*wanted \(4, "):
        mtl.feature_value_and_grad(encoder, decoder, other)(params(), other.init(None), batch())


@pytest.mark.nans  # Where JAX looks for them it donates nothing.
@pytest.mark.parametrize("way", ["weighted", "streamed"])
def test_arguments_are_marked_by_name_and_by_number(way):
    """The signature has `state` second: what `jax.jit` marks is what the caller means."""

    def losses_of(w, x, power, *, plain=True):
        return jnp.stack([jnp.sum(w * x) ** power, jnp.sum(w)])

    method = mtl.uw(2)
    step = getattr(mtl, f"{way}_value_and_grad")(losses_of, method)
    names = [*inspect.signature(step).parameters]
    assert names == ["params", "state", "x", "power", "plain", "task_mask"]
    assert step.__name__ == "losses_of"
    by_number = jax.jit(step, static_argnums=3, static_argnames="plain", donate_argnames="state")
    w, x, state = jnp.ones(3), jnp.ones(3), method.init(None)
    _, gradient, _ = by_number(w, state, x, 2, plain=True, task_mask=jnp.array([True, False]))
    np.testing.assert_array_equal(gradient, 3.0)  # Half of the slope of a square.
    deleted = [leaf.is_deleted() for leaf in (state.inner.values, w, x)]
    assert deleted == [True, False, False]


def test_a_name_of_ours_in_the_loss_function_is_passed_by_position():
    """Haiku's functions with state take it second."""

    def losses_of(params, state, x):
        return jnp.stack([jnp.sum(params * x), jnp.sum(params * state)])

    method = mtl.sum_tasks(2)
    step = mtl.weighted_value_and_grad(losses_of, method)
    names = [*inspect.signature(step).parameters]
    assert names == ["params", "state", "args", "task_mask", "kwargs"]
    w = jnp.ones(3)
    _, gradient, _ = jax.jit(step, static_argnums=2)(w, method.init(w), 2.0, 3 * w)
    np.testing.assert_array_equal(gradient, 5.0)
    several = mtl.weighted_value_and_grad(lambda *arrays: losses_of(*arrays), method)
    assert [*inspect.signature(several).parameters] == ["params", "state", "arrays", "task_mask"]


@pytest.mark.nans  # Where JAX looks for them it donates nothing.
@pytest.mark.parametrize("way", ["stacked", "weighted", "streamed"])
def test_a_donated_step_copies_no_parameter(way):
    params = {"trunk": jnp.ones((600, 700)), "heads": jnp.ones((700, 3))}
    x = jnp.ones((8, 600))
    optimizer = optax.adam(1e-3)

    def losses_of(params, x):
        return jnp.mean((jnp.tanh(x @ params["trunk"]) @ params["heads"] - 1.0) ** 2, axis=0)

    if way == "stacked":
        method = mtl.mgda(3)

        def gradient_of(params, state, x):
            losses, gradients = mtl.value_and_task_grads(losses_of)(params, x)
            return losses, *method.update(gradients, state, params)

    elif way == "weighted":
        method = mtl.uw(3)
        gradient_of = mtl.weighted_value_and_grad(losses_of, method)
    else:
        method = mtl.mgda(3)
        gradient_of = mtl.streamed_value_and_grad(losses_of, method)

    def step(params, states, x):
        losses, gradient, of_method = gradient_of(params, states[0], x)
        updates, of_optimizer = optimizer.update(gradient, states[1], params)
        return optax.apply_updates(params, updates), (of_method, of_optimizer), losses

    states = method.init(params), optimizer.init(params)
    compiled = optimised(step, donate_argnums=(0, 1)).lower(params, states, x).compile()
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert compiled.memory_analysis().alias_size_in_bytes >= 3 * parameters
    assert not re.findall(r"= f32\[(?:3,)?600,700\]\S* copy\(", compiled.as_text())

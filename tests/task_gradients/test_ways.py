"""One method, several ways to gather its evidence, the same numbers."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import METHODS, one_step, optimised
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


def equals_the_stacked_way(way, name, heads):
    """Over three steps with state, the last one with a task absent."""
    p = params()
    stacked = mtl.on_shared(mtl.get(name, T), SHARED, heads=heads)
    step, init = one_step(losses_of, mtl.get(name, T), way, shared=SHARED, heads=heads)
    stacked_state, state, step = stacked.init(p), init(p), jax.jit(step)
    for seed in range(3):
        mask = jnp.array([True, seed < 2, True])
        data = batch(seed)
        # With a task absent, plain heads belong to the sum over the present tasks.
        of_present = lambda q, d, mask=mask: jnp.where(mask, losses_of(q, d), 0)
        _, gradients = mtl.value_and_task_grads(of_present, shared=SHARED)(p, data)
        losses, gradient, state = step(p, state, data, task_mask=mask)
        updates, stacked_state = jax.jit(stacked.update)(
            gradients, stacked_state, p, task_losses=losses, task_mask=mask
        )
        close(losses, losses_of(p, data))
        close(gradient, updates)
        yield state, stacked_state


@pytest.mark.parametrize("heads", ["weighted", "unweighted"])
@pytest.mark.parametrize("name", READS_LOSSES_AT_MOST)
def test_losses_only_equals_the_stacked_way(name, heads):
    for state, wanted in equals_the_stacked_way("taps", name, heads):
        close(state, wanted)


@pytest.mark.parametrize("name", FROM_A_WEIGHTING)
def test_row_by_row_equals_the_stacked_way(name):
    for state, wanted in equals_the_stacked_way("rows", name, mtl.method_info(name).heads):
        close(mtl.task_weights(state), mtl.task_weights(wanted))


@pytest.mark.parametrize("way", ["taps", "rows"])
def test_heads_that_name_no_task_are_weighted(way):
    """What the heads of all tasks use, and no task has to itself, as the stack cannot tell."""

    def fun(q, d):
        hidden = jnp.tanh(d["x"] @ q["trunk"]["w"] + q["trunk"]["b"][None]) @ q["mix"]
        return jnp.mean((hidden @ q["heads"].T - d["y"]) ** 2, axis=0)

    p, data = params(), batch()
    p["mix"] = jnp.eye(5) + 0.1
    step, init = one_step(fun, mtl.mgda(T), way, shared="trunk", heads="weighted")
    _, gradient, state = jax.jit(step)(p, init(p), data)
    weights = mtl.task_weights(state)
    close(gradient, jax.grad(lambda q: jnp.dot(weights, fun(q, data)))(p))
    _, rows = mtl.value_and_task_grads(fun, shared="trunk")(p, data)
    with pytest.raises(ValueError, match=r"\['mix'\] .* has no leading axis of 3 tasks"):
        mtl.on_shared(mtl.mgda(T), "trunk", heads="weighted").update(rows, init(p), p)


def test_row_by_row_norms_of_chosen_leaves():
    """Over two steps: GradNorm's weights move by the norms of the first."""
    method = mtl.gradnorm(T, norm_mask={"trunk": {"w": False, "b": True}, "heads": False})
    p, data = params(), batch()
    losses, gradients = mtl.value_and_task_grads(losses_of)(p, data)
    step, init = one_step(losses_of, method, "rows")
    state = wanted_state = init(p)
    for _ in range(2):
        _, gradient, state = step(p, state, data)
        wanted, wanted_state = method.update(gradients, wanted_state, p, task_losses=losses)
        close(gradient, wanted)
        close(state.weights, wanted_state.weights)


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e25])
@pytest.mark.parametrize("name", ["mgda", "cagrad", "nash_mtl", "imtl_g"])
def test_row_by_row_is_exact_at_any_scale(name, scale):
    p, data, method = params(), batch(), mtl.get(name, T)
    plain = one_step(losses_of, method, "rows")[0](p, method.init(p), data)
    scaled, _ = one_step(lambda *a: scale * losses_of(*a), method, "rows")
    _, gradient, state = jax.jit(scaled)(p, method.init(p), data)
    factor = 1 / scale if name == "nash_mtl" else 1.0
    np.testing.assert_allclose(state.weights / factor, plain[2].weights, rtol=1e-4, atol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def gradient_of_way(way, fun, method, p):
    """The gradient and the state of a first step of one way, of losses of the parameters alone."""
    # The features are the parameters themselves, so that all gradients pass through them.
    step, init = one_step(lambda q: fun(mtl.mark_features(q)), method, way)
    return step(p, init(p))[1:]


@pytest.mark.parametrize("way", ["taps", "rows", "features"])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_weights_may_leave_the_range_of_the_losses(way, dtype):
    """`1 / L` beyond 65504, where gradients, and what they add up to, lie within."""
    coefficients = jnp.asarray(2.0**-10, dtype)
    p = jnp.asarray([2.0**-9, 2.0**-8], dtype)  # Losses of 2e-6 and 4e-6.
    method = mtl.scale_invariant(2, eps=1e-20)
    gradient, state = gradient_of_way(way, lambda q: coefficients * q, method, p)
    np.testing.assert_array_equal(state.weights, [2.0**19, 2.0**18])
    np.testing.assert_array_equal(gradient, [2.0**9, 2.0**8])


def test_row_by_row_products_may_leave_the_range_of_the_losses():
    """Norms of 2**16 and 2**17, of entries that float16 holds: MGDA's weights are 0.8 and 0.2."""
    rows = jnp.zeros((2, 512), jnp.float16).at[0, :256].set(2.0**12).at[1, 256:].set(2.0**13)
    p = jnp.full(512, 2.0**-10, jnp.float16)
    gradient, state = gradient_of_way("rows", lambda q: rows @ q, mtl.mgda(2), p)
    np.testing.assert_allclose(state.weights, [0.8, 0.2], rtol=1e-6)
    np.testing.assert_allclose(gradient[::511], [0.8 * 2**12, 0.2 * 2**13], rtol=1e-3)


def test_row_by_row_takes_no_memory_for_more_tasks():
    """Temporaries stay as they are from 4 tasks to 32, within three times equal weighting's."""

    def temporaries(num_tasks, by_row):
        heads = jax.ShapeDtypeStruct((num_tasks, 256), jnp.float32)
        p = {"a": jax.ShapeDtypeStruct((256, 256), jnp.float32), "heads": heads}
        p |= {"b": p["a"], "c": p["a"]}
        x = jax.ShapeDtypeStruct((4, 256), jnp.float32)

        def losses(q, x):
            z = jnp.tanh(jnp.tanh(jnp.tanh(x @ q["a"]) @ q["b"]) @ q["c"])
            return jnp.mean((z @ q["heads"].T) ** 2, axis=0)

        if by_row:
            shared = lambda path: path[0].key != "heads"
            step, init = one_step(losses, mtl.mgda(num_tasks), "rows", shared=shared)
            fun = lambda q, x: step(q, init(q), x)[1]
        else:
            fun = jax.grad(lambda q, x: losses(q, x).sum())
        return optimised(fun).lower(p, x).compile().memory_analysis().temp_size_in_bytes

    few, many = temporaries(4, True), temporaries(32, True)
    gradient = 4 * 3 * 256**2
    assert many < few + gradient / 2
    assert many < 3 * max(temporaries(32, False), gradient)


def test_row_by_row_counts_a_backward_pass_of_its_own():
    """A function with its own gradient rule counts as in the stacked way."""

    @jax.custom_vjp
    def twice(x):
        return x

    twice.defvjp(lambda x: (x, None), lambda _, g: (2 * g,))
    fun = lambda w: jnp.stack([jnp.sum(twice(w) ** 2), jnp.sum((w - 1) ** 2)])
    w, method = jnp.array([2.0, 0.5]), mtl.mgda(2)
    _, gradient, state = one_step(fun, method, "rows")[0](w, method.init(w))
    _, rows = mtl.value_and_task_grads(fun)(w)
    wanted, stacked = method.update(rows, method.init(w))
    close(gradient, wanted)
    close(state.weights, stacked.weights)


def marked_losses_of(p, data):
    """The features are the trunk's parameters: then feature gradients are those of the trunk."""
    return losses_of({"trunk": mtl.mark_features(p["trunk"]), "heads": p["heads"]}, data)


@pytest.mark.parametrize("heads", ["weighted", "unweighted"])
@pytest.mark.parametrize("name", READS_GRAM)
def test_features_that_are_the_trunk_equal_the_stacked_way(name, heads):
    p, data, method = params(), batch(), mtl.get(name, T)
    stacked = mtl.on_shared(method, SHARED, heads=heads)
    losses, gradients = mtl.value_and_task_grads(losses_of, shared=SHARED)(p, data)
    updates, stacked_state = stacked.update(gradients, stacked.init(p), p, task_losses=losses)
    step, init = one_step(marked_losses_of, method, "features", shared=SHARED, heads=heads)
    got_losses, gradient, state = jax.jit(step)(p, init(p), data)
    close(got_losses, losses)
    close(gradient, updates)
    close(mtl.task_weights(state), mtl.task_weights(stacked_state))


def test_mgda_ub_is_the_min_norm_point_of_the_feature_gradients():
    """Weights from the Gram of `∂L_t/∂z` over the whole batch, by hand."""
    p, data = params(), batch()
    encode = lambda q, d: jnp.tanh(d["x"] @ q["trunk"]["w"] + q["trunk"]["b"][None])
    decode = lambda q, z, d: jnp.mean((z @ q["heads"].T - d["y"]) ** 2, axis=0)
    marked = lambda q, d: decode(q, mtl.mark_features(encode(q, d)), d)
    step, init = one_step(marked, mtl.mgda(T), "features", shared=SHARED)
    losses, gradient, state = step(p, init(p), data)
    found = mtl.task_weights(state)
    z, heads = np.asarray(encode(p, data)), np.asarray(p["heads"])
    errors = z @ heads.T - np.asarray(data["y"])
    rows = np.stack([np.outer(2 * errors[:, t] / len(z), heads[t]).ravel() for t in range(T)])
    tx, rows = mtl.mgda(T), jnp.asarray(rows)
    weights = tx.update(rows, tx.init(rows[0]), rows[0])[1].weights
    np.testing.assert_allclose(found, weights, atol=1e-5)
    trunk = lambda q: jnp.dot(jax.lax.stop_gradient(found), losses_of(q, data))
    close(gradient["trunk"], jax.grad(trunk)(p)["trunk"])
    close(gradient["heads"], jax.grad(lambda q: losses_of(q, data).sum())(p)["heads"])
    close(losses, losses_of(p, data))


def test_a_batch_for_each_task_through_vmap():
    p, data, method = params(), task_batches(), mtl.uw(T)

    def own_loss(q, d):
        z = jnp.tanh(d["x"] @ q["trunk"]["w"] + q["trunk"]["b"][None])
        return jnp.mean((z @ q["heads"][d["task"]] - d["y"]) ** 2)

    step, init = one_step(jax.vmap(own_loss, in_axes=(None, 0)), method, "taps")
    losses, gradient, _ = step(p, init(p), data)
    wanted_losses, rows = mtl.per_task_value_and_grad(own_loss)(p, data)
    close(losses, wanted_losses)
    close(gradient, mtl.combine(jnp.full(T, 0.5), rows))


@pytest.mark.parametrize("way", ["taps", "rows", "features"])
def test_losses_only_costs_one_backward_pass(way):
    """XLA's own count of operations: equal weighting plus a little, not T times it."""
    p, method = params(), mtl.uw(T)
    wide = {
        "trunk": {"w": jnp.ones((4, 500)), "b": jnp.ones(500)},
        "heads": jnp.ones((T, 500)),
    }
    flops = lambda f, *a: optimised(f).lower(*a).compile().cost_analysis()["flops"]
    plain = flops(jax.grad(lambda q, d: losses_of(q, d).sum()), wide, batch())
    one_pass, _ = one_step(marked_losses_of, method, way)
    assert flops(one_pass, wide, method.init(p), batch()) < 1.05 * plain
    assert flops(mtl.value_and_task_grads(losses_of), wide, batch()) > 1.5 * plain


@pytest.mark.parametrize("way", ["taps", "rows", "features"])
def test_auxiliary_outputs(way):
    p, data = params(), batch()
    with_aux = lambda *a: (marked_losses_of(*a), {"n": jnp.array(8)})
    step, init = one_step(with_aux, mtl.mgda(T), way, has_aux=True)
    (losses, aux), _, _ = step(p, init(p), data)
    close(losses, losses_of(p, data))
    assert aux["n"] == 8


def test_mistakes_are_named():
    p, data = params(), batch()
    gather = lambda fun, way: mtl.value_and_task_grads(fun, stacked=False, way=way)(p, data)[1]
    for way in ("taps", "rows", "features"):
        gradients = gather(marked_losses_of, way)
        with pytest.raises(TypeError, match=r"no array.*gradients.stack\(\)"):
            optax.adam(1.0).update(gradients, optax.adam(1.0).init(p), p)
        wrong = mtl.mgda(T + 1)
        with pytest.raises(ValueError, match="mgda: task_gradients are of 3 tasks, wanted .*=4"):
            wrong.update(gradients, wrong.init(p), p)
        scalar = lambda p, data: marked_losses_of(p, data).sum()
        with pytest.raises(ValueError, match="value_and_task_grads: the function must return one"):
            gather(scalar, way)


@pytest.mark.nans  # Where JAX looks for them it donates nothing.
@pytest.mark.parametrize("way", ["stacked", "taps", "rows"])
def test_arguments_are_marked_by_name_and_by_number(way):
    """The signature is that of the losses: what `jax.jit` marks is what the caller means."""

    def losses_of(w, x, power, *, plain=True):
        return jnp.stack([jnp.sum(w * x) ** power, jnp.sum(w)])

    options = {} if way == "stacked" else {"stacked": False, "way": way}
    gather = mtl.value_and_task_grads(losses_of, **options)
    assert inspect.signature(gather) == inspect.signature(losses_of)
    assert gather.__name__ == "losses_of"

    @functools.wraps(gather)
    def step(*args, **kwargs):
        return mtl.combine(jnp.array([0.5, 0.0]), gather(*args, **kwargs)[1])

    by_number = jax.jit(step, static_argnums=2, static_argnames="plain", donate_argnames="x")
    w, x = jnp.ones(3), jnp.ones(3)
    gradient = by_number(w, x, 2, plain=True)
    np.testing.assert_array_equal(gradient, 3.0)  # Half of the slope of a square.
    assert [leaf.is_deleted() for leaf in (x, w)] == [True, False]


def test_losses_that_call_an_argument_state_take_it():
    """Haiku's functions with state take it second."""

    def losses_of(params, state, x):
        return jnp.stack([jnp.sum(params * x), jnp.sum(params * state)])

    w = jnp.ones(3)
    for fun in (losses_of, lambda *arrays: losses_of(*arrays)):
        gather = mtl.value_and_task_grads(fun, stacked=False)
        step = lambda w, state, x, gather=gather: gather(w, state, x)[1].combine(jnp.ones(2))
        np.testing.assert_array_equal(jax.jit(step, static_argnums=1)(w, 2.0, 3 * w), 5.0)


@pytest.mark.nans  # Where JAX looks for them it donates nothing.
@pytest.mark.parametrize("way", ["stacked", "losses only", "taps", "rows"])
def test_a_donated_step_copies_no_parameter(way):
    params = {"trunk": jnp.ones((600, 700)), "heads": jnp.ones((700, 3))}
    x = jnp.ones((8, 600))
    optimizer = optax.adam(1e-3)

    def losses_of(params, x):
        return jnp.mean((jnp.tanh(x @ params["trunk"]) @ params["heads"] - 1.0) ** 2, axis=0)

    method = mtl.uw(3) if way == "losses only" else mtl.mgda(3)
    gradient_of, _ = one_step(losses_of, method, "taps" if way == "losses only" else way)

    def step(params, states, x):
        losses, gradient, of_method = gradient_of(params, states[0], x)
        updates, of_optimizer = optimizer.update(gradient, states[1], params)
        return optax.apply_updates(params, updates), (of_method, of_optimizer), losses

    states = method.init(params), optimizer.init(params)
    compiled = optimised(step, donate_argnums=(0, 1)).lower(params, states, x).compile()
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert compiled.memory_analysis().alias_size_in_bytes >= 3 * parameters
    assert not re.findall(r"= f32\[(?:3,)?600,700\]\S* copy\(", compiled.as_text())

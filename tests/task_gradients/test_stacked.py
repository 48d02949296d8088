"""Task gradients against `jax.grad` of each task's loss, and what a user could trip over."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from mtl_optax._task_gradients import passes
from tests.common import one_step, optimised

T = 3


def params():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {"trunk": {"w": draw(4, 5), "b": draw(5)}, "heads": draw(T, 5)}


def batch(seed=1):
    rng = np.random.default_rng(seed)
    return {
        "x": jnp.asarray(rng.normal(size=(8, 4)), jnp.float32),
        "y": jnp.asarray(rng.normal(size=(8, T)), jnp.float32),
    }


def features(p, x):
    return jnp.tanh(x @ p["trunk"]["w"] + p["trunk"]["b"][None])


def losses_of(p, data):
    return jnp.mean((features(p, data["x"]) @ p["heads"].T - data["y"]) ** 2, axis=0)


SHARED = {"trunk": True, "heads": False}


def on_trunk(path):
    return path[0].key == "trunk"


def close(got, wanted):
    def numbers(x):
        is_key = jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)
        return jax.random.key_data(x) if is_key else x

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(numbers(a), numbers(b), rtol=1e-5, atol=1e-6),
        got,
        wanted,
    )


def test_all_leaves_stacked_equal_one_gradient_per_task():
    p, data = params(), batch()
    losses, gradients = jax.jit(mtl.value_and_task_grads(losses_of))(p, data)
    close(losses, losses_of(p, data))
    for task in range(T):
        wanted = jax.grad(lambda q, task=task: losses_of(q, data)[task])(p)
        close(jax.tree.map(lambda g, task=task: g[task], gradients), wanted)


@pytest.mark.parametrize(
    "shared", [SHARED, on_trunk, {"trunk": {"w": True, "b": True}, "heads": False}]
)
def test_heads_get_the_gradient_of_the_summed_loss(shared):
    p, data = params(), batch()
    _, stacked = mtl.value_and_task_grads(losses_of)(p, data)
    _, gradients = jax.jit(mtl.value_and_task_grads(losses_of, shared=shared))(p, data)
    close(gradients["trunk"], stacked["trunk"])
    close(gradients["heads"], jax.grad(lambda q: losses_of(q, data).sum())(p)["heads"])
    assert gradients["heads"].shape == p["heads"].shape


def test_heads_are_never_stacked_in_the_compiled_program():
    """With wide heads, the program needs far less memory than T copies of them."""
    p, data = params(), batch()
    wide = 100_000
    p["heads"] = jnp.ones((T, 5, wide))
    loss = lambda q, d: jnp.mean(
        jnp.einsum("bf,tfo->tbo", features(q, d["x"]), q["heads"]) ** 2, (1, 2)
    )
    compiled = lambda **kw: optimised(mtl.value_and_task_grads(loss, **kw)).lower(p, data).compile()
    size = p["heads"].nbytes
    assert compiled(shared=SHARED).memory_analysis().output_size_in_bytes < 1.1 * size
    assert compiled().memory_analysis().output_size_in_bytes > 2.9 * size


def test_the_forward_pass_runs_once():
    calls = []

    def counted(p, data):
        calls.append(None)
        return losses_of(p, data)

    mtl.value_and_task_grads(counted, shared=SHARED)(params(), batch())
    assert len(calls) == 1


@pytest.mark.parametrize("shared", [None, SHARED])
def test_auxiliary_outputs_come_back_once(shared):
    p, data = params(), batch()

    def with_statistics(q, d):
        hidden = features(q, d["x"])
        return losses_of(q, d), {"mean": hidden.mean(0), "count": 8, "mode": jnp.array(1)}

    (losses, aux), gradients = mtl.value_and_task_grads(
        with_statistics, has_aux=True, shared=shared
    )(p, data)
    wanted_losses, wanted = mtl.value_and_task_grads(losses_of, shared=shared)(p, data)
    close(losses, wanted_losses)
    close(gradients, wanted)
    close(aux["mean"], features(p, data["x"]).mean(0))
    assert aux["count"] == 8


@pytest.mark.parametrize("argnums", [1, -1, (0, 1), (1,)])
def test_argnums_follow_jax(argnums):
    p, data = params(), batch()
    loss = lambda x, q: losses_of(q, {"x": x, "y": data["y"]})
    losses, gradients = mtl.value_and_task_grads(loss, argnums)(data["x"], p)
    _, wanted = jax.value_and_grad(lambda *a: loss(*a)[1], argnums)(data["x"], p)
    close(jax.tree.map(lambda g: g[1], gradients), wanted)
    assert losses.shape == (T,)
    assert isinstance(gradients, tuple) == isinstance(argnums, tuple)


def test_keyword_arguments_are_passed_on():
    scaled = lambda p, data, factor=1.0: factor * losses_of(p, data)
    p, data = params(), batch()
    losses, _ = mtl.value_and_task_grads(scaled)(p, data, factor=3.0)
    close(losses, 3 * losses_of(p, data))


def test_it_can_be_differentiated_vmapped_and_keeps_its_name():
    p = params()
    fun = mtl.value_and_task_grads(losses_of)
    assert fun.__name__ == "losses_of"
    many = jax.tree.map(lambda *x: jnp.stack(x), batch(1), batch(2))
    losses, _ = jax.vmap(fun, in_axes=(None, 0))(p, many)
    close(losses[1], losses_of(p, batch(2)))
    norm = lambda q: optax.tree_utils.tree_norm(fun(q, batch())[1])
    assert np.all(np.isfinite(jax.grad(norm)(p)["heads"]))


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (
            lambda p: p["heads"].sum(),
            ValueError,
            r"one loss per task, shape \(num_tasks,\), got shape \(\)",
        ),
        (lambda p: p["heads"], ValueError, r"got shape \(3, 5\)"),
        (lambda p: [p["heads"].sum()] * 3, TypeError, "must return an array of losses .* got list"),
        (lambda p: (p["heads"].sum(1), {}), TypeError, "has_aux=True if it returns"),
        (
            lambda p: jnp.arange(3, dtype="int32"),
            TypeError,
            "must be real floating numbers, got int32",
        ),
    ],
)
def test_losses_of_another_shape_are_an_error(loss, error, message):
    with pytest.raises(error, match=f"value_and_task_grads: .*{message}"):
        mtl.value_and_task_grads(loss)(params())


def test_other_mistakes_are_named():
    p, data = params(), batch()
    with pytest.raises(TypeError, match=r"params\['step'\] has dtype int32"):
        mtl.value_and_task_grads(losses_of)({**p, "step": jnp.array(3, "int32")}, data)
    with pytest.raises(ValueError, match="argnums=2 asks for an argument beyond the 2 positional"):
        mtl.value_and_task_grads(losses_of, argnums=2)(p, data)
    with pytest.raises(TypeError, match=r"must return the pair \(losses, aux\), got"):
        mtl.value_and_task_grads(losses_of, has_aux=True)(p, data)
    with pytest.raises(ValueError, match="shared selects no leaf of params .*keystr"):
        mtl.value_and_task_grads(losses_of, shared=lambda path: "trunk" in path)(p, data)
    with pytest.raises(ValueError, match="shared must be a tree of booleans with the structure"):
        mtl.value_and_task_grads(losses_of, shared={"trunk": True})(p, data)


def own_loss(p, data):
    """One task's loss on its own batch; `p["heads"]` is that task's slice, or all of them."""
    head = p["heads"] if p["heads"].ndim == 1 else p["heads"][data["task"]]
    return jnp.mean((features(p, data["x"]) @ head - data["y"]) ** 2)


def task_batches():
    rng = np.random.default_rng(2)
    return {
        "x": jnp.asarray(rng.normal(size=(T, 8, 4)), jnp.float32),
        "y": jnp.asarray(rng.normal(size=(T, 8)), jnp.float32),
        "task": jnp.arange(T),
    }


def of_task(tree, task):
    return jax.tree.map(lambda leaf: leaf[task], tree)


@pytest.mark.parametrize("has_aux", [False, True])
def test_per_task_gradients_equal_a_loop(has_aux):
    p, data = params(), task_batches()
    fun = (lambda q, d: (own_loss(q, d), d["x"].sum())) if has_aux else own_loss
    out, gradients = jax.jit(mtl.per_task_value_and_grad(fun, has_aux=has_aux))(p, data)
    losses = out[0] if has_aux else out
    for task in range(T):
        loss, wanted = jax.value_and_grad(own_loss)(p, of_task(data, task))
        close(losses[task], loss)
        close(of_task(gradients, task), wanted)
    if has_aux:
        close(out[1], data["x"].sum((1, 2)))


@pytest.mark.parametrize("shared", [SHARED, on_trunk])
def test_per_task_heads_are_sliced_and_keep_their_size(shared):
    p, data = params(), task_batches()
    losses, gradients = mtl.per_task_value_and_grad(own_loss, shared=shared)(p, data)
    plain_losses, plain = mtl.per_task_value_and_grad(own_loss)(p, data)
    close(losses, plain_losses)
    close(gradients["trunk"], plain["trunk"])
    close(gradients["heads"], plain["heads"].sum(0))
    assert gradients["heads"].shape == p["heads"].shape


def test_per_task_random_keys_and_keyword_batches():
    keys = jax.random.split(jax.random.key(0), T)
    noisy = lambda w, key, scale: jnp.sum(w * jax.random.normal(key, (2,)) * scale)
    losses, gradients = mtl.per_task_value_and_grad(noisy)(jnp.ones(2), keys, scale=jnp.arange(3.0))
    for task in range(T):
        wanted = jax.random.normal(keys[task], (2,)) * task
        close(gradients[task], wanted)
        close(losses[task], wanted.sum())


@pytest.mark.parametrize("how", [{}, {"stacked": False}, {"stacked": False, "way": "rows"}])
def test_a_batch_may_leave_fields_out(how):
    p, data = params(), task_batches()
    fun = mtl.per_task_value_and_grad(own_loss, **how)
    losses, gradients = fun(p, {**data, "noise": None, "more": {"left": None}})
    wanted = mtl.per_task_value_and_grad(own_loss)(p, data)
    close((losses, gradients if not how else gradients.stack()), wanted)


def test_per_task_mistakes_are_named():
    p, data = params(), task_batches()
    fun = mtl.per_task_value_and_grad(own_loss)
    with pytest.raises(ValueError, match=r"argument 1\['task'\] is a scalar"):
        fun(p, {**data, "task": jnp.array(0)})
    with pytest.raises(ValueError, match=r"leading task axes differ \(argument 1\['task'\]: 2"):
        fun(p, {**data, "task": jnp.arange(2)})
    with pytest.raises(ValueError, match="no task batch was given"):
        mtl.per_task_value_and_grad(lambda q: q["heads"].sum())(p)
    with pytest.raises(ValueError, match=r"leading task axes differ .*argument 0\['heads'\]: 2"):
        mtl.per_task_value_and_grad(own_loss, shared=SHARED)({**p, "heads": p["heads"][:2]}, data)


def test_both_ways_agree_when_every_task_sees_the_same_batch():
    p, data = params(), batch()
    same = {"x": jnp.stack([data["x"]] * T), "y": data["y"].T, "task": jnp.arange(T)}
    close(
        mtl.per_task_value_and_grad(own_loss, shared=SHARED)(p, same),
        mtl.value_and_task_grads(losses_of, shared=SHARED)(p, data),
    )


@pytest.mark.parametrize("way", ["stacked", "rows"])
@pytest.mark.parametrize(
    ("kernel", "num_tasks", "looped"),
    [((3, 3, 1, 2), 3, False), ((3, 3, 1, 2), passes._FEW_TASKS + 1, True), ((16, 2), 3, True)],
)
def test_convolutions_are_kept_out_of_loops(way, kernel, num_tasks, looped, monkeypatch):
    """XLA runs them many times slower there, on the CPU; other large models do go in turn."""
    monkeypatch.setattr(passes, "LARGE", 0)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 1)), jnp.float32)
    weights = jnp.linspace(0.5, 1.0, num_tasks, dtype=jnp.float32)

    def losses(kernel):
        if kernel.ndim == 4:
            layout = ("NHWC", "HWIO", "NHWC")
            # In a function of its own, as layers are.
            convolve = jax.jit(
                lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", None, None, layout)
            )
            hidden = convolve(images, kernel)
        else:
            hidden = images.reshape(2, -1) @ kernel
        return jnp.sum(jnp.tanh(hidden)) * weights

    kernel = jnp.full(kernel, 0.1, jnp.float32)
    wanted = jax.vmap(lambda w: jax.grad(lambda k: losses(k)[0] / weights[0] * w)(kernel))(weights)
    if way == "stacked":
        step, arguments = jax.jit(mtl.value_and_task_grads(losses)), (kernel,)
    else:
        method = mtl.gradnorm(num_tasks)
        step = jax.jit(one_step(losses, method, way)[0])
        arguments, wanted = (kernel, method.init(kernel)), wanted.sum(axis=0)
    assert ("stablehlo.while" in step.lower(*arguments).as_text()) == looped
    np.testing.assert_allclose(step(*arguments)[1], wanted, rtol=1e-4, atol=1e-6)

"""Whole steps by each way under what JAX does to programs: vmap, scan, grad, export, strictness."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl
from tests.task_gradients.test_object import PARAMS, WAYS, close, losses_of, own_loss
from tests.task_gradients.test_taps import EMBEDDING, TOKENS, T, X, Y, draw, ends

METHODS = {"mgda": mtl.mgda(T), "gradnorm": mtl.gradnorm(T)}


def step(p, state, x, tx=METHODS["mgda"], fun=losses_of, **options):
    losses, g = mtl.value_and_task_grads(fun, **options)(p, x)
    return losses, *tx.update(g, state, p, task_losses=losses)


def both(function, *args, ways=("taps", "rows")):
    """What a function of a step makes of it by each way, and of the stacked one, in one program."""
    steps = [functools.partial(step, stacked=False, way=way) for way in ways]
    found = jax.jit(lambda *args: [function(step, *args) for step in [*steps, step]])(*args)
    return found[:-1], found[-1]


def test_vmap_over_seeds():
    seeds = jax.tree.map(lambda p: jnp.stack([p, 1.1 * p]), PARAMS)

    def train(step, seeds):
        return jax.vmap(lambda p: step(p, METHODS["mgda"].init(p), X))(seeds)

    found, wanted = both(train, seeds)
    for got in found:
        close(got, wanted, rtol=1e-4, atol=1e-5)


def test_scan_over_steps():
    batches = draw(30, 3, *X.shape)

    def train(step, p, batches):
        def body(carry, x):
            p, state = carry
            losses, updates, state = step(p, state, x, tx=METHODS["gradnorm"])
            return (jax.tree.map(lambda p, u: p - 0.1 * u, p, updates), state), losses

        return jax.lax.scan(body, (p, METHODS["gradnorm"].init(p)), batches)

    found, wanted = both(train, PARAMS, batches)
    for got in found:
        close(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_derivative_of_a_step():
    along = jax.tree.map(jnp.cos, PARAMS)

    def moved(step, p):
        def after(p):
            losses, updates, state = step(p, METHODS["mgda"].init(p), X)
            products = jax.tree.map(jnp.vdot, updates, along)
            return sum(jax.tree.leaves(products)) + state.weights @ losses

        return jax.grad(after)(p)

    found, wanted = both(moved, PARAMS)
    for got in found:
        close(got, wanted, rtol=1e-3, atol=1e-4)


def mixed(p, x):
    """Products whose result is wider than what they are of, of one parameter in two dtypes."""
    half = lambda z: z.astype(jnp.bfloat16)
    a, b = half(p["trunk"]["a"]), half(p["b"])
    z = mtl.mark_features(jnp.dot(half(x), a, preferred_element_type=jnp.float32))
    z = jnp.tanh(z + (half(x) @ a).astype(jnp.float32))
    z = jnp.dot(half(z), b, preferred_element_type=jnp.float32)
    return jnp.mean((jnp.tanh(z) @ p["h"] - Y) ** 2, axis=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("x64", [False, True])
def test_strict_jax(way, x64):
    with (
        jax.enable_x64(x64),
        jax.debug_nans(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        wide = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)
        p, x, y = wide((PARAMS, X, Y)) if x64 else (PARAMS, X, Y)
        dense = lambda p, x: losses_of(p, x, y)

        def everything(p, x):
            found = []
            for fun in (dense, mixed) if not x64 else (dense,):
                _, g = mtl.value_and_task_grads(fun, stacked=False, way=way)(p, x)
                found.append((g.gram(), g.norms(), g.combine(jnp.ones(T)), g.stack()))
                found.append(METHODS["mgda"].update(g, METHODS["mgda"].init(p), p))
            if way != "features" and not x64:
                own = mtl.per_task_value_and_grad(own_loss, has_aux=True, stacked=False, way=way)
                _, g = own({**p, "h": p["h"][:, 0]}, draw(31, T, 2, 40), draw(32, T, 2))
                found.append((g.gram(), g.combine(jnp.ones(T)), g.stack()))
            if way == "taps" and not x64:
                fun = lambda p: ends(jnp.tanh(p["e"][TOKENS]).mean(1), p)
                _, g = mtl.value_and_task_grads(fun, stacked=False)(EMBEDDING)
                found.append((g.gram(), g.combine(jnp.ones(T)), g.stack()))
            return found

        with jax.check_tracer_leaks(True):
            jax.eval_shape(everything, p, x)
        (gram, _, combined, stack), *_ = jax.jit(everything)(p, x)
        assert gram.dtype == combined["b"].dtype == stack["b"].dtype == p["b"].dtype
        if x64:
            wanted = jax.tree.map(lambda g: g.sum(0), jax.jacrev(dense)(p, x))
            close(combined, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_a_way_lowers(way):
    """For CPU, CUDA and TPU, where there is no such device."""
    platforms = ("cpu", "cuda", "tpu")
    one = functools.partial(step, stacked=False, way=way)
    abstract = jax.eval_shape(lambda: (PARAMS, METHODS["mgda"].init(PARAMS), X))
    exported = jax.export.export(jax.jit(one), platforms=platforms)(*abstract)
    assert exported.platforms == platforms
    assert exported.out_tree == jax.tree.structure((X, PARAMS, METHODS["mgda"].init(PARAMS)))


@pytest.mark.nans  # Where JAX looks for them it donates nothing.
def test_parameters_can_be_donated():
    jitted = jax.jit(functools.partial(step, stacked=False), donate_argnums=0)
    p = jax.tree.map(jnp.copy, PARAMS)
    jitted(p, METHODS["mgda"].init(p), X)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(p))


def test_a_second_step_is_not_compiled_anew():
    jitted = jax.jit(functools.partial(step, stacked=False, tx=METHODS["gradnorm"]))
    p, state = PARAMS, METHODS["gradnorm"].init(PARAMS)
    for _ in range(2):
        _, p, state = jitted(p, state, X)
    assert jitted._cache_size() == 1


def test_effects_happen_once(capfd):
    def fun(p, x):
        jax.debug.print("forward")
        return losses_of(p, x)

    for way in WAYS:
        one = functools.partial(step, fun=fun, stacked=False, way=way)
        jax.block_until_ready(jax.jit(one)(PARAMS, METHODS["mgda"].init(PARAMS), X))
        jax.effects_barrier()
        assert capfd.readouterr().out.count("forward") == 1, way


def test_random_numbers_are_those_of_the_pass():
    """Dropout by a key among the arguments."""

    def fun(p, x, key):
        kept = jax.random.bernoulli(key, 0.5, x.shape)
        return losses_of(p, jnp.where(kept, 2 * x, 0))

    @jax.jit
    def steps(p, key):
        _, g = mtl.value_and_task_grads(fun, stacked=False)(p, X, key)
        return g.combine(jnp.ones(T)), jax.grad(lambda p: fun(p, X, key).sum())(p)

    close(*steps(PARAMS, jax.random.key(0)))


def test_numbers_of_numpy_and_python_among_the_parameters():
    fun = lambda p: losses_of(p) * p["scale"]
    p = {**jax.tree.map(np.asarray, PARAMS), "scale": 2.0}
    combine = lambda p, **options: mtl.value_and_task_grads(fun, stacked=False, **options)(p)
    wanted = jax.grad(lambda p: fun(p).sum())(p)

    @jax.jit
    def compiled(b):
        return combine({**p, "b": b})[1].combine(jnp.ones(T))

    close(compiled(p["b"]), wanted)
    for way in ("taps", "rows"):
        close(combine(p, way=way)[1].combine(jnp.ones(T)), wanted)

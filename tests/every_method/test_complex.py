"""Complex leaves count as their real and imaginary parts: against models of real pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import METHODS, WAYS, Inputs, inputs, make, one_step, step

T = 3


def as_pairs(tree):
    """The same numbers with a last axis of two, for real and imaginary parts, by NumPy."""
    return jax.tree.map(
        lambda z: (
            jnp.asarray(np.stack([np.real(z), np.imag(z)], axis=-1)) if np.iscomplexobj(z) else z
        ),
        tree,
    )


def both():
    """Inputs with a complex, a real and a complex scalar parameter, and those of real pairs."""
    one, other = inputs(T, seed=0), inputs(T, seed=1)

    def mixed(first, second):
        kernel = first["dense"]["kernel"] + 1j * second["dense"]["kernel"]
        dense = {"kernel": kernel, "bias": first["dense"]["bias"]}
        return {"dense": dense, "scale": first["scale"] + 1j * second["scale"]}

    pairs = [mixed(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, dict)]
    given = Inputs(pairs[0], pairs[1], one.losses, pairs[2])
    return given, as_pairs(given)


def agree(got, wanted):
    """Compares what complex numbers gave with what pairs did, keys by their data."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_allclose(as_pairs(one), other, rtol=2e-5, atol=1e-6)


def two_steps(tx, given):
    """Two steps, the second with a task absent: the last state and the updates."""

    @jax.jit
    def run(given):
        def body(state, mask):
            update, state = step(tx, state, given, task_mask=mask)
            return state, update

        masks = jnp.array([[True, True, True], [True, False, True]])
        return jax.lax.scan(body, tx.init(given.params), masks)

    return run(given)


def transformations():
    for name in METHODS:
        if name != "adatask":  # Its optimiser has Optax's rule for complex numbers.
            yield name, make(name, T)
    for name in ("mgda", "pcgrad", "graddrop", "layerwise_adatask"):
        yield f"{name}, rows", make(name, T, combine=False)
    yield "micro-batches", mtl.accumulate_task_gradients(T, 2, then=mtl.meta_weighting(T))
    yield "guarded", mtl.skip_nonfinite(mtl.mgda(T))
    yield "conflict", optax.chain(mtl.track_conflict(T), mtl.sum_tasks(T))
    split = mtl.split_step(T, optax.trace(0.9), momentum=0.9)
    yield "split step", optax.chain(split, mtl.track_dominance(T))
    yield "averages", optax.chain(mtl.task_ema(T, 0.9), mtl.mgda(T))


TRANSFORMATIONS = dict(transformations())


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_steps_equal_those_of_real_pairs(name):
    tx = TRANSFORMATIONS[name]
    given, pairs = both()
    state, updates = two_steps(tx, given)
    wanted_state, wanted = two_steps(tx, pairs)
    agree(updates, wanted)
    agree(state, wanted_state)
    like = given.gradients if name.endswith("rows") or name == "split step" else given.params
    assert jax.tree.map(jnp.result_type, updates) == jax.tree.map(jnp.result_type, like)


def test_measures_equal_those_of_real_pairs():
    given, pairs = both()
    agree(mtl.gram(given.gradients), mtl.gram(pairs.gradients))
    weights = jnp.array([0.5, -2.0, 3.0])
    agree(mtl.combine(weights, given.gradients), mtl.combine(weights, pairs.gradients))


def test_optimisers_of_each_task_keep_their_own_rule():
    """Optax's Adam divides by the magnitude of a complex number."""
    given, _ = both()
    adam = optax.adam(0.1)
    tx = mtl.adatask(T, adam)
    updates, _ = jax.jit(tx.update)(given.gradients, tx.init(given.params), given.params)
    of_one = jax.jit(lambda gradients: adam.update(gradients, adam.init(given.params))[0])
    of_each = [of_one(jax.tree.map(lambda g, t=t: g[t], given.gradients)) for t in range(T)]
    agree(updates, as_pairs(jax.tree.map(lambda *steps: sum(steps), *of_each)))


# A model with complex parameters, and the same with pairs.


def model(multiply, part, params, x):
    """Losses of a product of complex numbers, made of its parts."""
    z = multiply(params["filter"], x)
    real, imaginary = part(z)
    out = jnp.tanh(real) + imaginary * params["gain"]
    return jnp.stack([jnp.mean(out**2), jnp.mean((real - 1) ** 2), jnp.mean(imaginary)])


def of_complex(params, x):
    return model(lambda f, x: jnp.expand_dims(f, 0) * x, lambda z: (z.real, z.imag), params, x)


def of_pairs(params, x):
    def multiply(f, x):
        a, b = f[None, :, 0], f[None, :, 1]
        return a * x.real - b * x.imag, a * x.imag + b * x.real

    return model(multiply, lambda z: z, params, x)


def data():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=(*shape, 2)) @ [1, 1j], jnp.complex64)
    return {"filter": draw(4), "gain": jnp.array([0.5, 1.0, -1.0, 2.0])[None]}, draw(5, 4)


def conjugated(tree):
    return jax.tree.map(jnp.conj, tree)


@pytest.mark.parametrize("way", ["losses only", *WAYS])
def test_ways_equal_those_of_real_pairs(way):
    """JAX's gradient of a complex parameter is the conjugate of that of the pair."""
    params, x = data()
    method = {"losses only": mtl.uw(T), "rows": mtl.imtl_g(T)}.get(way, mtl.mgda(T))

    def gradient_of(fun, params):
        marked = lambda p, x: fun(mtl.mark_features(p), x)
        step, init = one_step(marked, method, "taps" if way == "losses only" else way)
        return step(params, init(params), x)

    losses, gradient, state = jax.jit(lambda p: gradient_of(of_complex, p))(params)
    wanted = jax.jit(lambda p: gradient_of(of_pairs, p))(as_pairs(params))
    agree((losses, conjugated(gradient), state), wanted)


def test_a_batch_for_each_task_with_complex_parameters():
    params, x = data()
    batches = jnp.stack([x, 2 * x, 1j * x])
    losses, rows = mtl.per_task_value_and_grad(lambda p, x: of_complex(p, x)[0])(params, batches)
    wanted = mtl.per_task_value_and_grad(lambda p, x: of_pairs(p, x)[0])(as_pairs(params), batches)
    agree((losses, conjugated(rows)), wanted)


def test_a_conjugate_after_the_method_descends():
    params, x = data()
    conjugate = optax.stateless(lambda updates, _: conjugated(updates))
    tx = optax.chain(mtl.mgda(2), conjugate, optax.sgd(0.3))
    losses_of = lambda p: of_complex(p, x)[:2]

    @jax.jit
    def train(params):
        def body(carry, _):
            params, state = carry
            losses, rows = mtl.value_and_task_grads(losses_of)(params)
            updates, state = tx.update(rows, state, params, task_losses=losses)
            return (optax.apply_updates(params, updates), state), losses

        return jax.lax.scan(body, (params, tx.init(params)), length=40)[1]

    losses = train(params)
    assert np.all(losses[-1] < 0.7 * losses[0])

"""Task gradients from taps where digits are few: near a stationary point, in half precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

import mtl_optax as mtl
from tests.task_gradients.test_taps import MODEL, WEIGHTS, T, X, Y, draw, mlp, row_of, rows_of

N, A, B = 64, 96, 80


def nearly_stationary(share):
    """Inputs of rank 4 and cotangents that all but cancel over them, as NumPy's float32."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(N, 4)))[0]
    x = basis @ rng.normal(size=(4, A))
    d = rng.normal(size=(T, N, B))
    d -= np.einsum("ik,jk,tjb->tib", basis, basis, d)
    d += share * rng.normal(size=d.shape)
    return x.astype(np.float32), d.astype(np.float32)


@jax.jit
def answers(w, x, d):
    losses_of = lambda w: jnp.einsum("nb,tnb->t", x @ w, d)
    _, g = mtl.value_and_task_grads(losses_of, stacked=False)(w)
    tx = mtl.mgda(T)
    return g.gram(), g.norms(), tx.update(g, tx.init(w), w)[1].weights


@pytest.mark.parametrize("share", [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_the_gram_matrix_near_a_stationary_point(share):
    """As exact as gradients that are made in float32, which themselves lose digits there."""
    x, d = nearly_stationary(share)
    wanted = np.einsum("na,tnb->tab", *(z.astype(np.float64) for z in (x, d))).reshape(T, -1)
    made = np.einsum("na,tnb->tab", x, d).reshape(T, -1).astype(np.float64)
    lengths = np.linalg.norm(wanted, axis=1)
    cosines = lambda gram: np.asarray(gram, np.float64) / np.outer(lengths, lengths)
    error = lambda gram: np.abs(cosines(gram) - cosines(wanted @ wanted.T)).max()
    gram, norms, weights = answers(jnp.zeros((A, B)), x, d)
    bound = 1e-5 + 3 * error(made @ made.T)
    assert error(gram) < bound
    assert np.abs(np.asarray(norms) / lengths - 1).max() < bound
    assert np.linalg.eigvalsh(cosines(gram)).min() > -1e-6
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)


def test_nothing_makes_a_nan_there():
    """Else `jax_debug_nans` would blame this library: what cancels can come out below zero."""
    x, d = np.ones((16, 40)), draw(0, T, 16, 40)
    d -= d.mean(1, keepdims=True)

    def step(w):
        losses_of = lambda w: jnp.einsum("nb,tnb->t", jnp.asarray(x, jnp.float32) @ w, d)
        _, g = mtl.value_and_task_grads(losses_of, stacked=False)(w)
        tx = mtl.mgda(T)
        return tx.update(g, tx.init(w), w)

    checked = checkify.checkify(step, errors=checkify.nan_checks)
    assert jax.jit(checked)(jnp.zeros((40, 40)))[0].get() is None


@pytest.mark.parametrize("scales", [[1e-22] * T, [1e15, 1.0, 1e-15], [0.0, 1e-30, 1e8]])
@pytest.mark.parametrize("way", ["taps", "rows"])
def test_weights_at_any_scale(way, scales):
    """Those of MGDA on rows that NumPy has scaled in float64."""
    rows = rows_of(jax.jit(jax.jacrev(mlp))(MODEL))
    rows *= np.asarray(scales)[:, None]
    tx = mtl.imtl_g(T) if 0.0 not in scales else mtl.mgda(T)

    @jax.jit
    def weights(p):
        scaled = lambda p: mlp(p) * jnp.asarray(scales)
        _, g = mtl.value_and_task_grads(scaled, stacked=False, way=way)(p)
        return tx.update(g, tx.init(p), p)[1].weights

    rows = jnp.asarray(rows, jnp.float32)
    wanted = tx.update(rows, tx.init(rows[0]), rows[0])[1].weights
    np.testing.assert_allclose(weights(MODEL), wanted, rtol=1e-4, atol=1e-6)


def test_large_inputs_that_no_loss_depends_on():
    """The square of what fills a batch up overflows, and counts for nothing."""
    x = X.at[3].set(1e25)
    used = lambda x: (jnp.arange(len(x)) != 3)[:, None]

    @jax.jit
    def gram(p):
        fun = lambda p: jnp.mean(((jnp.where(used(x), x @ p["a"], 0) @ p["b"]) @ p["h"]) ** 2, 0)
        return mtl.value_and_task_grads(fun, stacked=False)(p)[1].gram()

    zeros = X.at[3].set(0)
    rows = rows_of(
        jax.jacrev(lambda p: jnp.mean((zeros @ p["a"] @ p["b"] @ p["h"]) ** 2, axis=0))(MODEL)
    )
    np.testing.assert_allclose(gram(MODEL), rows @ rows.T, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("way", ["taps", "rows", "features"])
def test_half_precision(way, dtype):
    """Losses and all in it, within four of its units of rounding of float64."""
    half = lambda tree: jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
    p = half(MODEL)

    def losses_of(p, x, y):
        x = mtl.mark_features(x) if way != "features" else x
        z = mtl.mark_features(x @ p["a"]) if way == "features" else x @ p["a"]
        out = jnp.tanh(jnp.tanh(z + p["bias"][None]) @ p["b"]) @ p["h"]
        return jnp.mean((out - y) ** 2, axis=0)

    @jax.jit
    def answers(p):
        losses, g = mtl.value_and_task_grads(losses_of, stacked=False, way=way)(p, *half((X, Y)))
        gram = g.gram()
        return losses, gram, g.combine(WEIGHTS)

    losses, gram, combined = answers(p)
    assert losses.dtype == dtype
    assert gram.dtype == jnp.float32
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
        exact = jax.jacrev(losses_of)(wide(p), *wide(half((X, Y))))
        rows = rows_of(exact)
        of_gram = rows
        if way == "features":
            at = lambda z: losses_of({**wide(p), "a": np.eye(36)}, z, wide(half(Y)))
            of_gram = rows_of(jax.jacrev(at)(wide(half(X)) @ wide(p["a"])))
    lengths = np.linalg.norm(of_gram, axis=1)
    unit = float(jnp.finfo(dtype).eps)
    cosines = lambda gram: np.asarray(gram, np.float64) / np.outer(lengths, lengths)
    np.testing.assert_allclose(cosines(gram), cosines(of_gram @ of_gram.T), atol=4 * unit)
    error = row_of(combined) - np.asarray(WEIGHTS, np.float64) @ rows
    assert np.linalg.norm(error) < 4 * unit * np.linalg.norm(rows, axis=1).max()


@pytest.mark.parametrize("kind", ["dense", "table"])
@pytest.mark.parametrize("own", [False, True])
def test_weights_may_leave_the_range_of_float16(kind, own):
    """Beyond 65504, where the gradient, through small inputs, lies within."""
    small, large = jnp.float16(2.0**-10), jnp.array([2.0**18, 2.0**17])
    if kind == "dense":
        p, data = jnp.ones((64, 64), jnp.float16), jnp.full((2, 1, 64), small)
        fun = lambda w, x: (x @ w)[0, 0]
    else:
        p, data = jnp.ones((64, 4), jnp.float16), jnp.zeros((2, 1), jnp.int32)
        fun = lambda w, rows: (small * w[rows])[0, 0]

    @jax.jit
    def combined(p):
        if own:
            _, g = mtl.per_task_value_and_grad(fun, stacked=False)(p, data)
        else:
            both = lambda p: jnp.stack([fun(p, data[0]), fun(p, data[0])])
            _, g = mtl.value_and_task_grads(both, stacked=False)(p)
        return g.gram(), g.combine(large)

    assert combined(p)[1][0, 0] == 2.0**8 + 2.0**7


def test_few_lookups_and_many_are_the_same():
    """Past 1024 they are sorted; twice the same batch has twice the gradient."""
    table = draw(1, 500, 6)
    tokens = jnp.asarray(np.random.default_rng(2).integers(-5, 505, 800), jnp.int16)

    @functools.partial(jax.jit, static_argnums=1)
    def gram(table, times):
        taken = lambda e: jnp.take(e, jnp.tile(tokens, times), axis=0, mode="fill", fill_value=0)
        fun = lambda e: jnp.tanh(taken(e)).sum(0)[:T]
        return mtl.value_and_task_grads(fun, stacked=False)(table)[1].gram()

    np.testing.assert_allclose(gram(table, 2), 4 * gram(table, 1), rtol=1e-5)

"""Task gradients from taps, for every way in which a model may use its parameters.

The oracle is `jax.jacrev`, whose rows are multiplied in float64 by NumPy.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl
from mtl_optax._tracing import inner_programs

T = 3
# Wider than the blocks in which gradients are made where the quick contraction is not safe.
N, WIDTH, HIDDEN = 5, 40, 36
WEIGHTS = jnp.array([0.3, 0.5, 0.2])


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


X, Y = draw(0, N, WIDTH), draw(1, N, T)
A, B = draw(2, WIDTH, HIDDEN) / 6, draw(3, HIDDEN, HIDDEN) / 6
HEAD, BIAS = draw(5, WIDTH, T) / 6, draw(6, HIDDEN) / 8
TABLE = draw(8, 300, 6)
TOKENS = jnp.asarray(np.random.default_rng(9).integers(0, 20, (N, 4)), jnp.int32)
MODEL = {"a": A, "b": B, "bias": BIAS, "h": HEAD[:HIDDEN]}
STACK = {"l": draw(7, 4, WIDTH, WIDTH) / 6, "h": HEAD}
EXPERTS = {"l": draw(7, 4, HIDDEN, HIDDEN) / 6, "a": A, "h": HEAD[:HIDDEN]}
EMBEDDING = {"e": TABLE, "h": HEAD[:6]}


class Model(NamedTuple):
    """A function of the parameters that returns losses, and which of them are to be tapped."""

    fun: Any
    params: Any
    tapped: str = ""
    tolerance: float = 3e-6


def ends(z, p):
    return jnp.mean((z @ p["h"] - Y[: len(z)]) ** 2, axis=0)


def mlp(p):
    return ends(jnp.tanh(jnp.tanh(X @ p["a"] + p["bias"][None]) @ p["b"]), p)


def as_layer(fun, p):
    """A model of one layer `fun`, behind a dense one."""
    return ends(fun(jnp.tanh(X @ p["a"]), p), p)


def layer(fun, params=None, tapped="a", **options):
    return Model(functools.partial(as_layer, fun), params or MODEL, tapped, **options)


def looked_up(take):
    """A model that takes `(N, 4, 6)` out of its table."""
    return Model(lambda p: ends(jnp.tanh(take(p["e"])).mean(1), p), EMBEDDING, "e")


# Dense layers.
def transposed(p):
    hidden = jnp.tanh(X @ p["a"].reshape(HIDDEN, WIDTH).T + p["bias"][None])
    return ends(jnp.tanh(hidden @ -p["b"].reshape(2, -1).reshape(HIDDEN, HIDDEN)), p)


def siamese(p):
    both = [jnp.tanh(x @ p["a"]) @ p["b"] for x in (X[:2], 2 * X[:2], X[1:3])]
    return ends(jnp.tanh(sum(both)), p)


def one_example_at_a_time(p):
    return ends(jax.vmap(lambda x: jnp.tanh(p["b"].T @ jnp.tanh(p["a"].T @ x)))(X), p)


def weight_norm(p):
    unit = p["b"] / jnp.linalg.norm(p["b"], axis=0, keepdims=True)
    return as_layer(lambda z, p: jnp.tanh(z @ unit), p)


def attention(p):
    tokens = jnp.stack([X, X[::-1]])
    hidden = tokens @ p["a"] + p["bias"][None, None]
    hidden -= hidden.mean(-1, keepdims=True)
    hidden = hidden / jnp.sqrt(jnp.mean(hidden**2, -1, keepdims=True) + 1e-5) * p["scale"]
    q, k, v = (jnp.einsum("bnd,dhe->bhne", hidden, p["qkv"][i]) for i in range(3))
    seen = jax.nn.softmax(jnp.einsum("bhne,bhme->bhnm", q, k) / 2) @ v
    out = tokens + jnp.einsum("bhne,hed->bnd", seen, p["o"])
    return jnp.mean((out @ p["h"] - Y[None]) ** 2, axis=(0, 1))


ATTENTION = {
    "a": A,
    "bias": BIAS,
    "scale": 1 + BIAS[None, None],
    "qkv": draw(10, 3, HIDDEN, 4, 4) / 6,
    "o": draw(11, 4, 4, WIDTH) / 4,
    "h": HEAD,
}


# Loops.
def over_time(p, **options):
    def body(hidden, x):
        hidden = jnp.tanh(x @ p["a"] + hidden @ p["b"] + p["bias"][None])
        return hidden, hidden.sum()

    hidden, sums = jax.lax.scan(body, jnp.zeros((1, HIDDEN), X.dtype), X[:, None], **options)
    return jnp.mean((hidden @ p["h"]) ** 2, axis=0) + sums.mean()


def over_layers(p, wrap=lambda body: body, **options):
    step = lambda z, w: (jnp.tanh(z @ w), None)
    return ends(jax.lax.scan(wrap(step), X, p["l"], **options)[0], p)


def over_layers_and_time(p):
    def one(z, w):
        def time(carry, x):
            carry = jnp.tanh(x @ w.T + carry)
            return carry, carry

        return jax.lax.scan(time, jnp.zeros((1, WIDTH), z.dtype), z[:, None])[1][:, 0], None

    return ends(jax.lax.scan(one, X, p["l"])[0], p)


def over_blocks_of_layers(p):
    """Scans inside scans, both over the parameter, with a view of it between."""
    block = lambda z, w: jax.lax.scan(lambda z, w: (jnp.tanh(z @ w), None), z, w.swapaxes(1, 2))
    return ends(jax.lax.scan(block, X, p["l"].reshape(2, 2, WIDTH, WIDTH))[0], p)


def inside_and_outside_a_loop(p):
    z = jax.lax.scan(lambda z, _: (jnp.tanh(z @ p["b"]), None), X @ p["a"], length=3)[0]
    return ends(jnp.tanh(z @ p["b"]), p)


def from_a_number(p):
    """A loop whose carry begins as a number of Python."""
    body = lambda total, x: (total + jnp.sum(jnp.tanh(x @ p["a"])), None)
    return jax.lax.scan(body, 0.0, X)[0] * ends(X[:, :HIDDEN], p)


def carried(p):
    body = lambda carry, _: ((jnp.tanh(carry[0] @ carry[1]), 0.5 * carry[1]), None)
    return ends(jax.lax.scan(body, (X @ p["a"], p["b"]), length=2)[0][0], p)


def carried_and_replaced(p):
    """The parameter is met in the first step alone; what follows it is data."""
    data = 0.1 * jnp.outer(X[0, :HIDDEN], X[1, :HIDDEN])
    body = lambda carry, _: ((jnp.tanh(carry[0] @ carry[1]), data), None)
    return ends(jax.lax.scan(body, (jnp.tanh(X @ p["a"]), p["b"]), length=3)[0][0], p)


def carried_and_returned(p):
    """The parameter itself comes out of the loop, as a carry and as a slice."""
    body = lambda w, row: (w.T, -row)
    w, rows = jax.lax.scan(body, p["b"], p["a"])
    return ends(jnp.tanh(jnp.tanh(X @ rows) @ w), p)


def saved(p, policy):
    def block(p):
        name = jax.ad_checkpoint.checkpoint_name
        return jnp.tanh(name(jnp.tanh(X @ p["a"] + p["bias"][None]), "hidden") @ p["b"])

    return ends(jax.checkpoint(block, policy=policy)(p), p)


# Functions with derivatives of their own, and programs that run whole.
@jax.custom_vjp
def doubled(z, w):
    return jnp.tanh(z @ w)


def backward(kept, g):
    """Twice what it should be, after a loop with a condition, which has no derivative."""
    z, w = kept
    once = jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, 2 * c[1]), (0, g))[1]
    return g @ w.T, z.T @ once


doubled.defvjp(lambda z, w: (jnp.tanh(z @ w), (z, w)), backward)


@jax.custom_jvp
def squashed(z, w):
    return z @ w


@squashed.defjvp
def _(primals, tangents):
    (z, w), (dz, dw) = primals, tangents
    return z @ w, 0.5 * (dz @ w + z @ dw)


def own_rule_around_data(p):
    """The rule closes over what is not its argument, and a dense layer stands inside another."""

    @jax.custom_vjp
    def scaled(z):
        return z * X[:, :HIDDEN]

    scaled.defvjp(lambda z: (z * X[:, :HIDDEN], None), lambda _, g: (3 * g * X[:, :HIDDEN],))
    return ends(jnp.tanh(scaled(X @ p["a"]) @ p["b"]), p)


def branches(p):
    first = lambda z: jnp.tanh(z @ p["b"])
    second = lambda z: z @ p["b"].T
    return as_layer(lambda z, p: jax.lax.cond(z.sum() > 0, first, second, z), p)


def data_in_loops(p):
    """Loops with a condition and branches that see data alone are no hindrance."""
    z = jax.lax.stop_gradient(jnp.tanh(X @ p["a"]))
    z = jax.lax.while_loop(lambda z: z.max() > 0.5, lambda z: 0.5 * z, z)
    z = jax.lax.switch(jnp.argmax(z[0]) % 2, [jnp.sin, jnp.cos], z)
    return ends(z @ p["b"], p)


def solved(p):
    square = jnp.eye(HIDDEN) + 0.1 * p["b"]
    return as_layer(lambda z, p: jnp.linalg.solve(square, z.T).T, p)


# Derivatives inside the loss.
def pinn(p):
    u = lambda x: jnp.tanh(jnp.tanh(x @ p["a"] + p["bias"]) @ p["b"]) @ p["h"]
    second = lambda x, v: jax.jvp(lambda x: jax.jvp(u, (x,), (v,))[1], (x,), (v,))[1]
    v = jnp.eye(WIDTH, dtype=X.dtype)[0]
    return jnp.mean(jax.vmap(lambda x: second(x, v) + u(x))(X) ** 2, axis=0)


def gradient_penalty(p):
    slope = jax.grad(lambda x: jnp.sum(jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"])))(X)
    return mlp(p) + jnp.mean(slope**2)


# Tables.
def several_lookups(p):
    own = jnp.take(p["e"], TOKENS[:, 0] + 3, axis=0, mode="clip")
    return ends(jnp.tanh(p["e"][TOKENS]).mean(1) * jnp.sin(own) + p["e"][7][None], p)


def three_lookups(p):
    e = p["e"]
    return ends(jnp.tanh(e[TOKENS]).mean(1) * jnp.sin(e[TOKENS[:, 0] + 3]) + e[TOKENS[::-1, 1]], p)


def many_small_integers(p):
    tokens = jnp.tile(TOKENS, (1, 70)).astype(jnp.uint8)
    return ends(jnp.sin(p["e"].at[tokens].get(mode="clip")).mean(1), p)


def tied(p):
    z = jnp.tanh(p["e"][TOKENS]).mean(1)
    return jnp.mean((z @ p["e"].T)[:, :T] ** 2, axis=0) + ends(z, p)


def tokens_in_a_loop(p):
    def body(z, tokens):
        return jnp.tanh(z + p["e"][tokens] @ p["u"]), None

    z = jax.lax.scan(body, jnp.zeros((N, 6), jnp.float32), TOKENS.T)[0]
    return ends(z, p)


def convolved(p):
    image = jnp.reshape(X[:, :16], (N, 4, 4, 1))
    out = jax.lax.conv_general_dilated(
        image, p["c"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    pooled = jax.lax.reduce_window(out, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return ends(jnp.tanh(pooled.reshape(N, -1) @ p["a"]), p)


def rounded(p):
    """Half precision inside, parameters in full."""
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), p)
    z = jnp.tanh(jnp.tanh(X.astype(jnp.bfloat16) @ half["a"] + half["bias"][None]) @ half["b"])
    return jnp.mean(((z @ half["h"]).astype(jnp.float32) - Y) ** 2, axis=0)


def complex_layer(p):
    z = jnp.tanh(X @ p["a"])
    z = jax.lax.complex(z, jnp.zeros_like(z)) @ p["z"]
    return ends(jnp.real(z) * jnp.imag(z) + jnp.abs(z), p)


def mixed_dtypes(p):
    """A product whose result is wider than its operands, and one of two dtypes."""
    half = X.astype(jnp.bfloat16)
    wide = jnp.dot(half, p["a"].astype(jnp.bfloat16), preferred_element_type=jnp.float32)
    return ends(jnp.tanh(jax.lax.dot(jnp.tanh(wide).astype(jnp.bfloat16), p["b"])), p)


LOW_RANK = {"u": draw(12, HIDDEN, 2), "v": draw(13, 2, HIDDEN), **MODEL}
MODELS = {
    "dense": Model(mlp, MODEL, "ab"),
    "dense under jit": Model(jax.jit(mlp), MODEL, "ab"),
    "transposed and reshaped": Model(transposed, MODEL, "ab"),
    "several rows": Model(siamese, MODEL, "ab"),
    "matrix times vector": Model(one_example_at_a_time, MODEL, "ab"),
    "two layouts": layer(lambda z, p: jnp.tanh(z @ p["b"] @ p["b"].T)),
    "penalty in the loss": Model(lambda p: mlp(p) + 0.1 * jnp.sum(p["a"] ** 2), MODEL, "b"),
    "constant at one use": layer(
        lambda z, p: z @ jax.lax.stop_gradient(p["b"]) @ p["b"], tapped="ab"
    ),
    "weight norm": Model(weight_norm, MODEL, "a"),
    "product of parameters": layer(lambda z, p: z @ (p["b"] + p["u"] @ p["v"]), LOW_RANK),
    "one factor after the other": layer(lambda z, p: z @ p["u"] @ p["v"], LOW_RANK, "a"),
    "experts": layer(
        lambda z, p: jnp.tanh(jnp.einsum("ni,eij->enj", z, p["l"])).sum(0), EXPERTS, "al"
    ),
    "experts with rows of their own": layer(
        lambda z, p: jnp.tanh(jnp.einsum("eni,eij->enj", jnp.stack([z, z, 2 * z, z]), p["l"])).sum(
            0
        ),
        EXPERTS,
        "al",
    ),
    "layers by slices": Model(
        lambda p: ends(functools.reduce(lambda z, w: jnp.tanh(z @ w), p["l"], X), p), STACK
    ),
    "attention": Model(attention, ATTENTION, "ao"),
    "over time": Model(over_time, MODEL, "ab"),
    "back in time": Model(functools.partial(over_time, reverse=True, unroll=2), MODEL, "ab"),
    "over layers": Model(over_layers, STACK, "l"),
    "over layers backwards": Model(functools.partial(over_layers, reverse=True), STACK, "l"),
    "over layers, recomputed": Model(
        functools.partial(over_layers, wrap=jax.checkpoint), STACK, "l"
    ),
    "over layers and time": Model(over_layers_and_time, STACK, "l"),
    "over blocks of layers": Model(over_blocks_of_layers, STACK, "l"),
    "inside and outside a loop": Model(inside_and_outside_a_loop, MODEL, "ab"),
    "a loop of no steps": layer(
        lambda z, p: jax.lax.scan(lambda z, _: (z @ p["b"], None), z, length=0)[0],
        tapped="ab",
    ),
    "from a number": Model(from_a_number, MODEL, "a"),
    "carried": Model(carried, MODEL, "a"),
    "carried and replaced": Model(carried_and_replaced, MODEL, "a"),
    "carried and returned": Model(carried_and_returned, MODEL, ""),
    "counted loop": layer(
        lambda z, p: jax.lax.fori_loop(0, 3, lambda _, z: jnp.tanh(z @ p["b"]), z), tapped="ab"
    ),
    "recomputed": Model(functools.partial(saved, policy=None), MODEL, "ab"),
    "recomputed by a policy": Model(
        functools.partial(saved, policy=jax.checkpoint_policies.save_only_these_names("hidden")),
        MODEL,
        "ab",
    ),
    "a backward pass of its own": layer(lambda z, p: doubled(z, p["b"])),
    "a tangent of its own": layer(lambda z, p: squashed(z, p["b"])),
    "a rule around data": Model(own_rule_around_data, MODEL, "ab"),
    "branches": Model(branches, MODEL, "a"),
    "data in loops": Model(data_in_loops, MODEL, "ab"),
    "solved": Model(solved, MODEL, "a"),
    "second derivatives": Model(pinn, MODEL, "ab", tolerance=1e-5),
    "gradient penalty": Model(gradient_penalty, MODEL, ""),
    "table": looked_up(lambda e: e[TOKENS]),
    "table, from the end": looked_up(lambda e: e[TOKENS - 10]),
    "table, clipped": looked_up(lambda e: jnp.take(e, TOKENS + 290, axis=0, mode="clip")),
    "table, filled": looked_up(
        lambda e: jnp.take(e, TOKENS + 290, axis=0, mode="fill", fill_value=0.5)
    ),
    "table, small integers": looked_up(
        lambda e: e.at[(TOKENS * 12).astype(jnp.uint8)].get(mode="promise_in_bounds")
    ),
    "table, many lookups": Model(
        lambda p: ends(jnp.sin(p["e"][jnp.tile(TOKENS, (1, 70))]).mean(1), p),
        {"e": draw(8, 1000, 6), "h": HEAD[:6]},
        "e",
    ),
    "table, many small integers": Model(many_small_integers, {"e": draw(8, 250, 6), "h": HEAD[:6]}),
    "table, by columns": looked_up(lambda e: jnp.moveaxis(e.T[:, TOKENS], 0, -1))._replace(
        tapped=""
    ),
    "table of heads": looked_up(lambda e: e.reshape(300, 2, 3)[TOKENS].reshape(N, 4, 6)),
    "table, several lookups": Model(three_lookups, EMBEDDING, "e"),
    "table, and one of its rows": Model(several_lookups, EMBEDDING),
    "tied table": Model(tied, EMBEDDING),
    "table in a loop": Model(tokens_in_a_loop, {"u": draw(14, 6, 6), **EMBEDDING}, "e"),
    "table, entry by entry": looked_up(
        lambda e: jnp.take_along_axis(e, jnp.tile(TOKENS[:, :1], 6), 0)[:, None]
    )._replace(tapped=""),
    "convolutions": Model(convolved, {"c": draw(15, 3, 3, 1, 10), **MODEL}, "a"),
    "bfloat16 inside": Model(rounded, MODEL, "ab", tolerance=1e-2),
    "mixed dtypes": Model(mixed_dtypes, MODEL, "ab", tolerance=1e-2),
    "complex": Model(complex_layer, {"z": jax.lax.complex(B, B.T), **MODEL}, "a"),
    "complex and small": Model(
        lambda p: 1e-22 * complex_layer(p), {"z": jax.lax.complex(B, B.T), **MODEL}, "a"
    ),
    "small": Model(lambda p: 1e-22 * mlp(p), MODEL, "ab"),
    "far apart": Model(lambda p: mlp(p) * jnp.array([1.0, 1e-18, 1e15]), MODEL, "ab"),
    "zero": Model(lambda p: mlp(p) * jnp.array([1.0, 0.0, 1.0]), MODEL, "ab"),
    "losses that are parameters": Model(
        lambda p: 0 * (X[:, :T] @ p["l"])[:T] + p["l"], {"l": BIAS[:T]}
    ),
    "loss is a parameter": Model(lambda p: p["l"], {"l": BIAS[:T]}),
    "unused": Model(mlp, {"other": BIAS[:7], **MODEL}, "ab"),
}


def rows_of(tree):
    """Leaves `(T, ...)` as one matrix in float64, complex numbers as two real ones."""
    parts = []
    for leaf in jax.tree.leaves(tree):
        leaf = np.asarray(leaf)
        leaf = leaf.reshape(len(leaf), -1)
        if np.iscomplexobj(leaf):
            leaf = np.concatenate([leaf.real, leaf.imag], axis=1)
        parts.append(leaf.astype(np.float64))
    return np.concatenate(parts, axis=1)


def row_of(tree):
    return rows_of(jax.tree.map(lambda leaf: np.asarray(leaf)[None], tree))[0]


def gathered(fun, params):
    """Traces what an object answers to what methods ask."""

    def asked(params):
        losses, gradients = mtl.value_and_task_grads(fun, stacked=False)(params)
        by_a_pass = gradients.combine(WEIGHTS)
        gram = gradients.gram()
        return losses, gram, by_a_pass, gradients.combine(WEIGHTS)

    program, shapes = jax.make_jaxpr(asked, return_shape=True)(params)
    run = jax.extend.core.jaxpr_as_fun(program)
    structure = jax.tree.structure(shapes)
    return program.jaxpr, lambda params: structure.unflatten(run(*jax.tree.leaves(params)))


def jacobian(fun):
    """`jax.jacrev`, which refuses functions of complex numbers."""

    def of(params):
        losses, pullback = jax.vjp(fun, params)
        rows = jnp.eye(len(losses), dtype=losses.dtype)
        return losses, jax.vmap(lambda row: pullback(row)[0])(rows)

    return of


def sizes(jaxpr):
    """The sizes of all arrays of a program."""
    for eqn in jaxpr.eqns:
        yield from (var.aval.size for var in eqn.outvars if hasattr(var.aval, "size"))
        for inner in inner_programs(eqn.params.values()):
            yield from sizes(inner)


@pytest.mark.parametrize("name", MODELS)
def test_every_use_of_a_parameter(name):
    """What is computed, and the parameters of which no task gradients are made for it."""
    model = MODELS[name]
    program, run = gathered(model.fun, model.params)
    both = jax.jit(lambda params: (run(params), jacobian(model.fun)(params)))
    (losses, gram, *sums), (wanted_losses, wanted_rows) = both(model.params)
    np.testing.assert_allclose(losses, wanted_losses, rtol=max(1e-5, model.tolerance))
    rows = rows_of(wanted_rows)
    lengths = np.linalg.norm(rows, axis=1)
    # By the cosines, so that no task hides behind a larger one.
    units = np.outer(lengths, lengths)
    held = units > 1e-30
    cosines = np.divide(gram, units, where=held, out=np.zeros((T, T)))
    wanted = np.divide(rows @ rows.T, units, where=held, out=np.zeros((T, T)))
    np.testing.assert_allclose(cosines, wanted, atol=model.tolerance)
    for total in sums:
        error = row_of(total) - np.asarray(WEIGHTS, np.float64) @ rows
        assert np.linalg.norm(error) <= model.tolerance * (WEIGHTS @ lengths)
    made = set(sizes(program))
    whole = {key for key, leaf in model.params.items() if T * leaf.size in made}
    assert set(model.params) - whole - {"h"} == set(model.tapped)

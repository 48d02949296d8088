"""The object of task gradients: what it answers, what takes it, and what says that it cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState

import mtl_optax as mtl
from tests.common import METHODS, make
from tests.task_gradients.test_taps import (
    BIAS,
    MODEL,
    WEIGHTS,
    A,
    T,
    X,
    Y,
    draw,
    mlp,
    row_of,
    rows_of,
)

PARAMS = {"trunk": {"a": A, "bias": BIAS}, "b": MODEL["b"], "h": MODEL["h"]}
MASK = jnp.array([True, False, True])
WAYS = ("taps", "rows", "features")


def losses_of(p, x=X, y=Y):
    z = mtl.mark_features(jnp.tanh(x @ p["trunk"]["a"] + p["trunk"]["bias"][None]))
    return jnp.mean((jnp.tanh(z @ p["b"]) @ p["h"] - y) ** 2, axis=0)


def gather(way, fun=losses_of, **options):
    return mtl.value_and_task_grads(fun, stacked=False, way=way, **options)


def close(got, wanted, rtol=2e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, wanted)


@pytest.mark.parametrize("way", ["taps", "rows"])
@pytest.mark.parametrize("compiled", [False, True])
def test_all_that_it_answers(way, compiled):
    coefficients = jnp.stack([WEIGHTS, 1 - WEIGHTS])

    def answers(p):
        losses, g = gather(way)(p)
        trunk, rest = g.split(["trunk", "b"])
        return {
            "losses": (losses, g.losses),
            "combine": (g.combine(WEIGHTS), mtl.combine(WEIGHTS, g)),
            "gram": (g.gram(), mtl.gram(g)),
            "masked gram": g.gram(MASK),
            "norms": (g.norms(), g.norms(MASK), g.norms(leaves="trunk")),
            "mix": (g.mix(coefficients), mtl.combine(coefficients, g)),
            "split": (trunk.gram(), trunk.norms(MASK), trunk.combine(WEIGHTS), rest),
            "stack": g.stack(),
        }

    found = (jax.jit(answers) if compiled else answers)(PARAMS)
    wanted = jax.jit(jax.jacrev(losses_of))(PARAMS)
    rows = rows_of(wanted)
    trunk_rows = rows_of((wanted["b"], wanted["trunk"]))
    lengths = np.linalg.norm(rows, axis=1)
    close(found["losses"], (losses_of(PARAMS),) * 2)
    close(found["stack"], wanted)
    close(found["gram"], (rows @ rows.T,) * 2)
    close(found["masked gram"], np.where(np.outer(MASK, MASK), rows @ rows.T, 0))
    trunk = np.linalg.norm(rows_of(wanted["trunk"]), axis=1)
    close(found["norms"], (lengths, np.where(MASK, lengths, 0), trunk))
    for total in found["combine"]:
        close(row_of(total), np.asarray(WEIGHTS) @ rows)
    for mixed in found["mix"]:
        close(rows_of(mixed), np.asarray(coefficients) @ rows)
    gram, norms, combined, heads = found["split"]
    close(gram, trunk_rows @ trunk_rows.T)
    close(norms, np.where(MASK, np.linalg.norm(trunk_rows, axis=1), 0))
    close(row_of((combined["b"], combined["trunk"])), np.asarray(WEIGHTS) @ trunk_rows)
    close(heads["h"], wanted["h"].sum(0))


def test_at_the_features():
    """The Gram matrix is that of the features; what is combined are the parameters' gradients."""
    at_features = lambda z: jnp.mean((jnp.tanh(z @ PARAMS["b"]) @ PARAMS["h"] - Y) ** 2, axis=0)
    z = jnp.tanh(X @ PARAMS["trunk"]["a"] + PARAMS["trunk"]["bias"][None])
    rows = rows_of(jax.jacrev(at_features)(z))

    @jax.jit
    def answers(p):
        _, g = gather("features")(p)
        return g.gram(), g.norms(MASK), g.combine(WEIGHTS)

    gram, norms, combined = answers(PARAMS)
    close(gram, rows @ rows.T)
    close(norms, np.where(MASK, np.linalg.norm(rows, axis=1), 0))
    close(combined, jax.grad(lambda p: WEIGHTS @ losses_of(p))(PARAMS))


def test_marks_in_loops_and_of_several_arrays():
    def fun(p):
        body = lambda z, x: (mtl.mark_features(jnp.tanh(z + x @ p["trunk"]["a"])), None)
        z = jax.lax.scan(jax.checkpoint(body), p["trunk"]["bias"], X)[0]
        return mtl.mark_features({"z": z})["z"] @ p["h"]

    @jax.jit
    def gram(p):
        return gather("features", fun)(p)[1].gram()

    # The cotangents of both marks of the last step are rows of h; those before pass through tanh.
    z, steps = PARAMS["trunk"]["bias"], []
    for x in X:
        z = jnp.tanh(z + x @ PARAMS["trunk"]["a"])
        steps.append(z)
    cotangent, rows = np.asarray(PARAMS["h"], np.float64).T, []
    for z in reversed(steps):
        rows.append(cotangent)
        cotangent = cotangent * (1 - np.asarray(z, np.float64) ** 2)
    rows = np.concatenate([rows[0], *rows], axis=1)
    close(gram(PARAMS), rows @ rows.T)


SHARED = {"trunk": True, "b": True, "h": False}
HEADS = {"h": jnp.arange(T)}


def transformations():
    yield "chain", optax.chain(mtl.mgda(T), optax.adam(1e-2)), None
    yield (
        "injected",
        optax.inject_hyperparams(mtl.cagrad, static_args=("num_tasks",))(T, c=0.4),
        None,
    )
    yield "every row", optax.chain(mtl.pcgrad(T, combine=False), mtl.sum_tasks(T)), None
    yield "by task", optax.chain(mtl.per_task(T, optax.adam(1e-2, eps=1.0)), mtl.sum_tasks(T)), None
    yield "rows of a method", optax.chain(mtl.mgda(T, combine=False), mtl.sum_tasks(T)), None
    yield "guarded", mtl.skip_nonfinite(optax.chain(mtl.imtl_g(T), optax.sgd(0.1))), None
    yield "guarded steps", mtl.skip_nonfinite(mtl.uw(T), policy="skip_step"), None
    yield "micro-batches", mtl.accumulate_task_gradients(T, 2, then=mtl.mgda(T)), None
    yield "tracked", optax.chain(mtl.track_conflict(T), mtl.track_dominance(T), mtl.mgda(T)), None
    yield "split step", optax.chain(mtl.split_step(T, optax.sgd(0.1)), mtl.sum_tasks(T)), None
    yield "shared", mtl.on_shared(mtl.mgda(T), SHARED), SHARED
    yield "shared, found later", mtl.on_shared(mtl.gradnorm(T, norm_mask="trunk/a"), SHARED), None
    yield "guarded, found later", mtl.skip_nonfinite(mtl.on_shared(mtl.mgda(T), SHARED)), None
    yield "heads by losses", mtl.on_shared(mtl.uw(T), SHARED), SHARED
    yield (
        "heads of their own",
        mtl.on_shared(mtl.adatask(T, optax.sgd(0.1)), SHARED, heads=optax.sgd(0.1)),
        SHARED,
    )
    yield "guarded outside", mtl.skip_nonfinite(mtl.on_shared(mtl.mgda(T), SHARED)), SHARED
    yield (
        "micro-batches of shared",
        mtl.accumulate_task_gradients(T, 1, then=mtl.on_shared(mtl.mgda(T), SHARED), shared=SHARED),
        SHARED,
    )


ROUTES = {name: (tx, shared) for name, tx, shared in transformations()}
WITH_HEADS = {name for name, (_, shared) in ROUTES.items() if shared or "found later" in name}
WITH_HEADS -= {"micro-batches of shared"}  # It sums the heads of all, and says so.


@pytest.mark.parametrize("name", ROUTES)
def test_it_goes_through(name):
    """Two steps, a task absent from the second, as with the stacked tree."""
    tx, shared = ROUTES[name]

    @jax.jit
    def steps(p):
        losses, g = gather("taps", shared=shared)(p)
        stacked = g.stack()
        if "found later" in name:
            stacked = {**stacked, "h": g.combine(jnp.ones(T))["h"]}
        results = []
        for given in (g, stacked):
            state = tx.init(p)
            first, state = tx.update(given, state, p, task_losses=losses)
            if given is stacked and name in WITH_HEADS:
                # A head's own gradient is that of the tasks that are present.
                given = {**given, "h": jnp.tensordot(MASK * 1.0, jax.jacrev(losses_of)(p)["h"], 1)}
            results.append((first, tx.update(given, state, p, task_losses=losses, task_mask=MASK)))
        return results

    got, wanted = steps(PARAMS)
    close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_it(name):
    tx = make(name, T, **({"optimizer": optax.sgd(0.1)} if name == "adatask" else {}))

    @jax.jit
    def both(p):
        _, g = gather("taps")(p)
        _, query = gather("taps", lambda p: losses_of(p, X[::-1]))(p)
        state, results = tx.init(p), []
        for given, asked in ((g, query), (g.stack(), query.stack())):
            read = {
                "task_losses": None if given is g else g.losses,  # The object has them.
                "query_gradients": asked,
                "second_query_gradients": asked,
                "next_losses": g.losses,
            }
            results.append(tx.update(given, state, p, **read))
        return results

    got, wanted = both(PARAMS)
    # A solver's count of pivots or rounds may change with the last digit.
    counts = lambda tree: jax.tree.map(lambda x: x * (x.dtype != jnp.int32), tree)
    close(*map(counts, (got, wanted)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_optimizers_of_flax(way):
    """Of NNX and of Linen: the same model, the same step."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.Linear(40, 36, rngs=rngs)
            self.norm = nnx.BatchNorm(36, rngs=rngs)
            self.h = nnx.Linear(36, T, rngs=rngs)

        def __call__(self, x):
            return self.h(mtl.mark_features(jnp.tanh(self.norm(self.a(x)))))

    loss_of = lambda model, x, y: jnp.mean((model(x) - y) ** 2, axis=0)
    tx = optax.chain(mtl.mgda(T), optax.sgd(0.1))

    def trained(**options):
        model = Net(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer, x, y):
            losses, g = mtl.nnx_value_and_task_grads(loss_of, **options)(model, x, y)
            optimizer.update(model, g, task_losses=losses)
            return losses

        losses = step(model, optimizer, X, Y)
        return losses, nnx.state(model), mtl.task_weights(optimizer.opt_state)

    got, wanted = trained(stacked=False, way=way), trained()
    close(got[0], wanted[0])
    if way != "features":  # Those have a Gram matrix of their own.
        close(jax.tree.leaves(got[1]), jax.tree.leaves(wanted[1]))
        close(got[2], wanted[2])

    net = linen.Dense(T)
    state = TrainState.create(apply_fn=net.apply, params=net.init(jax.random.key(0), X), tx=tx)
    fun = lambda p: jnp.mean((net.apply(p, mtl.mark_features(X)) - Y) ** 2, axis=0)

    @jax.jit
    def both(state):
        g = gather(way, fun)(state.params)[1]
        return state.apply_gradients(grads=g), state.apply_gradients(grads=g.stack())

    got, wanted = both(state)
    assert got.step == 1
    if way != "features":
        close(got.params, wanted.params)


def test_auxiliary_outputs():
    def fun(p, x, plain, mode="a", *, scale):
        assert plain is True
        assert mode == "a"
        return scale * losses_of(p, x), {"mean": x.mean(), "p": p["b"], "mode": mode, "n": 8}

    for way in WAYS:
        found = {}

        @jax.jit
        def step(x, p, way=way, found=found):
            flipped = lambda x, p, *rest, **named: fun(p, x, *rest, **named)
            graded = gather(way, flipped, argnums=1, has_aux=True)
            (losses, aux), g = graded(x, p, True, scale=2.0)
            found["mode"], found["n"] = aux.pop("mode"), aux.pop("n")
            return losses, aux, g.combine(WEIGHTS)

        losses, aux, combined = step(X, PARAMS)
        assert found == {"mode": "a", "n": 8}
        close(losses, 2 * losses_of(PARAMS))
        close(aux, {"mean": X.mean(), "p": PARAMS["b"]})
        close(combined, jax.grad(lambda p: 2 * WEIGHTS @ losses_of(p))(PARAMS))


def test_several_arguments():
    fun = lambda a, x, rest: losses_of({"trunk": {"a": a, "bias": BIAS}, **rest}, x)
    rest = {"b": PARAMS["b"], "h": PARAMS["h"]}

    @jax.jit
    def step(a, rest):
        _, g = gather("taps", fun, argnums=(0, -1), shared=["0", "1/b"])(a, X, rest)
        return g.gram(), g.combine(WEIGHTS)

    gram, (a, combined) = step(A, rest)
    rows = jax.jacrev(fun, (0, 2))(A, X, rest)
    close(gram, rows_of((rows[0], rows[1]["b"])) @ rows_of((rows[0], rows[1]["b"])).T)
    close(a, jnp.tensordot(WEIGHTS, rows[0], 1))
    close(combined["h"], rows[1]["h"].sum(0))


@pytest.mark.parametrize("num_tasks", [1, 40])
def test_one_task_and_many(num_tasks):
    p = {**PARAMS, "h": draw(20, 36, num_tasks) / 6}
    fun = lambda p: losses_of(p, X, draw(21, len(X), num_tasks))

    @jax.jit
    def both(p):
        _, g = gather("taps", fun)(p)
        tx = mtl.mgda(num_tasks)
        return g.gram(), tx.update(g, tx.init(p), p)[1].weights, jax.jacrev(fun)(p)

    gram, weights, rows = both(p)
    rows = rows_of(rows)
    close(gram, rows @ rows.T, rtol=1e-4, atol=1e-5)
    assert abs(weights.sum() - 1) < 1e-5


def own_loss(p, x, y):
    z = jnp.tanh(x @ p["trunk"]["a"] + p["trunk"]["bias"][None])
    return jnp.mean((jnp.tanh(z @ p["b"]) @ p["h"] - y) ** 2), {"mean": z.mean()}


OWN = {**PARAMS, "h": PARAMS["h"].T}
BATCHES = draw(22, T, 2, 40), draw(23, T, 2)


@pytest.mark.parametrize("way", ["taps", "rows"])
def test_a_batch_for_each_task(way):
    tx = mtl.on_shared(mtl.mgda(T), SHARED)

    @jax.jit
    def results(batches):
        found = []
        for options in ({"stacked": False, "way": way}, {}):
            graded = mtl.per_task_value_and_grad(own_loss, has_aux=True, shared=SHARED, **options)
            (losses, aux), g = graded(OWN, *batches)
            stack = g.stack() if options else g
            found.append((losses, aux, stack, tx.update(g, tx.init(OWN), OWN)))
        return found

    close(*results(BATCHES), atol=1e-5)


@pytest.mark.nans
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_task_whose_batch_is_not_finite_is_kept_out(bad):
    """By a mask, and by the guard; infinite inputs have losses and cotangents that are finite."""
    tx = mtl.on_shared(mtl.mgda(T), SHARED)
    guarded = mtl.skip_nonfinite(tx)

    @jax.jit
    def results(batches):
        found = []
        for options in ({"stacked": False}, {}):
            graded = mtl.per_task_value_and_grad(own_loss, has_aux=True, shared=SHARED, **options)
            (losses, _), g = graded(OWN, *batches)
            update, state = tx.update(g, tx.init(OWN), OWN, task_mask=MASK)
            dropped = guarded.update(g, guarded.init(OWN), OWN, task_losses=losses)
            heads = [u["h"][np.array(MASK)] for u in (update, dropped[0])]
            kept = dropped[0]["trunk"], dropped[1].dropped, dropped[1].skipped
            found.append((update["trunk"], heads, state, kept))
        return found

    got, wanted = results((BATCHES[0].at[1, 0, 0].set(bad), BATCHES[1]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(wanted))
    close(got, wanted, atol=1e-5)


def test_small_tables_of_each_task():
    """Lookups of each task's own, of a table that all share."""
    tokens = jnp.asarray(np.random.default_rng(24).integers(0, 50, (T, 6)))
    p = {"e": draw(25, 300, 6), "h": draw(26, 6)}

    def fun(p, tokens):
        return jnp.tanh(jnp.tanh(p["e"][tokens]).mean(0) @ p["h"])

    @jax.jit
    def both(p, tokens):
        _, g = mtl.per_task_value_and_grad(fun, stacked=False)(p, tokens)
        return (
            g.gram(),
            g.combine(WEIGHTS),
            g.stack(),
            jax.vmap(jax.grad(fun), (None, 0))(p, tokens),
        )

    gram, combined, stack, rows = both(p, tokens)
    close(stack, rows)
    close(gram, rows_of(rows) @ rows_of(rows).T)
    close(row_of(combined), np.asarray(WEIGHTS) @ rows_of(rows))


def told(error):
    """All that a traceback shows."""
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return " ".join(texts)


NO_ARRAY = ".stack()"  # What to do, in the error or in how it shows the object.
MISTAKES = {
    "other number of tasks": (
        lambda g: mtl.mgda(T + 1).update(g, None),
        "of 3 tasks, wanted num_tasks=4",
    ),
    "other parameters": (
        lambda g: mtl.mgda(T).update(g, None, {**PARAMS, "b": A}),
        r"task_gradients['b'] was gathered for a parameter of shape (36, 36)",
    ),
    "other tree": (
        lambda g: mtl.mgda(T).update(g, None, {"trunk": PARAMS["trunk"]}),
        "same tree structure",
    ),
    "clipped": (lambda g: optax.clip(1.0).update(g, None), NO_ARRAY),
    "clipped by norm": (lambda g: optax.clip_by_global_norm(1.0).update(g, None), NO_ARRAY),
    "micro-batches of optax": (
        lambda g: optax.MultiSteps(mtl.mgda(T), 2).update(
            g, optax.MultiSteps(mtl.mgda(T), 2).init(PARAMS), PARAMS
        ),
        NO_ARRAY,
    ),
    "guard of optax": (
        lambda g: optax.apply_if_finite(mtl.mgda(T), 3).update(
            g, optax.apply_if_finite(mtl.mgda(T), 3).init(PARAMS), PARAMS
        ),
        NO_ARRAY,
    ),
    "scaled": (lambda g: jax.tree.map(lambda leaf: 2.0 * leaf, g), NO_ARRAY),
    "an attribute of arrays": (lambda g: g.astype(jnp.float32), NO_ARRAY),
    "as an array": (lambda g: jnp.asarray(g), NO_ARRAY),
    "mask": (lambda g: g.gram(jnp.ones(2, bool)), "mask has shape (2,), wanted (3,)"),
    "mask of numbers": (lambda g: g.norms(jnp.ones(T)), "mask must be a boolean array"),
    "weights": (lambda g: g.combine(jnp.ones(2)), "weights has shape (2,), wanted (3,)"),
    "leaves": (lambda g: g.norms(leaves="trnk"), "Did you mean 'trunk'"),
    "extra argument": (
        lambda g: mtl.mgda(T).update(g, None, mask=MASK),
        "Did you mean 'task_mask'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_with_it_are_named(name):
    wrong, message = MISTAKES[name]

    def step(p):
        wrong(gather("taps")(p)[1])

    with pytest.raises((ValueError, TypeError, AttributeError)) as caught:
        jax.eval_shape(step, PARAMS)
    assert message in told(caught.value)


def test_mistakes_are_named():
    trace = lambda fun: jax.eval_shape(fun, PARAMS)
    with pytest.raises(ValueError, match="hold gradients of heads.*on_shared"):
        trace(lambda p: mtl.mgda(T).update(gather("taps", shared=SHARED)(p)[1], None) and 0)
    with pytest.raises(ValueError, match="Give both the same"):
        trace(lambda p: gather("taps", shared=SHARED)(p)[1].split("trunk") and 0)
    with pytest.raises(TypeError, match="TaskGradients.*not a valid JAX type"):
        trace(lambda p: gather("taps")(p)[1])
    with pytest.raises(ValueError, match="way must be one of .*Did you mean 'taps'"):
        gather("tap")
    with pytest.raises(ValueError, match="way='rows' needs stacked=False"):
        mtl.value_and_task_grads(losses_of, way="rows")
    with pytest.raises(TypeError, match="stacked must be True or False"):
        mtl.value_and_task_grads(losses_of, stacked="no")
    with pytest.raises(ValueError, match=r"mark_features\(z\) inside the function"):
        trace(lambda p: gather("features", lambda q: mlp({**MODEL, "b": q["b"]}))(p) and 0)
    inside = lambda p: jax.lax.cond(True, lambda: losses_of(p), lambda: 2 * losses_of(p))
    with pytest.raises(ValueError, match="mark_features stands inside 'cond'"):
        trace(lambda p: gather("features", inside)(p) and 0)
    with pytest.raises(
        ValueError, match="per_task_value_and_grad: way must be one of 'taps', 'rows'"
    ):
        mtl.per_task_value_and_grad(own_loss, stacked=False, way="features")
    with pytest.raises(TypeError, match="mark_features: features must have a floating dtype"):
        mtl.mark_features(jnp.arange(3))
    with pytest.raises(TypeError, match="gradients need floating or complex parameters"):
        trace(lambda p: gather("taps")({**p, "n": 3}) and 0)
    with pytest.raises(ValueError, match="one loss per task"):
        trace(lambda p: gather("taps", lambda q: losses_of(q).sum())(p) and 0)


@jax.custom_vjp
def in_rounds(h):
    return jnp.tanh(h)


def in_rounds_back(h, cotangent):
    # JAX has no transpose of a loop with a condition.
    halve = lambda carry: (carry[0] - 1, carry[1] / 2)
    _, found = jax.lax.while_loop(lambda carry: carry[0] > 0, halve, (3, 8 * cotangent))
    return (found * (1 - jnp.tanh(h) ** 2),)


in_rounds.defvjp(lambda h: (jnp.tanh(h), h), in_rounds_back)


@pytest.mark.parametrize("compiled", [True, False])
def test_rows_where_a_backward_pass_has_no_transpose(compiled):
    x = jax.random.normal(jax.random.key(0), (6, 4))
    p = jax.random.normal(jax.random.key(1), (4, 3))

    def answers(p):
        losses_of = lambda p: jnp.mean(in_rounds(x @ p) ** 2, axis=0) + jnp.sum(p**3) / 10
        _, g = mtl.value_and_task_grads(losses_of, stacked=False, way="rows")(p)
        return g.gram(), g.norms(), g.combine(jnp.arange(3.0))

    gram, norms, combined = (jax.jit(answers) if compiled else answers)(p)
    h, (a, b) = np.tanh(np.float64(x) @ np.float64(p)), p.shape
    rows = np.zeros((b, a, b))
    for t in range(b):  # The derivative of each mean by hand, and of the cubes.
        rows[t, :, t] = np.float64(x).T @ (2 * h * (1 - h**2) / len(x))[:, t]
        rows[t] += 0.3 * np.float64(p) ** 2
    np.testing.assert_allclose(gram, np.einsum("sab,tab->st", rows, rows), rtol=1e-5)
    np.testing.assert_allclose(norms, np.linalg.norm(rows.reshape(b, -1), axis=1), rtol=1e-5)
    np.testing.assert_allclose(combined, np.tensordot(np.arange(b), rows, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.nans
@pytest.mark.parametrize(("way", "compiled"), [("rows", True), ("taps", False)])
def test_what_is_not_finite_is_told_in_every_way(way, compiled):
    """The gradient of one task leaves the dtype, and its loss does not."""
    large = jnp.asarray(1e30, jnp.float32)

    def told(p, large):
        losses_of = lambda p: jnp.stack([p[0], (p[1] * large - large) * large, p[2]])
        return mtl.value_and_task_grads(losses_of, stacked=False, way=way)(p)[1].finite()

    found = (jax.jit(told) if compiled else told)(jnp.ones(3, jnp.float32), large)
    np.testing.assert_array_equal(found, [True, False, True])

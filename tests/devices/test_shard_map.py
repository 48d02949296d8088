"""Every public callable inside `jax.shard_map`, with its checks of what differs between devices.

The types are those of any mesh on a mesh of one device, and are checked while tracing. The numbers
are checked on eight devices, by `test_devices`.
"""

import inspect
from typing import get_args

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

import mtl_optax as mtl
from mtl_optax._task_gradients import passes
from mtl_optax._tracing import varying_axes, varying_like
from mtl_optax.adversarial import Gate
from tests.common import METHODS, inputs, make, one_step, step
from tests.task_gradients.test_stacked import SHARED, T, batch, losses_of, params, task_batches
from tests.task_gradients.test_ways import marked_losses_of

P = PartitionSpec
MESH = jax.make_mesh((1,), ("devices",), axis_types=(AxisType.Auto,))


def trace(fun, *varying, replicated=False):
    """Traces `fun` of arguments that differ between devices, or of arguments that do not.

    What it makes of the latter must not differ either: that is part of the check.
    """

    def on_one_device(*arguments):
        if replicated:
            return fun(*arguments)
        results = fun(*jax.tree.map(lambda x: x[0], arguments))
        return jax.tree.map(lambda x: jnp.expand_dims(x, 0), results)

    spec = P() if replicated else P("devices")
    given = varying if replicated else jax.tree.map(lambda x: jnp.asarray(x)[None], varying)
    mapped = jax.shard_map(on_one_device, mesh=MESH, in_specs=spec, out_specs=spec)
    return jax.eval_shape(mapped, *given)


def options():
    """Every method, its variants that have loops of their own, and what goes around methods."""
    for name in METHODS:
        yield name, make(name, T)
    for solver in ("frank_wolfe", "projected_gradient"):
        yield f"mgda {solver}", mtl.mgda(T, solver=solver)
    for variant in ("exact", "official"):
        yield f"getmtl {variant}", mtl.getmtl(T, variant=variant)
    yield "nash_mtl now and then", mtl.every(mtl.nash_mtl(T), 2)
    yield "averaged by layers", mtl.by_group(mtl.momentum(mtl.pcgrad(T)))
    yield "meta_weighting simplex", mtl.meta_weighting(T, project="simplex")
    yield "micro-batches", mtl.accumulate_task_gradients(T, 2, then=mtl.meta_weighting(T))
    yield "guarded", mtl.skip_nonfinite(mtl.mgda(T))
    rows = optax.chain(mtl.track_conflict(T), mtl.pcgrad(T, combine=False))
    by_task = mtl.per_task(T, optax.scale_by_adam())
    yield "adam by task", optax.chain(rows, by_task, mtl.sum_tasks(T))
    split = mtl.split_step(T, optax.adam(1e-3), momentum=0.9)
    yield "split step", optax.chain(split, mtl.track_dominance(T), mtl.sum_tasks(T))
    yield "averages", optax.chain(mtl.task_ema(T, 0.9), mtl.mgda(T))


OPTIONS = dict(options())


@pytest.mark.parametrize("replicated", [False, True], ids=["varying", "replicated"])
@pytest.mark.parametrize("name", OPTIONS)
def test_steps_scan_from_a_state_made_inside(name, replicated):
    """The state that a step returns has the type of the first one."""
    tx = OPTIONS[name]

    def steps(given):
        def body(state, mask):
            updates, state = step(tx, state, given, task_mask=mask)
            return state, updates

        masks = jnp.array([[True, True, True], [True, False, True]])
        return jax.lax.scan(body, tx.init(given.params), masks)

    trace(steps, inputs(T), replicated=replicated)


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_that_differ_at_parameters_that_do_not(name):
    """And losses that do not differ, as of gradients of each device's part of a batch."""
    given = inputs(T)

    def first(gradients):
        mixed = given._replace(gradients=gradients)
        updates, state = step(OPTIONS[name], OPTIONS[name].init(given.params), mixed)
        return varying_like((updates, state), gradients)

    trace(first, given.gradients)


def ways():
    for heads in ("weighted", "unweighted"):
        for way, make_method in (
            ("taps", mtl.uw),
            ("taps", mtl.mgda),
            ("rows", mtl.mgda),
            ("rows", mtl.gradnorm),
            ("features", mtl.imtl_g),
            ("features", mtl.gradnorm),
        ):
            method = make_method(T)
            made = one_step(marked_losses_of, method, way, shared=SHARED, heads=heads)
            yield f"{way} {make_method.__name__} {heads}", made


WAYS = dict(ways())


@pytest.mark.parametrize("data", ["varying", "replicated"])
@pytest.mark.parametrize("parameters", ["varying", "replicated"])
@pytest.mark.parametrize("name", WAYS)
def test_ways_without_a_stack(name, parameters, data):
    way, init = WAYS[name]

    def steps(p, d):
        p = p if parameters == "varying" else params()
        d = d if data == "varying" else batch()
        _, gradient, state = way(p, init(p), d)
        losses, gradient, state = way(p, state, d, task_mask=jnp.array([True, False, True]))
        # Gradients are of the parameters' type: sums over devices where these do not differ.
        assert jax.tree.map(varying_axes, gradient) == jax.tree.map(varying_axes, p)
        return varying_like((losses, gradient, state), d, p)

    trace(steps, params(), batch()) if "varying" in (parameters, data) else trace(
        lambda: steps(params(), batch()), replicated=True
    )


@pytest.mark.parametrize("data", ["varying", "replicated"])
@pytest.mark.parametrize("options", [{}, {"beta": 0.5, "key": 0}], ids=["f-mtl", "samo"])
def test_task_gradients_uphill_have_the_type_of_the_parameters(options, data):
    def both(p, d):
        of, gradients = d if data == "varying" else batch(), []
        for at in (p, params()):
            gather = mtl.sam_value_and_task_grads(losses_of, 0.1, shared=SHARED, **options)
            _, *found = gather(at, of)
            for part in found:
                assert jax.tree.map(varying_axes, part) == jax.tree.map(varying_axes, at)
            gradients.append(varying_like(found, p))
        return gradients

    trace(both, params(), batch())


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("data", ["varying", "replicated"])
def test_task_gradients_have_the_type_of_the_parameters(data, large, monkeypatch):
    if large:
        monkeypatch.setattr(passes, "LARGE", 0)

    def convolved(p, d):
        rows = jnp.expand_dims(d["x"], 1)
        kernel = jnp.reshape(p["trunk"]["w"], (5, 1, 4))
        out = jax.lax.conv_general_dilated(rows, kernel, (1,), "SAME")
        return losses_of({**p, "trunk": {"w": jnp.eye(4, 5), "b": p["trunk"]["b"]}}, d) + out.sum()

    def both(p, d):
        gradients = []
        for at in (p, params()):
            of = d if data == "varying" else batch()
            for fun in (losses_of, convolved):
                _, found = mtl.value_and_task_grads(fun, shared=SHARED)(at, of)
                assert jax.tree.map(varying_axes, found) == jax.tree.map(varying_axes, at)
                gradients.append(varying_like(found, p))
        return gradients

    trace(both, params(), batch())


def own_loss(p, d):
    features = jnp.tanh(d["x"] @ p["trunk"]["w"] + p["trunk"]["b"][None])
    return jnp.mean((features @ p["heads"][d["task"]] - d["y"]) ** 2)


def test_gradients_of_a_batch_for_each_task():
    if not hasattr(jax.lax, "pcast"):
        pytest.skip("JAX 0.8.1 has no rule for sums over devices under vmap")
    gradients_of = mtl.per_task_value_and_grad(own_loss)
    trace(lambda p, d: (gradients_of(p, d), gradients_of(params(), d)[0]), params(), task_batches())


def test_gradients_of_a_model_of_nnx():
    def steps(x):
        model = nnx.Linear(4, T, rngs=nnx.Rngs(0))
        fun = lambda model, x: jnp.mean(model(x) ** 2, axis=0)
        return varying_like(mtl.nnx_value_and_task_grads(fun)(model, x), x)

    trace(steps, batch()["x"])


@pytest.mark.parametrize("replicated", [False, True], ids=["varying", "replicated"])
def test_what_measures_and_what_is_around(replicated):
    def everything(given, x):
        gram = mtl.gram(given.gradients)
        squares = jax.tree.map(jnp.square, given.gradients)
        model = {"shared": given.params, "own": given.params}
        mixed = {"shared": given.gradients, "own": given.params}
        tx = mtl.on_shared(
            mtl.cagrad(T), {"shared": True, "own": False}, heads=optax.scale_by_adam()
        )
        updated = mtl.check_updates(tx).update(mixed, tx.init(model), model)
        adversary = mtl.adversarial

        def reversed_by(fun):
            return jax.grad(lambda p: jnp.sum(fun(p) ** 2))

        return (
            gram,
            mtl.conflict(gram),
            mtl.combine(given.losses, given.gradients),
            mtl.dominance_ratio(squares),
            mtl.dominance_histogram(squares),
            mtl.dominance_by_layer(squares),
            (updated, mtl.task_weights(updated[1])),
            mtl.metrics.delta_m(given.losses, jnp.ones(T), [False] * T),
            mtl.metrics.delta_p(given.losses, jnp.ones(T), [False] * T),
            mtl.metrics.task_variance(given.losses),
            reversed_by(lambda p: adversary.gradient_reversal(p, 0.5))(x),
            reversed_by(lambda p: adversary.gradient_reversal(p, x[0, 0]))(jnp.ones(2)) + x[0, 0],
            [
                reversed_by(lambda p, g=g: adversary.gated_reversal(p, x[0, 0], 0.5, gate=g))(x)
                for g in get_args(Gate)
            ],
            adversary.orthogonality_penalty(x, x + 1),
            adversary.task_discriminator_loss(x, jnp.zeros(len(x), jnp.int32)),
        )

    trace(everything, inputs(T), batch()["x"], replicated=replicated)


@pytest.mark.parametrize("method", [mtl.mgda, mtl.gradnorm])
def test_parameters_in_pieces_are_named(method):
    def pieces(w):
        whole = lambda w: jax.lax.psum(jnp.stack([jnp.sum(w), jnp.sum(w**2)]), "devices")
        step, init = one_step(whole, method(2), "rows")
        return step(w, init(w))

    with pytest.raises(ValueError, match=r"vary over \[\['devices'\]\] and losses .* over \[\]"):
        trace(pieces, jnp.ones(3))


def test_all_that_is_public_is_here():
    of_others = map(inspect.getsource, (make, one_step, marked_losses_of))
    source = "".join((inspect.getsource(inspect.getmodule(trace)), *of_others))
    public = [name for name in vars(mtl) if not name.startswith("_") and callable(vars(mtl)[name])]
    without_arrays = {"Conflict", "Evidence", "MethodInfo", "Weighting", "list_methods"}
    without_arrays |= {"method_info", "scalars"}
    behind_every_method = {"from_weighting", "stateless", "TaskGradients"}
    missing = {name for name in public if f"mtl.{name}" not in source}
    assert missing - set(METHODS) == without_arrays | behind_every_method

"""Checks that need eight devices; `test_devices` runs each in a process that has them."""

import collections
import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import mtl_optax as mtl
from tests.common import METHODS, Inputs, make, one_step, relative_error, step, weights_of

P = PartitionSpec
T = 4
KINDS = (AxisType.Auto, AxisType.Explicit)
# What goes by the coordinates and needs a few sums over them.
SUM_COORDINATES = {"db_mtl", "excess_mtl", "layerwise_adatask", "m_config", "moco"}

# A leaf cut over all devices as FSDP cuts it, then tensor-parallel ones, both together, and whole.
SPECS = {
    "embedding": P(("data", "model"), None),
    "column": P(None, "model"),
    "row": P("model", None),
    "both": P("data", "model"),
    "bias": P("model"),
    "scale": P(),
}
SHAPES = {
    "embedding": (32, 5),
    "column": (6, 8),
    "row": (8, 6),
    "both": (8, 12),
    "bias": (8,),
    "scale": (),
}

STACKED = {name: P(None, *spec) for name, spec in SPECS.items()}
SPECS_OF_INPUTS = Inputs(SPECS, STACKED, P(), STACKED)

COLLECTIVE = re.compile(
    r"= (.*?) ((?:ragged-)?all-[a-z]+|collective-[a-z]+|reduce-scatter)(?:-start)?\("
)

_compilations = 0


def _count(event, _duration, **_):
    global _compilations
    _compilations += event == "/jax/core/compile/backend_compile_duration"


def collectives(compiled):
    """Counts (operation, number of entries) over all results of a program's collectives."""
    return collections.Counter(
        (operation, math.prod(map(int, filter(None, sizes.split(",")))))
        for results, operation in COLLECTIVE.findall(compiled.as_text())
        for sizes in re.findall(r"[a-z]\w*\[([\d,]*)\]", results)
    )


def place(tree, specs, mesh):
    return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), tree, specs)


def placed_like(got, wanted):
    return all(
        a.sharding.is_equivalent_to(b.sharding, a.ndim)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    )


def draw_inputs():
    rng = np.random.default_rng(0)

    def draw(*lead):
        normal = {name: rng.normal(size=(*lead, *shape)) for name, shape in SHAPES.items()}
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), normal)

    losses = jnp.asarray(rng.uniform(0.5, 2.0, T), jnp.float32)
    return Inputs(draw(), draw(T), losses, draw(T))


def transformations():
    """Every method, and what goes around methods."""
    for name in METHODS:
        # MoCo's weights move by gamma times squares of gradients, 350 here, and so do their digits.
        yield name, make(name, T, **({"gamma": 1e-3} if name == "moco" else {}))
    # With a small eps its first steps are ±1, and those of several tasks can cancel to rounding.
    by_task = mtl.per_task(T, optax.scale_by_adam(eps=1.0))
    rows = mtl.pcgrad(T, combine=False)
    yield (
        "adam by task on pcgrad",
        optax.chain(mtl.track_conflict(T), rows, by_task, mtl.sum_tasks(T)),
    )
    yield "micro-batches", mtl.accumulate_task_gradients(T, 1, then=mtl.meta_weighting(T))
    yield "guarded", mtl.skip_nonfinite(mtl.mgda(T))
    split = mtl.split_step(T, optax.adam(1e-3), momentum=0.9)
    yield "split step", optax.chain(split, mtl.track_dominance(T), mtl.sum_tasks(T))
    yield "averages", optax.chain(mtl.task_ema(T, 0.9), mtl.mgda(T))


def check_methods():
    """Two steps, a task absent from the second, on both kinds of mesh and on one device."""
    jax.monitoring.register_event_duration_secs_listener(_count)
    given = draw_inputs()
    masks = [jnp.ones(T, bool), jnp.arange(T) != 1]
    for name, tx in transformations():

        def two_steps(given, tx=tx):
            states, updates = [tx.init(given.params)], []
            jitted = jax.jit(lambda state, given, mask: step(tx, state, given, task_mask=mask))
            # Compiled ahead, it refuses a state that lies elsewhere than the first one.
            compiled = jitted.lower(states[0], given, masks[0]).compile()
            for mask in masks:
                update, state = compiled(states[-1], given, mask)
                updates.append(update)
                states.append(state)
            return compiled, states, updates

        wanted = two_steps(given)[2]
        for kind in KINDS:
            mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
            with jax.set_mesh(mesh):
                cut = place(given, SPECS_OF_INPUTS, mesh)
                compiled, states, updates = two_steps(cut)
                pass_on = jax.jit(lambda state: state)
                pass_on(states[0])
                before = _compilations
                pass_on(states[1])
                assert _compilations == before, (name, "the next step is compiled anew")
            where = name, kind.name
            for got, one_device in zip(updates, wanted, strict=True):
                assert placed_like(got, cut.params), where
                for leaf in SHAPES:
                    assert relative_error(got[leaf], one_device[leaf]) < 2e-5, (*where, leaf)
            for state in states[1:]:
                assert placed_like(state, states[0]), where
            for leaf in jax.tree.leaves(states[-1]):
                few = T * max(T, len(SHAPES))  # Weights of each leaf.
                small = leaf.size <= few or name == "coba"  # It keeps a history of the losses.
                assert small or not leaf.sharding.is_fully_replicated, (*where, leaf.shape)
            moved = collectives(compiled)
            assert all(size <= T * T for _, size in moved), (*where, moved)
            assert {operation for operation, _ in moved} <= {"all-reduce"}, (*where, moved)
            if name in METHODS:
                beyond = mtl.method_info(name).reads - {"losses", "next_losses", "coordinates"}
                assert bool(moved) == bool(beyond or name in SUM_COORDINATES), where


def check_diagnostics():
    rows = draw_inputs().gradients
    for measure in (mtl.gram, mtl.dominance_histogram):
        wanted = measure(rows)
        for kind in KINDS:
            mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
            with jax.set_mesh(mesh):
                cut = place(rows, STACKED, mesh)
                compiled = jax.jit(measure).lower(cut).compile()
                got = compiled(cut)
            assert relative_error(got, wanted) < 1e-6, kind
            moved = collectives(compiled)
            assert all(size <= 5 * T for _, size in moved), moved


def whole(leaf):
    """Gathers a parameter for its use, as FSDP does, so that its gradient is cut as it is."""
    explicit = AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types
    return jax.sharding.reshard(leaf, P()) if explicit else leaf


def losses_of(params, data):
    w, b = whole(params["trunk"]["w"]), whole(params["trunk"]["b"])
    features = mtl.mark_features(jnp.tanh(data["x"] @ w + b[None]))
    return jnp.mean((features @ params["heads"] - data["y"]) ** 2, axis=0)


SHARED = {"trunk": True, "heads": False}


def stacked_way(method, trunk_spec):
    tx = mtl.on_shared(method, SHARED)

    def way(params, state, data):
        losses, gradients = mtl.value_and_task_grads(losses_of, shared=SHARED)(params, data)
        rows = constrain(gradients["trunk"], jax.tree.map(lambda s: P(None, *s), trunk_spec))
        updates, state = tx.update({**gradients, "trunk": rows}, state, params, task_losses=losses)
        return losses, updates, state

    return way, tx.init


def constrain(tree, specs):
    """Says where gradients lie on a mesh of automatic axes; on others their types do."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or AxisType.Explicit in mesh.axis_types:
        return tree
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, specs)


def way_of(way, shared=SHARED):
    return lambda method, _: one_step(losses_of, method, way, shared=shared)


WAYS = {
    "stacked": (stacked_way, mtl.mgda),
    "losses only": (way_of("taps", None), mtl.uw),
    "taps": (way_of("taps"), mtl.mgda),
    "rows": (way_of("rows"), mtl.mgda),
    "features": (way_of("features"), mtl.mgda),
}
LAYOUTS = {
    "data": ({"trunk": {"w": P(), "b": P()}, "heads": P()}, [AxisType.Auto]),
    "fsdp": ({"trunk": {"w": P("data", None), "b": P("data")}, "heads": P()}, KINDS),
}


def check_ways():
    """Whole steps with the batch cut over devices, against one device and equal weighting."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    params = {"trunk": {"w": draw(24, 16), "b": draw(16)}, "heads": draw(16, T)}
    data = {"x": draw(32, 24), "y": draw(32, T)}
    for layout, (specs, kinds) in LAYOUTS.items():
        for name, (way_of, method) in WAYS.items():

            def program(method, way_of=way_of, specs=specs):
                way, init = way_of(method(T), specs["trunk"])

                @jax.jit
                def jitted(params, state, data):
                    losses, gradient, state = way(params, state, data)
                    return losses, constrain(gradient, specs), state

                return jitted, init

            trained, init = program(method)
            wanted = trained(params, init(params), data)[:2]
            for kind in kinds:
                mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
                with jax.set_mesh(mesh):
                    at = place(params, specs, mesh)
                    batch = place(data, {"x": P("data", None), "y": P("data", None)}, mesh)
                    start = init(at)
                    compiled = trained.lower(at, start, batch).compile()
                    losses, gradient, state = compiled(at, start, batch)
                    equal, init_equal = program(mtl.sum_tasks)
                    base = collectives(equal.lower(at, init_equal(at), batch).compile())
                where = layout, name, kind.name
                for got, one in zip(
                    jax.tree.leaves((losses, gradient)), jax.tree.leaves(wanted), strict=True
                ):
                    assert relative_error(got, one) < 1e-5, where
                assert placed_like(gradient, at), where
                assert placed_like(state, start), where
                more = collectives(compiled) - base
                # A step by rows has the gradient of one task at a time on top, and one by taps
                # those of all tasks, which it makes of parameters as small as these.
                number = {"rows": 1, "taps": T}.get(name, 0)
                most = max(number * params["trunk"]["w"].size, T * T)
                assert base, where
                assert all(size <= most for _, size in more), (where, more)


def check_shard_map():
    """Whole steps inside `jax.shard_map`: on a batch in parts, and of eight models at once."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    params = {"trunk": {"w": draw(24, 16), "b": draw(16)}, "heads": draw(16, T)}
    data = {"x": draw(32, 24), "y": draw(32, T)}
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    averaged = lambda fun: lambda *args: jax.lax.pmean(fun(*args), "data")

    def first_step(method, loss_fn, name):
        way = {"losses only": "taps"}.get(name, name)
        shared = None if name == "losses only" else SHARED
        step_of, init = one_step(loss_fn(losses_of), method, way, shared=shared)
        return lambda params, data: step_of(params, init(params), data)

    for way, (_, make_method) in WAYS.items():
        method = make_method(T)
        wanted = jax.jit(first_step(method, lambda fun: fun, way))(params, data)
        in_parts = jax.shard_map(
            first_step(method, averaged, way),
            mesh=mesh,
            in_specs=(P(), P("data")),
            out_specs=P(),
        )
        found = jax.jit(in_parts)(params, data)
        for got, one in zip(jax.tree.leaves(found[:2]), jax.tree.leaves(wanted[:2]), strict=True):
            assert relative_error(got, one) < 1e-5, way
        got, one = weights_of(found[2]), weights_of(wanted[2])
        assert relative_error(got, one) < 1e-5, way

    models = jax.tree.map(lambda p: jnp.stack([(1 + k / 8) * p for k in range(8)]), params)
    batches = jax.tree.map(lambda x: x.reshape(8, 4, -1), data)
    of_one = first_step(mtl.mgda(T), lambda fun: fun, "stacked")

    def of_each(*own):
        found = of_one(*jax.tree.map(lambda x: x[0], own))
        return jax.tree.map(lambda x: x[None], found)

    at_once = jax.shard_map(of_each, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    found = jax.jit(at_once)(models, batches)
    wanted = jax.jit(lambda *all: jax.lax.map(lambda own: of_one(*own), all))(models, batches)
    for got, one in zip(jax.tree.leaves(found[:2]), jax.tree.leaves(wanted[:2]), strict=True):
        assert relative_error(got, one) < 1e-5


def table_losses(params, data):
    """Losses of a model with a table, a dense layer that is worth tapping, and marked features."""
    explicit = AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types
    place = {"out_sharding": P("data", None)} if explicit else {}
    looked_up = whole(params["table"]).at[data["token"]].get(**place)
    z = jnp.tanh(data["x"] @ whole(params["w"]) + looked_up + whole(params["b"])[None])
    return jnp.mean((mtl.mark_features(z) @ params["heads"] - data["y"]) ** 2, axis=0)


def check_unstacked():
    """Each way to gather an object, the batch cut over devices, against one device."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    params = {"table": draw(200, 64), "w": draw(80, 64) / 9, "b": draw(64), "heads": draw(64, T)}
    data = {"x": draw(8, 80), "y": draw(8, T), "token": jnp.arange(8) * 5 % 7}
    tx = mtl.on_shared(mtl.mgda(T), ["table", "w", "b"])
    cut = jax.tree.map(lambda x: P("data", *(None,) * (x.ndim - 1)), data)

    def step(way, fun=table_losses):
        def step(params, data):
            shared = ["table", "w", "b"]
            gather = mtl.value_and_task_grads(
                fun, shared=shared, stacked=not way, way=way or "taps"
            )
            losses, gradients = gather(params, data)
            updates, state = tx.update(gradients, tx.init(params), params)
            return losses, updates, state.shared.weights

        return step

    parts = {"table": P("data", None), "w": P(None, "data"), "b": P("data"), "heads": P()}
    layouts = {"data": jax.tree.map(lambda _: P(), params), "fsdp": parts}
    averaged = lambda *args: jax.lax.pmean(table_losses(*args), "data")
    stacked = jax.jit(step(None))(params, data)
    for way in ("taps", "rows", "features"):
        wanted = jax.jit(step(way))(params, data) if way == "features" else stacked
        for layout, specs in layouts.items():
            for kind in KINDS:
                mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
                with jax.set_mesh(mesh):
                    at, batch = place(params, specs, mesh), place(data, cut, mesh)
                    compiled = jax.jit(step(way)).lower(at, batch).compile()
                    found = compiled(at, batch)
                where = way, layout, kind.name
                for got, one in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
                    assert relative_error(got, one) < 1e-5, where
                if kind == AxisType.Explicit:
                    assert placed_like(found[1], at), where
                # Activations move, and no task gradient does, but where types say how arrays lie.
                most = params["table"].size
                if way == "taps" and kind == AxisType.Explicit:
                    most *= T
                assert all(size <= most for _, size in collectives(compiled)), where
        in_parts = jax.shard_map(
            step(way, averaged),
            mesh=jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)),
            in_specs=(P(), P("data")),
            out_specs=P(),
        )
        found = jax.jit(in_parts)(params, data)
        for got, one in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            assert relative_error(got, one) < 1e-5, way


CHECKS = {
    "unstacked": check_unstacked,
    "methods": check_methods,
    "diagnostics": check_diagnostics,
    "ways": check_ways,
    "shard_map": check_shard_map,
}


if __name__ == "__main__":
    jax.config.update("jax_numpy_rank_promotion", "raise")
    assert jax.device_count() == 8
    for name in sys.argv[1:]:
        CHECKS[name]()

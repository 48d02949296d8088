"""One forward pass of the losses, and the object that answers for their gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from mtl_optax import _checks
from mtl_optax._task_gradients import taps as t
from mtl_optax._task_gradients.calls import check_task_losses, split_aux
from mtl_optax._task_gradients.features import MARK, AtFeatures
from mtl_optax._task_gradients.rows import RowByRow
from mtl_optax._task_gradients.tapped import OwnBatches, Rows, Tapped, worth_tapping
from mtl_optax._task_gradients.ways import Stacked
from mtl_optax._trees import Shared, shared_leaves
from mtl_optax._unstacked import TaskGradients, Way

WAYS = ("taps", "rows", "features")

_Function = Callable[[list[Any]], tuple[Any, Any]]


def check_way(caller: str, stacked: Any, way: str, ways: Sequence[str] = WAYS) -> None:
    """Raises unless the two say how task gradients are gathered, in one of `ways`."""
    if not isinstance(stacked, bool):
        raise TypeError(f"{caller}: stacked must be True or False, got {stacked!r}.")
    _checks.check_choice(caller, "way", way, ways)
    if stacked and way != "taps":
        raise ValueError(f"{caller}: way={way!r} needs stacked=False.")


def gather(
    caller: str,
    fun: Callable[[Any], Any],
    params: Any,
    has_aux: bool,
    shared: Shared | None,
    way: str,
    compiled: bool,
) -> tuple[Any, Any, TaskGradients]:
    """Runs the losses forward.

    Args:
        caller: the public function to name in errors.
        fun: maps the parameters to losses `(T,)`, or to `(losses, aux)`.
        params: those.
        has_aux: whether there is auxiliary output.
        shared: which leaves all tasks share; all by default.
        way: how task gradients are gathered.
        compiled: whether the step is traced.

    Returns:
        the losses, auxiliary output or None, and the object.
    """
    leaves, structure = jax.tree.flatten(params)
    chosen = [True] * len(leaves)
    if shared is not None:
        chosen = jax.tree.leaves(shared_leaves(caller, shared, params))

    def on_leaves(leaves: list[Any]) -> tuple[Any, Any]:
        out = fun(jax.tree.unflatten(structure, leaves))
        losses, aux = split_aux(caller, out) if has_aux else (out, None)
        check_task_losses(caller, losses)
        return losses, aux

    gathered: Way
    # Without jit each operation runs by itself, and there is nothing to gain.
    if way == "taps" and compiled and not lies_on_typed_mesh(leaves):
        gathered, aux = _from_taps(on_leaves, leaves, chosen)
    elif way == "features":
        gathered, aux = _at_features(caller, on_leaves, leaves)
    else:
        losses, pullback, aux = jax.vjp(on_leaves, leaves, has_aux=True)
        kind = RowByRow if way == "rows" else Stacked
        gathered = kind(losses, leaves, lambda row: pullback(row)[0])
    return gathered.losses, aux, TaskGradients(gathered, structure, *_slots(chosen))


def _from_taps(fun: _Function, leaves: list[Any], shared: Sequence[bool]) -> tuple[Tapped, Any]:
    """Runs the losses with a tap wherever a parameter that is worth it meets data."""
    closed, num_tasks, outputs = _traced(fun, leaves)
    plan, sites = t.find_sites(closed, shared, worth_tapping(num_tasks))
    direct = [slot for slot in range(len(leaves)) if slot not in sites]

    def run(values: list[Any], taps: dict[int, Any]) -> Any:
        args = list(leaves)
        for slot, value in zip(direct, values, strict=True):
            args[slot] = value
        out, met = t.run(closed, plan, args, taps)
        losses, aux = outputs(out)
        return losses, (aux, met)

    zeros = {site.number: site.tap() for group in sites.values() for site in group}
    values = [leaves[slot] for slot in direct]
    losses, pullback, (aux, met) = jax.vjp(run, values, zeros, has_aux=True)

    def pull(row: Any) -> Rows:
        gradients, taps = pullback(row)
        return Rows(dict(zip(direct, gradients, strict=True)), taps)

    heads = frozenset(_slots(shared)[1])
    return Tapped(losses, leaves, sites, met, pull, heads), aux


def _slots(shared: Sequence[bool]) -> tuple[list[int], list[int]]:
    """Returns the numbers of the shared leaves, and of the heads."""
    slots = range(len(shared))
    return [slot for slot in slots if shared[slot]], [slot for slot in slots if not shared[slot]]


def _traced(fun: _Function, leaves: list[Any]) -> tuple[Any, int, Callable[[Any], Any]]:
    """Returns the program of the losses, their number, and what makes the outputs of its results.

    Auxiliary output that is no array, as a name, stays as it is.
    """
    others: list[Any] = []

    def arrays_of(leaves: list[Any]) -> tuple[Any, list[Any]]:
        losses, aux = fun(leaves)
        parts, structure = jax.tree.flatten(aux)
        arrays = [isinstance(part, jax.Array | np.ndarray) for part in parts]
        others[:] = [None if of else part for part, of in zip(parts, arrays, strict=True)]
        others.append((structure, arrays))
        return losses, [part for part, of in zip(parts, arrays, strict=True) if of]

    closed, (shape, _) = jax.make_jaxpr(arrays_of, return_shape=True)(leaves)
    *constants, (structure, arrays) = others

    def outputs(results: Sequence[Any]) -> tuple[Any, Any]:
        losses, *rest = results
        found = iter(rest)
        parts = [next(found) if of else x for x, of in zip(constants, arrays, strict=True)]
        return losses, structure.unflatten(parts)

    return closed, shape.shape[0], outputs


def gather_own(
    fun: Callable[[list[Any], Any], tuple[Any, Any]],
    leaves: list[Any],
    shared: Sequence[bool],
    batches: Any,
    structure: Any,
) -> tuple[Any, Any, TaskGradients]:
    """Runs the losses of tasks that have batches of their own forward, and back.

    Args:
        fun: maps the leaves of the parameters, and the batch of one task, to its loss and to
            auxiliary output.
        leaves: those; leaves that are not shared have a leading task axis, of which `fun` sees its
            own task's slice.
        shared: for each leaf, whether all tasks share it.
        batches: arrays with a leading task axis.
        structure: that of the parameters.

    Returns:
        the losses, auxiliary output, and the object.
    """
    slots, heads = _slots(shared)
    aval = lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
    slice_of = lambda x: jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x))
    one = [aval(x) if pick else slice_of(x) for x, pick in zip(leaves, shared, strict=True)]
    batch = jax.tree.map(slice_of, batches)
    closed, shapes = jax.make_jaxpr(fun, return_shape=True)(one, batch)
    out_structure: Any = jax.tree.structure(shapes)
    data = jax.tree.leaves(batches)
    num_tasks = (data or [leaves[slot] for slot in heads])[0].shape[0]
    flags = [*shared, *(False for _ in data)]
    plan, sites = t.find_sites(closed, flags, worth_tapping(num_tasks, own_batches=True))
    direct = [slot for slot in slots if slot not in sites]
    zeros = {site.number: site.tap() for group in sites.values() for site in group}

    def graded(slices: list[Any], batch: list[Any]) -> Any:
        def run(values: list[Any], slices: list[Any], taps: dict[int, Any]) -> Any:
            args = [*leaves, *batch]
            for slot, value in zip([*direct, *heads], [*values, *slices], strict=True):
                args[slot] = value
            out, met = t.run(closed, plan, args, taps)
            loss, aux = out_structure.unflatten(out)
            return loss, (aux, met)

        values = [leaves[slot] for slot in direct]
        loss, pullback, (aux, met) = jax.vjp(run, values, slices, zeros, has_aux=True)
        return loss, aux, met, pullback(jnp.ones_like(loss))

    losses, aux, met, (values, slices, taps) = jax.vmap(graded)([leaves[s] for s in heads], data)
    gradients = dict(zip([*direct, *heads], [*values, *slices], strict=True))
    way = OwnBatches(losses, leaves, sites, met, Rows(gradients, taps), frozenset(heads))
    return losses, aux, TaskGradients(way, structure, slots, heads)


def of_stacks(
    losses: Any, stacks: list[Any], leaves: list[Any], shared: Sequence[bool], structure: Any
) -> TaskGradients:
    """Returns the object for leaves `(T, *p.shape)`, and heads `p.shape`, that are there."""
    slots, heads = _slots(shared)
    rows = Rows(dict(enumerate(stacks)), {})
    way = OwnBatches(losses, leaves, {}, {}, rows, frozenset(heads))
    return TaskGradients(way, structure, slots, heads)


def _at_features(caller: str, fun: _Function, leaves: list[Any]) -> tuple[AtFeatures, Any]:
    """Runs the losses with a tap at each mark."""
    closed, _, outputs = _traced(fun, leaves)
    try:
        plan, marks = t.find_marks(closed, MARK)
    except LookupError as error:
        raise ValueError(
            f"{caller}: mtl_optax.mark_features stands inside {error.args[0]!r}, which runs whole. "
            "Mark the features outside of branches, loops with a condition, and functions with "
            "derivatives of their own."
        ) from error
    if not marks:
        raise ValueError(
            f'{caller}: way="features" found no mark. Pass the features through '
            "mtl_optax.mark_features(z) inside the function."
        )

    def run(leaves: list[Any], taps: dict[int, Any]) -> Any:
        out, _ = t.run(closed, plan, leaves, taps)
        return outputs(out)

    zeros = {mark.number: mark.tap() for mark in marks}
    losses, pullback, aux = jax.vjp(run, leaves, zeros, has_aux=True)
    return AtFeatures(
        losses, leaves, lambda row: pullback(row)[0], lambda row: pullback(row)[1]
    ), aux


def lies_on_typed_mesh(leaves: Sequence[Any]) -> bool:
    """Whether arrays have their place on a mesh in their type, so that joining rows moves them."""
    if jax.sharding.get_abstract_mesh().manual_axes:
        return True
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in leaves]
    return any(AxisType.Explicit in mesh.axis_types for mesh in meshes)

"""One forward pass of the losses, and the object that answers for their gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType

from mtl_optax import _checks
from mtl_optax._task_gradients import taps as t
from mtl_optax._task_gradients.calls import check_task_losses, split_aux
from mtl_optax._task_gradients.tapped import Rows, Tapped, worth_tapping
from mtl_optax._task_gradients.ways import Stacked
from mtl_optax._trees import Shared, shared_leaves
from mtl_optax._unstacked import TaskGradients, Way

WAYS = ("taps", "rows", "features")

_Function = Callable[[list[Any]], tuple[Any, Any]]


def check_way(caller: str, stacked: Any, way: str) -> None:
    """Raises unless the two say how task gradients are gathered."""
    if not isinstance(stacked, bool):
        raise TypeError(f"{caller}: stacked must be True or False, got {stacked!r}.")
    _checks.check_choice(caller, "way", way, WAYS)
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
    if way == "taps" and compiled and not _lies_on_typed_mesh(leaves):
        gathered, aux = _from_taps(on_leaves, leaves, chosen)
    else:
        losses, pullback, aux = jax.vjp(on_leaves, leaves, has_aux=True)
        gathered = Stacked(losses, leaves, lambda row: pullback(row)[0])
    slots = [slot for slot, pick in enumerate(chosen) if pick]
    heads = [slot for slot, pick in enumerate(chosen) if not pick]
    return gathered.losses, aux, TaskGradients(gathered, structure, slots, heads)


def _from_taps(fun: _Function, leaves: list[Any], shared: Sequence[bool]) -> tuple[Tapped, Any]:
    """Runs the losses with a tap wherever a parameter that is worth it meets data."""
    closed, shapes = jax.make_jaxpr(fun, return_shape=True)(leaves)
    structure: Any = jax.tree.structure(shapes)
    num_tasks = shapes[0].shape[0]
    plan, sites = t.find_sites(closed, shared, worth_tapping(num_tasks))
    direct = [slot for slot in range(len(leaves)) if slot not in sites]

    def run(values: list[Any], taps: dict[int, Any]) -> Any:
        args = list(leaves)
        for slot, value in zip(direct, values, strict=True):
            args[slot] = value
        out, met = t.run(closed, plan, args, taps)
        losses, aux = structure.unflatten(out)
        return losses, (aux, met)

    zeros = {site.number: site.tap() for group in sites.values() for site in group}
    values = [leaves[slot] for slot in direct]
    losses, pullback, (aux, met) = jax.vjp(run, values, zeros, has_aux=True)

    def pull(row: Any) -> Rows:
        gradients, taps = pullback(row)
        return Rows(dict(zip(direct, gradients, strict=True)), taps)

    heads = frozenset(slot for slot, pick in enumerate(shared) if not pick)
    return Tapped(losses, leaves, sites, met, pull, heads), aux


def _lies_on_typed_mesh(leaves: Sequence[Any]) -> bool:
    """Whether arrays have their place on a mesh in their type, so that joining rows moves them."""
    if jax.sharding.get_abstract_mesh().manual_axes:
        return True
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in leaves]
    return any(AxisType.Explicit in mesh.axis_types for mesh in meshes)

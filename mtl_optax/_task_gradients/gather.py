"""One forward pass of the losses, and the object that answers for their gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from mtl_optax._task_gradients import taps as t
from mtl_optax._task_gradients.tapped import Rows, Tapped, worth_tapping
from mtl_optax._task_gradients.ways import Stacked
from mtl_optax._tracing import is_traced
from mtl_optax._unstacked import TaskGradients, Way

Function = Callable[[list[Any]], tuple[Any, Any]]


def from_taps(
    fun: Function, leaves: list[Any], shared: Sequence[bool], for_each_row: Any
) -> tuple[Any, Way]:
    """Runs the losses with taps, where there are any.

    Args:
        fun: maps the leaves of the parameters to losses `(T,)` and auxiliary output.
        leaves: those.
        shared: for each, whether all tasks share it.
        for_each_row: calls a pullback for each row.
    """
    closed, shapes = jax.make_jaxpr(fun, return_shape=True)(leaves)
    num_tasks = shapes[0].shape[0]
    plan, sites = t.find_sites(closed, shared, worth_tapping(num_tasks))
    structure: Any = jax.tree.structure(shapes)
    direct = [slot for slot in range(len(leaves)) if slot not in sites]

    def run(values: list[Any], taps: dict[int, Any]) -> Any:
        args = list(leaves)
        for slot, value in zip(direct, values, strict=True):
            args[slot] = value
        out, met = t.run(closed, plan, args, taps)
        losses, aux = structure.unflatten(out)
        return losses, (aux, met)

    zeros = {site.number: site.tap() for group in sites.values() for site in group}
    losses, pullback, (aux, met) = jax.vjp(
        run, [leaves[slot] for slot in direct], zeros, has_aux=True
    )

    def pull(row: Any) -> Rows:
        gradients, taps = pullback(row)
        return Rows(dict(zip(direct, gradients, strict=True)), taps)

    heads = frozenset(slot for slot, pick in enumerate(shared) if not pick)
    return aux, Tapped(losses, leaves, sites, met, pull, heads, for_each_row)


def from_pullback(fun: Function, leaves: list[Any], for_each_row: Any) -> tuple[Any, Way]:
    """Runs the losses for a stack that is made when it is asked for."""
    losses, pullback, aux = jax.vjp(fun, leaves, has_aux=True)
    return aux, Stacked(losses, leaves, lambda row: pullback(row)[0], for_each_row)


def gather(
    fun: Function, leaves: list[Any], shared: Sequence[bool], structure: Any, for_each_row: Any,
    traced: bool
) -> tuple[Any, TaskGradients]:
    """Returns auxiliary output and the object."""
    slots = [slot for slot, pick in enumerate(shared) if pick]
    heads = [slot for slot, pick in enumerate(shared) if not pick]
    if not traced or _is_typed(leaves):
        # Without jit there is nothing to gain: each operation runs by itself.
        aux, way = from_pullback(fun, leaves, for_each_row)
    else:
        aux, way = from_taps(fun, leaves, shared, for_each_row)
    return aux, TaskGradients(way, structure, slots, heads)


def _is_typed(leaves: Sequence[Any]) -> bool:
    """Whether arrays have their place on a mesh in their type, so that joining rows moves them."""
    if jax.sharding.get_abstract_mesh().manual_axes:
        return True
    meshes = [getattr(jax.typeof(leaf), "sharding").mesh for leaf in leaves]
    return any(AxisType.Explicit in mesh.axis_types for mesh in meshes)

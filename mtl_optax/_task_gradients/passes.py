"""Backward passes of several tasks: all together, or one after the other."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_optax._tracing import has_operation, is_traced, varying_like

# Entries of the parameters from which on task gradients are computed one after the other on the
# CPU. Together, XLA lays them out parameters first, and what reads them pays for it: with 3e5 to
# 1e6 parameters whole steps took 1.3 to 4 times as long.
LARGE = 300_000


# Tasks up to which one backward pass after the other is written out where it has convolutions: XLA
# runs these 15 to 25 times slower in a loop on the CPU. Compiling takes T times as long.
_FEW_TASKS = 16


def one_for_each(losses: Float[Array, " T"]) -> Float[Array, "T T"]:
    """Returns the rows that a pullback of the losses makes each task's gradient of."""
    return varying_like(jnp.eye(len(losses), dtype=losses.dtype), losses)


def for_each_row(pull: Callable[[Array], Any], rows: Float[Array, "T T"], params: Any) -> Any:
    """Calls `pull` for each row and stacks what it returns."""
    together = for_all_rows(pull)
    if sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(params)) < LARGE:
        return together(rows)
    return in_turn(pull, rows, elsewhere=together)


def all_rows(pull: Callable[[Array], Any], rows: Float[Array, "T T"]) -> Any:
    """Calls `pull` for all rows together; with convolutions on the CPU, for a few, in turn."""
    together = for_all_rows(pull)
    if not is_traced(rows) or len(rows) > _FEW_TASKS:
        return together(rows)
    closed = jax.make_jaxpr(pull)(rows[0])
    if not has_operation(closed.jaxpr, "conv_general_dilated"):
        return together(rows)
    return in_turn(pull, rows, elsewhere=together)


def for_all_rows(pull: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """Makes a function of several rows at once of the pullback of one."""
    if hasattr(jax.lax, "pcast") or not jax.sharding.get_abstract_mesh().manual_axes:
        return jax.vmap(pull)
    # JAX 0.8.1 has no rule for several of the sums over devices that a pullback may end in.
    return functools.partial(jax.lax.map, pull)


def in_turn(
    function: Callable[[Array], Any],
    rows: Float[Array, "T T"],
    elsewhere: Callable[[Array], Any] | None = None,
) -> Any:
    """Calls `function` for one row after the other and stacks the results.

    Args:
        function: a function of a row.
        rows: the rows.
        elsewhere: what serves all rows on other devices than CPUs; a loop by default.
    """
    if not is_traced(rows):
        return _one_by_one(function, rows)
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(rows[0])
    structure: Any = jax.tree.structure(shapes)

    def once(row: Array) -> Any:
        return structure.unflatten(jax.core.eval_jaxpr(closed.jaxpr, closed.consts, row))

    loop = functools.partial(jax.lax.map, once)
    written_out = functools.partial(_one_by_one, once)
    convolves = has_operation(closed.jaxpr, "conv_general_dilated")
    on_cpu = written_out if convolves and len(rows) <= _FEW_TASKS else loop
    elsewhere = elsewhere or loop
    if on_cpu is elsewhere:
        return loop(rows)
    return jax.lax.platform_dependent(rows, cpu=on_cpu, default=elsewhere)


def _one_by_one(function: Callable[[Array], Any], rows: Float[Array, "T T"]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(function, rows))

"""Branches of steps that run without `jit` too, what a traced function is made of, and types."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

_R = TypeVar("_R")


def is_traced(x: Any) -> bool:
    """Whether `x` is a tracer; if not, Python itself can branch and loop.

    `jax.lax` would compile a branch or a loop anew in every step that runs without `jit`, for the
    functions that it is given are new ones.
    """
    return isinstance(x, jax.core.Tracer)


def cond(predicate: Any, on_true: Callable[[], _R], on_false: Callable[[], _R]) -> _R:
    """Is `jax.lax.cond` while tracing, and Python's `if` otherwise."""
    if not is_traced(predicate):
        return on_true() if predicate else on_false()
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return jax.lax.cond(predicate, on_true, on_false)
    # Inside `jax.shard_map` the branches are to agree on what varies, too.
    types = jax.eval_shape(on_true), jax.eval_shape(on_false)
    typed = lambda branch: lambda: jax.tree.map(varying_like, branch(), *types)
    return jax.lax.cond(predicate, typed(on_true), typed(on_false))


def varying_axes(*trees: Any) -> frozenset[str]:
    """Returns the axes of the mesh over which a leaf differs from device to device.

    They are part of an array's type inside `jax.shard_map`, and there are none elsewhere.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return frozenset()
    types = [jax.typeof(leaf) for leaf in jax.tree.leaves(trees)]
    return frozenset[str]().union(*map(_axes_of, types))


def _axes_of(kind: Any) -> frozenset[str]:
    # JAX 0.8 calls them `vma`.
    return frozenset(kind.mat.varying if hasattr(kind, "mat") else getattr(kind, "vma", ()))


def varying_like(tree: _R, *data: Any) -> _R:
    """Gives every leaf of `tree` the type of what varies over a mesh as the leaves of `data` do.

    A loop inside `jax.shard_map` keeps the types of what it carries, so that what begins as a
    constant must be cast where the data make it differ from device to device.
    """
    wanted = varying_axes(data)
    return jax.tree.map(lambda leaf: _vary(leaf, wanted), tree) if wanted else tree


def _vary(leaf: Any, wanted: frozenset[str]) -> Any:
    missing = tuple(sorted(wanted - varying_axes(leaf)))
    if not missing:
        return leaf
    # JAX 0.8.1 has `pvary` alone, and later versions have not.
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(leaf, missing, to="varying")
    return jax.lax.pvary(leaf, missing)  # type: ignore[attr-defined]


def zeros_like_type(kind: Any, lead: tuple[int, ...] = ()) -> jax.Array:
    """Returns zeros of a type with axes `lead` in front, laid and varying on a mesh as it says."""
    zeros = jnp.zeros((*lead, *kind.shape), kind.dtype)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.manual_axes:
        zeros = _vary(zeros, _axes_of(kind))
    if AxisType.Explicit in mesh.axis_types:
        spec = PartitionSpec(*(None for _ in lead), *kind.sharding.spec)
        zeros = jax.sharding.reshard(zeros, spec)
    return zeros


def has_operation(jaxpr: Any, name: str) -> bool:
    """Whether a program has an operation of this name, in its loops and branches too."""
    return any(
        equation.primitive.name == name
        or any(has_operation(inner, name) for inner in inner_programs(equation.params.values()))
        for equation in jaxpr.eqns
    )


def inner_programs(values: Any) -> Iterator[Any]:
    """Yields the programs among the parameters of an operation."""
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from inner_programs(value)
        elif hasattr(value, "jaxpr"):
            yield value.jaxpr
        elif hasattr(value, "eqns"):
            yield value

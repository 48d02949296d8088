"""Branches of steps that run without `jit` too, what a traced function is made of, and types."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

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
    axes = [axes_of_type(jax.typeof(leaf)) for leaf in jax.tree.leaves(trees)]
    return frozenset[str]().union(*axes)


def axes_of_type(aval: Any) -> frozenset[str]:
    """Returns the axes of the mesh over which arrays of a type differ from device to device."""
    # JAX 0.8 calls them `vma`.
    return frozenset(aval.mat.varying if hasattr(aval, "mat") else getattr(aval, "vma", ()))


def varying_like(tree: _R, *data: Any) -> _R:
    """Gives every leaf of `tree` the type of what varies over a mesh as the leaves of `data` do.

    A loop inside `jax.shard_map` keeps the types of what it carries, so that what begins as a
    constant must be cast where the data make it differ from device to device.
    """
    return varying_over(varying_axes(data), tree)


def varying_over(axes: frozenset[str], tree: _R) -> _R:
    """Gives every leaf of `tree` the type of what varies over these axes of a mesh too."""

    def cast(leaf: Any) -> Any:
        missing = tuple(sorted(axes - varying_axes(leaf)))
        if not missing:
            return leaf
        # JAX 0.8.1 has `pvary` alone, and later versions have not.
        if hasattr(jax.lax, "pcast"):
            return jax.lax.pcast(leaf, missing, to="varying")
        return jax.lax.pvary(leaf, missing)  # type: ignore[attr-defined]

    return jax.tree.map(cast, tree) if axes else tree


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

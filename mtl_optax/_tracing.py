"""Branches of steps that run without `jit` too, and what a traced function is made of."""

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
    if is_traced(predicate):
        return jax.lax.cond(predicate, on_true, on_false)
    return on_true() if predicate else on_false()


def has_operation(jaxpr: Any, name: str) -> bool:
    """Whether a program has an operation of this name, in its loops and branches too."""
    return any(
        equation.primitive.name == name
        or any(has_operation(inner, name) for inner in _inner(equation.params.values()))
        for equation in jaxpr.eqns
    )


def _inner(values: Any) -> Iterator[Any]:
    """Yields the programs among the parameters of an operation."""
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _inner(value)
        elif hasattr(value, "jaxpr"):
            yield value.jaxpr
        elif hasattr(value, "eqns"):
            yield value

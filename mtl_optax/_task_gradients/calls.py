"""How loss functions are called, and checks of what they are given and return."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from mtl_optax import _checks


def as_tuple(name: str, argnums: int | Sequence[int]) -> tuple[int, ...]:
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not numbers or not all(isinstance(number, int) for number in numbers):
        raise TypeError(f"{name}: argnums must be an int or several, got {argnums!r}.")
    return numbers


def differentiated(
    name: str,
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    numbers: tuple[int, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Callable[[Any], Any], Any]:
    """Returns `fun` as a function of the differentiated argument(s), and their value."""
    if any(not -len(args) <= number < len(args) for number in numbers):
        raise ValueError(
            f"{name}: argnums={argnums!r} asks for an argument beyond the {len(args)} positional "
            f"ones given to {getattr(fun, '__name__', fun)!r}. Pass it by position."
        )
    params = args[argnums] if isinstance(argnums, int) else tuple(args[n] for n in numbers)
    _checks.check_params(name, params)

    def call(value: Any) -> Any:
        full = list(args)
        for number, part in zip(
            numbers, (value,) if isinstance(argnums, int) else value, strict=True
        ):
            full[number] = part
        return fun(*full, **kwargs)

    return call, params


def split_aux(caller: str, out: Any) -> tuple[Any, Any]:
    """Returns the pair of losses and auxiliary output, or raises if it is none."""
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(
            f"{caller}: with has_aux=True the function must return the pair "
            f"(losses, aux), got {type(out).__name__}."
        )
    return out


def check_task_losses(caller: str, losses: Any) -> None:
    """Raises unless `losses` is a real floating array of shape `(T,)`."""
    shape = getattr(losses, "shape", None)
    if shape is None:
        raise TypeError(
            f"{caller}: the function must return an array of losses of shape "
            f"(num_tasks,), got {type(losses).__name__}. Stack them with jnp.stack, and pass "
            "has_aux=True if it returns (losses, aux)."
        )
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(
            f"{caller}: the function must return one loss per task, shape "
            f"(num_tasks,), got shape {shape}. Stack scalar losses with jnp.stack."
        )
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise TypeError(f"{caller}: the losses must be real floating numbers, got {losses.dtype}.")

"""Task gradients where every task has a batch of its own."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_optax import _checks
from mtl_optax._task_gradients.calls import as_tuple, differentiated, split_aux
from mtl_optax._task_gradients.gather import (
    check_way,
    gather,
    gather_own,
    lies_on_typed_mesh,
    of_stacks,
)
from mtl_optax._tracing import is_traced
from mtl_optax._trees import Shared, shared_leaves


def per_task_value_and_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    shared: Shared | None = None,
    *,
    stacked: bool = True,
    way: str = "taps",
) -> Callable[..., Any]:
    """Makes a function that returns each task's loss and gradient on a batch of its own.

    For multi-input problems, where every task has its own data: `jax.value_and_grad(fun)`,
    vectorised over tasks.

    Args:
        fun: maps `(params, *task_batch)` to a scalar loss, or to `(loss, aux)`.
        argnums: which positional argument or arguments to differentiate; all tasks see the same.
        has_aux: whether `fun` returns `(loss, aux)`.
        shared: which leaves of the differentiated argument all tasks share, as for
            `value_and_task_grads`; all by default. The other leaves, the heads, must have a
            leading task axis, and `fun` sees its own task's slice of them.
        stacked: whether to return the stacked tree. Otherwise a `TaskGradients`, as of
            `value_and_task_grads`.
        way: how that gathers, "taps" or "rows".

    Returns:
        A function of `(params, *task_batches, **kwargs)`, where every array of the arguments that
        are not differentiated is stacked over tasks on the leading axis. It returns
        `(losses, gradients)`, or `((losses, aux), gradients)`, with losses `(T,)`, `aux` stacked,
        shared leaves of the gradients `(T, *p.shape)`, and heads `p.shape` (each task's slice is
        the gradient of its own loss, and so of the summed loss).

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> def loss_fn(w, batch):
        ...     return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)
        >>> batches = {"x": jnp.ones((3, 8, 2)), "y": jnp.zeros((3, 8))}
        >>> losses, gradients = mtl.per_task_value_and_grad(loss_fn)(jnp.ones(2), batches)
        >>> print(losses, gradients.shape)
        [4. 4. 4.] (3, 2)
    """
    name = "per_task_value_and_grad"
    _checks.check_callable(name, "fun", fun)
    # Where tasks have inputs of their own, inner products at features have no meaning.
    check_way(name, stacked, way, ("taps", "rows"))
    numbers = as_tuple(name, argnums)

    @functools.wraps(fun)
    def of_one_task(*args: Any, **kwargs: Any) -> Any:
        out = fun(*args, **kwargs)
        loss = split_aux(name, out)[0] if has_aux else out
        if jnp.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            raise ValueError(
                f"{name}: the function must return one real scalar, the loss of one task, got "
                f"{jnp.result_type(loss)} of shape {jnp.shape(loss)}. Reduce it with jnp.mean."
            )
        return out

    @functools.wraps(fun)
    def value_and_grads(*args: Any, **kwargs: Any) -> Any:
        _, params = differentiated(name, fun, argnums, numbers, args, kwargs)
        leaves, structure = jax.tree.flatten(params)
        chosen = [True] * len(leaves)
        if shared is not None:
            chosen = jax.tree.leaves(shared_leaves(name, shared, params))
        params_axes = jax.tree.unflatten(structure, [None if pick else 0 for pick in chosen])
        axes: list[Any] = [0] * len(args)
        if isinstance(argnums, int):
            axes[numbers[0]] = params_axes
        else:
            for number, part in zip(numbers, params_axes, strict=True):
                axes[number] = part
        _check_task_axis(name, args, axes, kwargs)
        if not stacked:
            losses, aux, gradients = unstacked(args, kwargs, params, chosen)
            return ((losses, aux) if has_aux else losses), gradients
        graded = jax.value_and_grad(of_one_task, argnums, has_aux)
        return jax.vmap(lambda a, k: graded(*a, **k), in_axes=(tuple(axes), 0))(args, kwargs)

    def unstacked(args: Any, kwargs: Any, params: Any, chosen: list[bool]) -> Any:
        leaves = jax.tree.leaves(params)
        structure: Any = jax.tree.structure(params)
        places = [number % len(args) for number in numbers]
        batches = [arg for place, arg in enumerate(args) if place not in places], kwargs

        def of_leaves(leaves: list[Any], batch: Any) -> tuple[Any, Any]:
            value = structure.unflatten(leaves)
            others, named = iter(batch[0]), batch[1]
            parts = dict(zip(places, (value,) if isinstance(argnums, int) else value, strict=True))
            full = [parts[k] if k in parts else next(others) for k in range(len(args))]
            out = of_one_task(*full, **named)
            return out if has_aux else (out, None)

        leaf_axes = [None if pick else 0 for pick in chosen]
        compiled = any(map(is_traced, jax.tree.leaves((args, kwargs))))
        if way == "rows":
            mapped = jax.vmap(of_leaves, in_axes=(leaf_axes, 0))
            losses_of = lambda value: mapped(jax.tree.leaves(value), batches)
            return gather(name, losses_of, params, True, shared, way, compiled)
        if compiled and not lies_on_typed_mesh(leaves):
            return gather_own(of_leaves, leaves, chosen, batches, structure)
        graded = jax.value_and_grad(of_leaves, has_aux=True)
        (losses, aux), stacks = jax.vmap(graded, in_axes=(leaf_axes, 0))(leaves, batches)
        return losses, aux, of_stacks(losses, stacks, leaves, chosen, structure)

    return value_and_grads


def _check_task_axis(
    name: str, args: tuple[Any, ...], axes: list[Any], kwargs: dict[str, Any]
) -> None:
    """Raises unless every mapped array has the same leading task axis."""
    sizes: dict[int, str] = {}
    mapped = [
        (f"argument {number}", arg, axis)
        for number, (arg, axis) in enumerate(zip(args, axes, strict=True))
    ]
    mapped += [(f"argument {key!r}", value, 0) for key, value in kwargs.items()]
    nothing = lambda node: node is None  # An axis that is not mapped, or a field left out.
    for root, value, axis in mapped:
        leaf_axes = jax.tree.broadcast(axis, value, is_leaf=nothing)
        for (path, leaf), leaf_axis in zip(
            jax.tree_util.tree_leaves_with_path(value, is_leaf=nothing),
            jax.tree.leaves(leaf_axes, is_leaf=nothing),
            strict=True,
        ):
            if leaf is None or leaf_axis is None:
                continue
            where = _checks.leaf_name(root, path)
            if jnp.ndim(leaf) == 0:
                raise ValueError(
                    f"{name}: {where} is a scalar; every task batch must be stacked over tasks on "
                    "the leading axis. Close over what all tasks share."
                )
            sizes.setdefault(jnp.shape(leaf)[0], where)
    if not sizes:
        raise ValueError(f"{name}: no task batch was given, so the number of tasks is not known.")
    if len(sizes) > 1:
        found = ", ".join(f"{where}: {size}" for size, where in sizes.items())
        raise ValueError(
            f"{name}: the leading task axes differ ({found}). Stack one batch per task, padded to "
            "one size, and heads likewise."
        )

"""Task gradients where every task has a batch of its own."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_optax import _checks
from mtl_optax._task_gradients.calls import as_tuple, differentiated, split_aux
from mtl_optax._trees import Shared, shared_leaves


def per_task_value_and_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    shared: Shared | None = None,
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
        graded = jax.value_and_grad(of_one_task, argnums, has_aux)
        mapped = jax.vmap(lambda a, k: graded(*a, **k), in_axes=(tuple(axes), 0))
        return mapped(args, kwargs)

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
    for root, value, axis in mapped:
        leaf_axes = jax.tree.broadcast(axis, value, is_leaf=lambda a: a is None)
        for (path, leaf), leaf_axis in zip(
            jax.tree_util.tree_leaves_with_path(value),
            jax.tree.leaves(leaf_axes, is_leaf=lambda a: a is None),
            strict=True,
        ):
            if leaf_axis is None:
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

"""Task gradients of functions that return the losses of all tasks on the same input."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_optax import _checks
from mtl_optax._task_gradients.calls import as_tuple, check_task_losses, differentiated, split_aux
from mtl_optax._task_gradients.gather import check_way, gather
from mtl_optax._task_gradients.passes import for_each_row, one_for_each
from mtl_optax._tracing import is_traced
from mtl_optax._trees import Shared, shared_leaves


def value_and_task_grads(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    shared: Shared | None = None,
    *,
    stacked: bool = True,
    way: str = "taps",
) -> Callable[..., Any]:
    """Makes a function that returns all task losses and the gradient of each.

    Like `jax.value_and_grad`, for functions that return the losses of T tasks on the same input.
    The forward pass runs once, the backward pass once for each task: vectorised, but one after the
    other on the CPU for large models, where that is faster.

    Args:
        fun: maps `(params, *args, **kwargs)` to losses `(T,)`, or to `(losses, aux)`.
        argnums: which positional argument or arguments to differentiate.
        has_aux: whether `fun` returns `(losses, aux)`, with `aux` any pytree (batch statistics,
            say), computed in the one forward pass.
        shared: which leaves of the differentiated argument all tasks share: a name or several,
            the beginnings of their paths from the root, such as `"trunk"` or `"trunk/kernel"` (a
            leading `params` may be left out; with several `argnums`, the place among them comes
            first); a tree of booleans (a prefix suffices); or a predicate on the leaf's key path,
            as `jax.tree_util.tree_map_with_path` passes it. All by default. For the other
            leaves, the heads, the gradient of the summed loss is computed in a single backward
            pass, at their own size and never T times that.
        stacked: whether to return the stacked tree. Otherwise an object that answers what methods
            ask, a `TaskGradients`, for a step that is compiled as a whole.
        way: how the object gathers. "taps": from the inputs and the cotangents at dense layers and
            at tables, of which no gradient per task is made; other parameters, such as those of
            convolutions, get their own. "rows": one task's gradient at a time, for the sake of
            memory. "features": at what `fun` passes through `mtl_optax.mark_features`.

    Returns:
        A function of the arguments of `fun` that returns `(losses, gradients)`, or
        `((losses, aux), gradients)` if `has_aux`. Shared leaves of the gradients are
        `(T, *p.shape)`, heads `p.shape`. For a sequence `argnums`, a tuple of gradients. Those of
        complex parameters are those of `jax.grad`, the conjugates of what descent subtracts.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> def loss_fn(params, x):
        ...     y = params["trunk"] * x
        ...     return jnp.stack([jnp.sum(params["a"] * y), jnp.sum(params["b"] * y**2)])
        >>> params = {"trunk": jnp.array([1.0, 2.0]), "a": jnp.array(1.0), "b": jnp.array(0.5)}
        >>> losses, gradients = mtl.value_and_task_grads(loss_fn, shared="trunk")(params, 1.0)
        >>> print(losses, gradients["a"], gradients["b"])
        [3.  2.5] 3.0 5.0
        >>> print(gradients["trunk"])
        [[1. 1.]
         [1. 2.]]
    """
    name = "value_and_task_grads"
    _checks.check_callable(name, "fun", fun)
    check_way(name, stacked, way)
    numbers = as_tuple(name, argnums)

    @functools.wraps(fun)
    def value_and_grads(*args: Any, **kwargs: Any) -> Any:
        call, params = differentiated(name, fun, argnums, numbers, args, kwargs)
        if stacked:
            losses, aux, gradients = losses_and_gradients(name, call, params, has_aux, shared)
        else:
            compiled = any(map(is_traced, jax.tree.leaves((args, kwargs))))
            losses, aux, gradients = gather(name, call, params, has_aux, shared, way, compiled)
        return ((losses, aux) if has_aux else losses), gradients

    return value_and_grads


def losses_and_gradients(
    name: str,
    fun: Callable[[Any], Any],
    params: Any,
    has_aux: bool,
    shared: Shared | None,
) -> tuple[Float[Array, " T"], Any, Any]:
    """Returns the losses, the auxiliary output or None, and the gradients."""
    leaves, structure = jax.tree.flatten(params)
    chosen = [True] * len(leaves)
    if shared is not None:
        chosen = jax.tree.leaves(shared_leaves(name, shared, params))

    def on_leaves(trunk: list[Any], heads: list[Any]) -> tuple[Any, Any]:
        of_trunk, of_heads = iter(trunk), iter(heads)
        merged = [next(of_trunk) if pick else next(of_heads) for pick in chosen]
        out = fun(jax.tree.unflatten(structure, merged))
        losses, aux = split_aux(name, out) if has_aux else (out, None)
        check_task_losses(name, losses)
        return losses, aux

    trunk = [leaf for leaf, pick in zip(leaves, chosen, strict=True) if pick]
    heads = [leaf for leaf, pick in zip(leaves, chosen, strict=True) if not pick]
    losses, pullback, aux = jax.vjp(on_leaves, trunk, heads, has_aux=True)
    rows = one_for_each(losses)
    stacked = iter(for_each_row(lambda row: pullback(row)[0], rows, trunk))
    summed = iter(pullback(jnp.ones_like(losses))[1] if heads else [])
    gradients = jax.tree.unflatten(
        structure, [next(stacked) if pick else next(summed) for pick in chosen]
    )
    return losses, aux, gradients

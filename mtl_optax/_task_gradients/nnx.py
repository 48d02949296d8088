"""Task gradients of Flax NNX models, which hold their parameters."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from mtl_optax import _checks
from mtl_optax._task_gradients.calls import split_aux
from mtl_optax._task_gradients.gather import check_way, gather
from mtl_optax._task_gradients.stacked import losses_and_gradients
from mtl_optax._tracing import is_traced
from mtl_optax._trees import Shared


def nnx_value_and_task_grads(
    fun: Callable[..., Any],
    has_aux: bool = False,
    shared: Shared | None = None,
    *,
    wrt: Any | None = None,
    stacked: bool = True,
    way: str = "taps",
) -> Callable[..., Any]:
    """Makes a function that returns all task losses and the gradients of a Flax NNX model.

    `value_and_task_grads` for models that hold their parameters. What the forward pass changes in
    the model, or in other objects of NNX among the arguments, is changed in them: batch
    statistics, the counts of random streams. Flax is imported when it is called.

    Args:
        fun: maps `(model, *args, **kwargs)` to losses `(T,)`, or to `(losses, aux)`. The model
            that it is given is a copy.
        has_aux: whether `fun` returns `(losses, aux)`.
        shared: which parameters all tasks share, as for `value_and_task_grads`. Paths are those of
            `nnx.state(model, wrt)`.
        wrt: a filter of NNX that says what is differentiated, as for `nnx.Optimizer`; `nnx.Param`
            by default.
        stacked: whether to return the stacked tree. Otherwise an `nnx.State` that holds a
            `TaskGradients`, for `nnx.Optimizer.update`; elsewhere its parameters are
            `nnx.pure(nnx.state(model, wrt))`.
        way: how that gathers, as for `value_and_task_grads`.

    Returns:
        A function of the arguments of `fun` that returns `(losses, gradients)`, or
        `((losses, aux), gradients)` if `has_aux`. The gradients, an `nnx.State`, are for
        `nnx.Optimizer.update`. Shared leaves are `(T, *p.shape)`, heads `p.shape`.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> from flax import nnx
        >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        >>> tx = optax.chain(mtl.mgda(2), optax.sgd(0.1))
        >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        >>> loss_fn = lambda model, x, y: jnp.mean((model(x) - y) ** 2, axis=0)
        >>> @nnx.jit
        ... def train_step(model, optimizer, x, y):
        ...     losses, gradients = mtl.nnx_value_and_task_grads(loss_fn)(model, x, y)
        ...     optimizer.update(model, gradients, task_losses=losses)
        ...     return losses
        >>> train_step(model, optimizer, jnp.ones((4, 3)), jnp.ones((4, 2))).shape
        (2,)
    """
    name = "nnx_value_and_task_grads"
    _checks.check_callable(name, "fun", fun)
    check_way(name, stacked, way)

    @functools.wraps(fun)
    def value_and_grads(model: Any, *args: Any, **kwargs: Any) -> Any:
        from flax import nnx

        is_chosen = nnx.filterlib.to_predicate(nnx.Param if wrt is None else wrt)
        # Arrays among the arguments are no variables, and stay as they are.
        filters = (
            lambda path, x: path[0] == "model" and is_chosen(path[1:], x),
            nnx.Variable,
            ...,
        )
        split: Any = nnx.split
        call = {"model": model, "args": args, "kwargs": kwargs}
        graph, chosen, variables, arrays = split(call, *filters)

        def on_a_copy(params: Any) -> Any:
            chosen = nnx.State({"model": params})
            copy = nnx.merge(graph, chosen, variables, arrays, copy=True)
            out = fun(copy["model"], *copy["args"], **copy["kwargs"])
            losses, aux = split_aux(name, out) if has_aux else (out, None)
            return losses, (aux, split(copy, *filters)[2])

        params = chosen.get("model", {})
        if not jax.tree.leaves(params):
            raise ValueError(
                f"{name}: model must be an nnx.Module with variables that are differentiated "
                f"(wrt={wrt or nnx.Param!r}), got {type(model).__name__}. For a plain tree of "
                "parameters use value_and_task_grads."
            )
        _checks.check_params(name, params)
        gradients: Any
        if stacked:
            losses, (aux, variables), gradients = losses_and_gradients(
                name, on_a_copy, params, True, shared
            )
        else:
            compiled = any(map(is_traced, jax.tree.leaves((chosen, variables, arrays))))
            # `nnx.Optimizer` takes the variables off the parameters, and what methods return is to
            # have none.
            bare = nnx.as_pure(params) if hasattr(nnx, "as_pure") else nnx.pure(params)
            structure: Any = jax.tree.structure(params)
            losses, (aux, variables), found = gather(
                name,
                lambda bare: on_a_copy(structure.unflatten(jax.tree.leaves(bare))),
                bare,
                True,
                shared,
                way,
                compiled,
            )
            # The optimiser takes trees of variables that its filter chooses.
            kind = nnx.Param if wrt is None or not isinstance(wrt, type) else wrt
            gradients = nnx.State({"task_gradients": kind(found)})
        nnx.update(call, variables)
        return ((losses, aux) if has_aux else losses), gradients

    return value_and_grads

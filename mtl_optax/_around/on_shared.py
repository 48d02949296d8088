"""A method on the shared parameters alone, beside heads."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from mtl_optax import _checks
from mtl_optax._checks import KeyPath
from mtl_optax._diagnostics.scalars import task_weights
from mtl_optax._frame import Method, OptimizerMethod
from mtl_optax._precision import at_least_float32
from mtl_optax._trees import Shared, along_tasks, merge_trees, shared_leaves, split_tree
from mtl_optax._unstacked import TaskGradients, unwrapped


class OnSharedState(NamedTuple):
    """States of the method, on shared leaves, and of the transformation of the heads."""

    shared: Any
    heads: Any


Heads = Literal["unweighted", "weighted"]


def on_shared(
    method: optax.GradientTransformation,
    shared: Shared,
    heads: Heads | optax.GradientTransformation = "unweighted",
    *,
    head_tasks: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Applies a method to the shared leaves only, so that its norms and Gram are theirs.

    It takes the mixed tree that `value_and_task_grads(..., shared=shared)` returns: shared leaves
    stacked, `(T, *p.shape)`; head leaves the plain gradient of the summed loss, `p.shape`. Or a
    `TaskGradients`, whose heads get the gradient of the sum, or of the weighted sum, of the losses
    of the present tasks, so that nothing is to be known of which head is whose.

    Args:
        method: any method of this library, or another transformation of task gradients.
        shared: which leaves are shared, as for `value_and_task_grads`: a name or several, a tree
            of booleans, or a predicate on the key path.
        heads: "unweighted" passes head gradients through, the papers' rule for gradient methods;
            "weighted" multiplies each by its own task's weight, the rule for methods that weight
            losses; a transformation is applied to them, as methods that are optimisers need:
            `on_shared(adatask(T, optax.adam(lr)), shared, heads=optax.adam(lr))`.
        head_tasks: how a head leaf names its task, for heads="weighted". By default each head
            leaf of a stacked tree has a leading task axis. Otherwise a tree of task indices with
            the structure of `params`, or a prefix of it; an array of indices where a leaf's leading
            axis runs over tasks. Entries at shared leaves are ignored.

    Returns:
        A `GradientTransformationExtraArgs` from the mixed tree to leaves `p.shape` (shared leaves
        stay stacked if the method keeps the task axis).

        Gradients point up the loss and an optimiser's steps down, so that one of the two parts
        would climb if the other is of another kind. AdaTask with gradients passed through to the
        heads is an error; so is any other pair where the two turn gradients of ones in opposite
        directions, found out when `update` is first traced. So heads may have `optax.scale(-lr)`,
        which is gradient descent, beside an optimiser, and not beside a method that is none.

    Example:
        >>> import jax, jax.numpy as jnp, mtl_optax as mtl
        >>> params = {"trunk": jnp.zeros(2), "heads": jnp.zeros((3, 4))}
        >>> tx = mtl.on_shared(mtl.mgda(3), "trunk")
        >>> gradients = {"trunk": jnp.ones((3, 2)), "heads": jnp.ones((3, 4))}
        >>> updates, _ = tx.update(gradients, tx.init(params), params)
        >>> jax.tree.map(jnp.shape, updates)
        {'heads': (3, 4), 'trunk': (2,)}
    """
    _checks.check_optimizer("on_shared", "method", method)
    if isinstance(heads, str):
        _checks.check_choice("on_shared", "heads", heads, ("unweighted", "weighted"))
        if isinstance(method, OptimizerMethod):
            reason = (
                'heads="weighted" needs a method that weights tasks'
                if heads == "weighted"
                else "the heads' own gradients point uphill"
            )
            raise ValueError(
                f"on_shared: {reason}, and {method.name} is an optimiser, whose steps lead down. "
                "Give the heads an optimiser of their own: heads=optax.adam(lr)."
            )
    else:
        _checks.check_optimizer("on_shared", "heads", heads)
    if head_tasks is not None and heads != "weighted":
        raise ValueError('on_shared: head_tasks only means something with heads="weighted".')
    on_shared_leaves = optax.with_extra_args_support(method)
    on_heads = optax.with_extra_args_support(optax.identity() if isinstance(heads, str) else heads)
    told: list[bool] = []  # Asking takes a compilation: once is enough.

    def split(tree: Any) -> tuple[Any, Any]:
        return split_tree(shared_leaves("on_shared", shared, tree), tree)

    def init_fn(params: optax.Params) -> OnSharedState:
        trunk, head = split(params)
        state = OnSharedState(on_shared_leaves.init(trunk), on_heads.init(head))
        if heads == "weighted":
            weights = _weights_of(state.shared)
            if head_tasks is not None:
                by_head("on_shared", weights, head, head_tasks)
        return state

    def update_fn(
        updates: optax.Updates,
        state: OnSharedState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, OnSharedState]:
        _checks.check_extra("on_shared", extra)
        updates = unwrapped(updates)
        lazy = isinstance(updates, TaskGradients)
        if lazy and extra.get("task_mask") is not None:
            mask = _checks.check_mask("on_shared", updates.num_tasks, extra["task_mask"])
            updates = updates.masked(mask)
        trunk, head = updates.parts(shared) if lazy else split(updates)
        trunk_params, head_params = (None, None) if params is None else split(params)
        if not told:
            like = (trunk.shapes, head.params) if lazy else (trunk, head)
            told.append(_check_directions(method, heads, *like, extra))
        trunk, shared_state = on_shared_leaves.update(trunk, state.shared, trunk_params, **extra)
        if lazy:
            weights = _weights_of(shared_state) if heads == "weighted" else None
            head = head.combine(jnp.ones_like(head.losses) if weights is None else weights)
        if params is not None:
            _check_heads(head, head_params)
        head, heads_state = on_heads.update(head, state.heads, head_params, **extra)
        if heads == "weighted" and not lazy:
            head = _weigh_heads(_weights_of(shared_state), head, head_tasks)
        return merge_trees(trunk, head), OnSharedState(shared_state, heads_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _weights_of(state: Any) -> Array:
    try:
        return task_weights(state)
    except ValueError as error:
        raise ValueError(
            'on_shared: heads="weighted" needs a method that weights tasks, and this one keeps no '
            'task weights. Use heads="unweighted" or give a transformation.'
        ) from error


def _check_directions(method: Any, heads: Any, trunk: Any, head: Any, extra: Any) -> bool:
    """Raises if the shared leaves get steps down and the heads gradients, or the other way round.

    Returns True.
    """
    of_method = False if isinstance(method, Method) else _descends(method, trunk, extra, rows=True)
    of_heads = False if isinstance(heads, str) else _descends(heads, head, extra, rows=False)
    if of_method is None or of_heads is None or of_method == of_heads or not jax.tree.leaves(head):
        return True
    raise ValueError(
        "on_shared: the method takes an optimiser's steps, down, and the heads get gradients, "
        "which point uphill. Give them an optimiser of their own, heads=optax.adam(lr); or leave "
        "it out, and let one for both follow: optax.chain(on_shared(method, shared), "
        "optax.adam(lr))."
        if of_method
        else "on_shared: the heads take an optimiser's steps, down, and the method returns "
        "gradients, which point uphill. Put one behind it, optax.chain(method, optax.adam(lr)); or "
        "leave heads out, and let one for both follow: optax.chain(on_shared(method, shared), "
        "optax.adam(lr))."
    )


def _descends(transformation: Any, like: Any, extra: dict[str, Any], rows: bool) -> bool | None:
    """Whether gradients of ones become updates below zero, as an optimiser's steps are.

    Asked on leaves of one entry for each index of their leading axis, while tracing, for numbers.

    Args:
        transformation: any transformation.
        like: the gradients that it is given.
        extra: the arguments that it is given.
        rows: whether the gradients are stacked over tasks.

    Returns:
        None where it cannot be told: updates of both signs, hyper-parameters that are traced, a
        transformation that needs the leaves as they are.
    """
    ones = lambda x: jnp.ones(jnp.shape(x), jnp.result_type(x))
    small = lambda g: jnp.ones((*g.shape[:1], *(1 for _ in g.shape[1:])), g.dtype)
    tx = optax.with_extra_args_support(transformation)

    @jax.jit
    def two_steps() -> tuple[Array, Array]:  # Schedules may begin at zero.
        gradients = jax.tree.map(small, like)
        params = jax.tree.map(lambda g: g[0] if rows else g, gradients)
        given = {
            key: gradients if key.endswith("query_gradients") else jax.tree.map(ones, value)
            for key, value in extra.items()
        }
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(gradients, state, params, **given)
        signs = [jnp.sign(u) for u in jax.tree.leaves(updates)]
        return (
            jnp.stack([jnp.all(sign < 0) for sign in signs]),
            jnp.stack([jnp.all(sign > 0) for sign in signs]),
        )

    try:
        with jax.ensure_compile_time_eval():
            down, up = map(np.asarray, two_steps())
    except Exception:  # It will say so itself when it gets the leaves as they are.
        return None
    return True if down.all() else False if up.all() else None


def _check_heads(gradients: Any, params: Any) -> None:
    for (path, gradient), param in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(params), strict=True
    ):
        if jnp.shape(gradient) != jnp.shape(param):
            raise ValueError(
                f"on_shared: head gradient {_checks.leaf_name('updates', path)} has shape "
                f"{jnp.shape(gradient)}, wanted that of its parameter, {jnp.shape(param)}. Get "
                "gradients from value_and_task_grads(loss_fn, shared=shared) with the same shared."
            )


def _weigh_heads(weights: Array, heads: Any, head_tasks: Any | None) -> Any:
    def weigh(leaf: Array, weight: Array) -> Array:
        dtype = at_least_float32(weights, leaf)
        return (leaf.astype(dtype) * weight.astype(dtype)).astype(leaf.dtype)

    return jax.tree.map(weigh, heads, _by_leaf(weights, heads, head_tasks))


def _by_leaf(weights: Array, heads: Any, head_tasks: Any | None) -> Any:
    """Lays the weights of the tasks along the heads' leaves."""
    if head_tasks is not None:
        return by_head("on_shared", weights, heads, head_tasks)
    for path, leaf in jax.tree_util.tree_leaves_with_path(heads):
        if jnp.shape(leaf)[:1] != weights.shape:
            raise ValueError(
                f"on_shared: head {_checks.leaf_name('params', path)} of shape {jnp.shape(leaf)} "
                f"has no leading axis of {weights.shape[0]} tasks, so that its task is not "
                "known. Name it with head_tasks, a tree of task indices."
            )
    return jax.tree.map(lambda leaf: along_tasks(weights, leaf), heads)


def by_head(caller: str, values: Array, heads: Any, head_tasks: Any) -> Any:
    """Lays values of the tasks, `(T,)`, along the heads' leaves, each by the task it belongs to."""
    num_tasks = values.shape[0]
    structure: Any = jax.tree.structure(head_tasks)
    try:
        parts = structure.flatten_up_to(heads)
    except ValueError as error:
        raise ValueError(
            f"{caller}: head_tasks must be a tree of task indices with the structure of params, or "
            f"a prefix of it. {error}"
        ) from error

    def lay(path: KeyPath, tasks: Any, leaf: Array) -> Array:
        index, shape = np.asarray(tasks), jnp.shape(leaf)
        fits = np.issubdtype(index.dtype, np.integer) and index.shape in ((), shape[:1])
        if not fits or not np.all((index >= 0) & (index < num_tasks)):
            raise ValueError(
                f"{caller}: head_tasks must give {_checks.leaf_name('params', path)} of shape "
                f"{shape} a task index below num_tasks={num_tasks}, or an array of them along "
                f"its leading axis, got {tasks!r}."
            )
        laid = values[index]
        return along_tasks(laid, leaf) if laid.ndim else laid

    laid = [
        jax.tree_util.tree_map_with_path(
            lambda rest, leaf, path=path, tasks=tasks: lay((*path, *rest), tasks, leaf), part
        )
        for (path, tasks), part in zip(
            jax.tree_util.tree_leaves_with_path(head_tasks), parts, strict=True
        )
    ]
    return structure.unflatten(laid)

"""Building blocks around a method: one optimiser per task, shared parameters and heads."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from mtl_optax import _contract
from mtl_optax._gram import along_tasks, select_tasks, weigh_rows, zero_absent


class PerTaskState(NamedTuple):
    """State of the lifted transformation: every leaf has a leading task axis."""

    inner: Any


def per_task(
    num_tasks: int, transformation: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Lifts an optax transformation over the task axis: one independent copy for each task.

    Args:
        num_tasks: the number T of tasks.
        transformation: any optax transformation, such as `optax.scale_by_adam()` or
            `optax.clip_by_global_norm(1.0)`. Its state costs T times what it costs for one task.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `(T, *p.shape)`.
        All copies see the same `params` and extra arguments. An absent task (`task_mask`) gets a
        zero update and its copy's state stands still.

    Example:
        Clip every task's gradient to norm one, then sum:

        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> clip = mtl.per_task(2, optax.clip_by_global_norm(1.0))
        >>> tx = optax.chain(clip, mtl.sum_tasks(2))
        >>> gradients = jnp.array([[3.0, 4.0], [0.0, 0.5]])
        >>> updates, _ = tx.update(gradients, tx.init(jnp.zeros(2)))
        >>> print([round(float(u), 3) for u in updates])
        [0.6, 1.3]
    """
    _contract.check_num_tasks("per_task", num_tasks)
    _contract.check_optimizer("per_task", "transformation", transformation)
    return lifted_as("per_task", num_tasks, transformation)


def lifted_as(
    name: str, num_tasks: int, transformation: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Is `per_task`, for errors to be about the function called `name`."""
    lifted = optax.with_extra_args_support(transformation)

    def init_fn(params: optax.Params) -> PerTaskState:
        _contract.declare(name, num_tasks)
        return PerTaskState(jax.vmap(lifted.init, in_axes=None, axis_size=num_tasks)(params))

    def update_fn(
        task_gradients: optax.Updates,
        state: PerTaskState,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, PerTaskState]:
        _contract.check_step(name, num_tasks, task_gradients, params, extra)
        updates, inner = jax.vmap(lambda g, s: lifted.update(g, s, params, **extra))(
            task_gradients, state.inner
        )
        if task_mask is not None:
            mask = _contract.check_mask(name, num_tasks, task_mask)
            updates = zero_absent(mask, updates)
            inner = select_tasks(mask, inner, state.inner)
        return updates, PerTaskState(inner)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class OnSharedState(NamedTuple):
    """States of the method, on shared leaves, and of the transformation of the heads."""

    shared: Any
    heads: Any


Heads = Literal["unweighted", "weighted"]


def on_shared(
    method: optax.GradientTransformation,
    shared: _contract.Shared,
    heads: Heads | optax.GradientTransformation = "unweighted",
    *,
    head_tasks: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Applies a method to the shared leaves only, so that its norms and Gram are theirs.

    It takes the mixed tree that `value_and_task_grads(..., shared=shared)` returns: shared leaves
    stacked, `(T, *p.shape)`; head leaves the plain gradient of the summed loss, `p.shape`.

    Args:
        method: any method of this library, or another transformation of task gradients.
        shared: which leaves are shared, a tree of booleans or a predicate on the key path, as for
            `value_and_task_grads`.
        heads: "unweighted" passes head gradients through, the papers' rule for gradient methods;
            "weighted" multiplies each by its own task's weight, the rule for methods that weight
            losses; a transformation is applied to them, as AdaTask asks for:
            `on_shared(adatask(T, optax.adam(lr)), shared, heads=optax.adam(lr))`.
        head_tasks: how a head leaf names its task, for heads="weighted". By default each head
            leaf has a leading task axis. Otherwise a tree of task indices with the structure of
            `params`, or a prefix of it; entries at shared leaves are ignored.

    Returns:
        A `GradientTransformationExtraArgs` from the mixed tree to leaves `p.shape` (shared leaves
        stay stacked if the method keeps the task axis).

    Example:
        >>> import jax, jax.numpy as jnp, mtl_optax as mtl
        >>> params = {"trunk": jnp.zeros(2), "heads": jnp.zeros((3, 4))}
        >>> shared = {"trunk": True, "heads": False}
        >>> tx = mtl.on_shared(mtl.mgda(3), shared)
        >>> gradients = {"trunk": jnp.ones((3, 2)), "heads": jnp.ones((3, 4))}
        >>> updates, _ = tx.update(gradients, tx.init(params), params)
        >>> jax.tree.map(jnp.shape, updates)
        {'heads': (3, 4), 'trunk': (2,)}
    """
    _contract.check_optimizer("on_shared", "method", method)
    if isinstance(heads, str):
        _contract.check_choice("on_shared", "heads", heads, ("unweighted", "weighted"))
    else:
        _contract.check_optimizer("on_shared", "heads", heads)
    if head_tasks is not None and heads != "weighted":
        raise ValueError('on_shared: head_tasks only means something with heads="weighted".')
    on_shared_leaves = optax.with_extra_args_support(method)
    on_heads = optax.with_extra_args_support(optax.identity() if isinstance(heads, str) else heads)

    def split(tree: Any) -> tuple[Any, Any]:
        return split_tree(_contract.shared_leaves("on_shared", shared, tree), tree)

    def init_fn(params: optax.Params) -> OnSharedState:
        trunk, head = split(params)
        state = OnSharedState(on_shared_leaves.init(trunk), on_heads.init(head))
        if heads == "weighted":
            _weights_of(state.shared)
        return state

    def update_fn(
        updates: optax.Updates,
        state: OnSharedState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, OnSharedState]:
        _contract.check_extra("on_shared", extra)
        trunk, head = split(updates)
        trunk_params, head_params = (None, None) if params is None else split(params)
        trunk, shared_state = on_shared_leaves.update(trunk, state.shared, trunk_params, **extra)
        if params is not None:
            _check_heads(head, head_params)
        head, heads_state = on_heads.update(head, state.heads, head_params, **extra)
        if heads == "weighted":
            head = _weigh_heads(_weights_of(shared_state), head, head_tasks)
        return merge_trees(trunk, head), OnSharedState(shared_state, heads_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def split_tree(chosen: Any, tree: Any) -> tuple[Any, Any]:
    """Splits a tree in two of its own structure, with placeholders for the other's leaves."""
    hidden = optax.MaskedNode()
    return (
        jax.tree.map(lambda keep, leaf: leaf if keep else hidden, chosen, tree),
        jax.tree.map(lambda keep, leaf: hidden if keep else leaf, chosen, tree),
    )


def merge_trees(first: Any, second: Any) -> Any:
    """Undoes `split_tree`."""
    hidden = _contract.is_hidden
    return jax.tree.map(lambda f, s: s if hidden(f) else f, first, second, is_leaf=hidden)


def _weights_of(state: Any) -> Array:
    weights = optax.tree_utils.tree_get(state, "weights", None)
    if weights is None:
        raise ValueError(
            'on_shared: heads="weighted" needs a method that weights tasks, and this one has no '
            '`weights` in its state. Use heads="unweighted" or give a transformation.'
        )
    return weights


def _check_heads(gradients: Any, params: Any) -> None:
    for (path, gradient), param in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(params), strict=True
    ):
        if jnp.shape(gradient) != jnp.shape(param):
            raise ValueError(
                f"on_shared: head gradient {_contract.leaf_name('updates', path)} has shape "
                f"{jnp.shape(gradient)}, wanted that of its parameter, {jnp.shape(param)}. Get "
                "gradients from value_and_task_grads(loss_fn, shared=shared) with the same shared."
            )


def _weigh_heads(weights: Array, heads: Any, head_tasks: Any | None) -> Any:
    if head_tasks is None:
        for path, leaf in jax.tree_util.tree_leaves_with_path(heads):
            if leaf.ndim == 0 or leaf.shape[0] != weights.shape[0]:
                raise ValueError(
                    f"on_shared: head {_contract.leaf_name('updates', path)} of shape {leaf.shape} "
                    f"has no leading axis of {weights.shape[0]} tasks, so that its task is not "
                    "known. Name it with head_tasks, a tree of task indices."
                )
        return weigh_rows(weights, heads)
    return jax.tree.map(
        lambda task, part: jax.tree.map(
            lambda leaf: leaf * along_tasks(weights[task], leaf).astype(leaf.dtype), part
        ),
        head_tasks,
        heads,
    )

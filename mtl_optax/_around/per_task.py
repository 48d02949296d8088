"""One optimiser for each task."""

from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array

from mtl_optax import _checks
from mtl_optax._frame import Contract
from mtl_optax._trees import select_tasks, zero_absent
from mtl_optax._unstacked import as_stack


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
        All copies see the same `params` and extra arguments, and draw the same random numbers:
        for noise that differs from task to task, leave `per_task` out. An absent task (`task_mask`)
        gets a zero update and its copy's state stands still.

    Example:
        Clip every task's gradient to norm one, then sum:

        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> clip = mtl.per_task(2, optax.clip_by_global_norm(1.0))
        >>> tx = optax.chain(clip, mtl.sum_tasks(2))
        >>> gradients = jnp.array([[3.0, 4.0], [0.0, 0.5]])
        >>> params = jnp.zeros(2)
        >>> updates, _ = tx.update(gradients, tx.init(params), params)
        >>> print([round(float(u), 3) for u in updates])
        [0.6, 1.3]
    """
    _checks.check_num_tasks("per_task", num_tasks)
    _checks.check_optimizer("per_task", "transformation", transformation)
    return lifted_as("per_task", num_tasks, transformation)


def lifted_as(
    name: str, num_tasks: int, transformation: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Is `per_task`, for errors to be about the function called `name`."""
    lifted = optax.with_extra_args_support(transformation)
    contract = Contract(name, num_tasks)

    def init_fn(params: optax.Params) -> PerTaskState:
        contract.start(params)
        return PerTaskState(jax.vmap(lifted.init, in_axes=None, axis_size=num_tasks)(params))

    def update_fn(
        task_gradients: optax.Updates,
        state: PerTaskState,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, PerTaskState]:
        task_gradients = as_stack(task_gradients)
        contract.check_step(task_gradients, params, extra)
        updates, inner = jax.vmap(lambda g, s: lifted.update(g, s, params, **extra))(
            task_gradients, state.inner
        )
        if task_mask is not None:
            mask = _checks.check_mask(name, num_tasks, task_mask)
            updates = zero_absent(mask, updates)
            inner = select_tasks(mask, inner, state.inner)
        return updates, PerTaskState(inner)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)

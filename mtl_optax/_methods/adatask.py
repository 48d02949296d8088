"""AdaTask: an adaptive optimiser state for each task (Yang et al. 2023)."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from mtl_optax import _checks
from mtl_optax._around.per_task import PerTaskState, lifted_as
from mtl_optax._frame import OptimizerMethod
from mtl_optax._gram import combine as combine_rows
from mtl_optax._registry import register
from mtl_optax._solvers.simplex import uniform

Reduction = Literal["sum", "mean"]
_ADAM = optax.adam(1e-3)


class AdaTaskState(NamedTuple):
    """The optimiser's state for each task."""

    per_task: PerTaskState


@register(
    "A state of the optimiser for each task, so that none dominates the step size.",
    "Yang et al. 2023, https://arxiv.org/abs/2211.15055",
    reads=frozenset({"coordinates"}),
    scale="step",
    properties=frozenset({"deterministic", "equivariant"}),
    heads=_ADAM,
    is_optimizer=True,
    arguments=lambda num_tasks: {"optimizer": _ADAM},
)
def adatask(
    num_tasks: int,
    optimizer: optax.GradientTransformation,
    *,
    reduction: Reduction = "sum",
    combine: bool = True,
) -> OptimizerMethod:
    """Gives each task its own optimiser state and adds up the tasks' steps.

    `Δθ = Σ_t optimizer_t(g_t)`: with Adam, `Δθ = -η Σ_t m̂_t / (sqrt(v̂_t) + eps)`, so that no task
    dominates the accumulated squares that set the others' step size. The factory is
    `per_task(T, optimizer)` followed by a sum.

    Args:
        num_tasks: the number T of tasks.
        optimizer: any optax optimiser, `optax.adam(lr)` say, with its learning rate; or a part of
            one, `optax.scale_by_adam()` say, to be chained with `optax.scale_by_learning_rate`.
        reduction: "sum" as in the paper, or "mean" over the present tasks. T identical tasks make
            the sum T times the step of one; Adam on the summed gradient makes it once.
        combine: if False, return the tasks' own steps, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`, to be used as the last transformation if
        `optimizer` holds the learning rate: an optimiser behind it would take the steps for
        gradients, and climb. The state is T times that of `optimizer`. It is not linear in the
        gradients, so it has no task weights. Its numbers are the optimiser's: optax's Adam squares
        gradients, so that in float32 a task beyond 1e19 takes no step, and below its epsilon, 1e-8,
        steps shrink with the gradient. With heads:
        `on_shared(adatask(T, optax.adam(lr)), shared, heads=optax.adam(lr))`.

    When not to use:
        With an optimiser that decays weights, such as `optax.adamw(lr)`: each task's step decays
        them, T times in all. Put `optax.add_decayed_weights` into the chain after `adatask(T,
        optax.scale_by_adam())` instead. Where T states of the optimiser are too many, or tasks so
        alike that steps up to T times as long do harm.

    References:
        Yang et al., `AdaTask: A Task-Aware Adaptive Learning Rate Approach to Multi-Task Learning
        <https://arxiv.org/abs/2211.15055>`_, 2023, Algorithms 1 and 2, where γ₁ is the decay of
        the second moment and γ₂ that of the first. The paper adds eps under the root, its code
        and optax outside (`optax.adam(eps_root=...)` for the former).

    Example:
        A task of a thousand times the scale takes no larger steps:

        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> tx = mtl.adatask(2, optax.adam(0.1))
        >>> gradients = jnp.array([[1000.0, 0.0], [0.0, 1.0]])
        >>> params = jnp.zeros(2)
        >>> print(tx.update(gradients, tx.init(params), params)[0].round(3))
        [-0.1 -0.1]
    """
    _checks.check_num_tasks("adatask", num_tasks)
    _checks.check_optimizer("adatask", "optimizer", optimizer)
    _checks.check_choice("adatask", "reduction", reduction, get_args(Reduction))
    lifted = lifted_as("adatask", num_tasks, optimizer)

    def init_fn(params: optax.Params) -> AdaTaskState:
        return AdaTaskState(lifted.init(params))

    def update_fn(
        task_gradients: optax.Updates,
        state: AdaTaskState,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, AdaTaskState]:
        steps, inner = lifted.update(
            task_gradients, state.per_task, params, task_mask=task_mask, **extra
        )
        mask = _checks.check_mask("adatask", num_tasks, task_mask)
        shares = mask.astype(jnp.float32) if reduction == "sum" else uniform(mask)
        if combine:
            updates = combine_rows(shares, steps)
        elif reduction == "mean":
            updates = jax.tree.map(lambda s: s * jnp.max(shares).astype(s.dtype), steps)
        else:
            updates = steps
        return updates, AdaTaskState(inner)

    return OptimizerMethod(init_fn, update_fn)

"""Methods whose weights are on moving averages of the task gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtl_optax import _checks
from mtl_optax._around.task_ema import TaskEmaState, first_averages, next_averages
from mtl_optax._complex import accumulator
from mtl_optax._frame import Contract, Weighting, WeightingState, from_weighting
from mtl_optax._gram import weigh_rows
from mtl_optax._unstacked import TaskGradients, as_stack, unwrapped


class AveragedState(NamedTuple):
    """State of a method whose update is `Σ_t w_t y_t`, with averages `y_t` of the task gradients.

    Attributes:
        weights: `(T,)` float32, the weights of the last update, of the averages and not of the
            gradients; zeros before the first.
        ema: the averages, T × N numbers.
        inner: the state of the rule for the weights.
    """

    weights: Float[Array, " T"]
    ema: TaskEmaState
    inner: Any


def from_averages(
    weighting: Weighting,
    decay: Callable[[Array], Array],
    *,
    factors: Callable[[Float[Array, " T"]], Float[Array, " T"]] | None = None,
    combine_tasks: bool,
) -> optax.GradientTransformationExtraArgs:
    """Makes the method of a weighting that sees averages of the task gradients.

    Args:
        weighting: the rule for the weights.
        decay: maps how often a task was present before to the share of its average that is kept.
        factors: maps the losses to what the task gradients are multiplied by at first.
        combine_tasks: whether the update is the sum over tasks, or its rows `w_t y_t`.
    """
    name, num_tasks = weighting.name, weighting.num_tasks
    method = from_weighting(weighting, combine_tasks=combine_tasks)
    contract = Contract(name, num_tasks, () if factors is None else {"task_losses"})

    def init_fn(params: optax.Params) -> AveragedState:
        contract.start(params)
        weights, inner = method.init(params)
        return AveragedState(weights, first_averages(num_tasks, params), inner)

    def update_fn(
        task_gradients: optax.Updates,
        state: AveragedState,
        params: optax.Params | None = None,
        *,
        task_losses: Array | None = None,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, AveragedState]:
        task_gradients = unwrapped(task_gradients)
        if isinstance(task_gradients, TaskGradients) and task_losses is None:
            task_losses = task_gradients.losses
        task_gradients = as_stack(task_gradients)
        contract.check_step(task_gradients, params, extra)
        mask = _checks.check_mask(name, num_tasks, task_mask)
        rows = jax.tree.map(lambda g: g.astype(accumulator(g)), task_gradients)
        if factors is not None:
            losses = _checks.check_losses(name, num_tasks, task_losses)
            rows = weigh_rows(factors(losses), rows)
        ema = next_averages(state.ema, rows, mask, decay, "zero")
        like = jax.tree.map(lambda row: jax.ShapeDtypeStruct(row.shape[1:], row.dtype), rows)
        before = WeightingState(state.weights, state.inner)
        updates, after = method.update(ema.averages, before, like, task_mask=task_mask)
        updates = jax.tree.map(lambda u, g: u.astype(g.dtype), updates, task_gradients)
        return updates, AveragedState(after.weights, ema, after.inner)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def falling(start: Any, power: Any, count: Array) -> Array:
    """Returns `start / k^power` in the `k`-th step, when `count` went before."""
    step = count.astype(float) + 1
    return jnp.asarray(start, step.dtype) / step ** jnp.asarray(power, step.dtype)

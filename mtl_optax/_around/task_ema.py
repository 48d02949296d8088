"""Moving averages of each task's gradient."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from mtl_optax import _checks
from mtl_optax._complex import accumulator
from mtl_optax._frame import Contract
from mtl_optax._precision import at_least_float32
from mtl_optax._tracing import varying_like
from mtl_optax._trees import along_tasks, select_tasks, stacked_zeros, zero_absent
from mtl_optax._unstacked import as_stack

Start = Literal["zero", "first", "debiased"]


class TaskEmaState(NamedTuple):
    """The averages, T × N numbers, cut over devices as the parameters are.

    Attributes:
        counts: `(T,)` int32, in how many steps each task was present.
        totals: `(T,)`, the sum of the weights that each average has given to gradients, the rest
            being on the zero that it started from.
        averages: leaves `(T, *p.shape)`, in float32 or better.
    """

    counts: Int[Array, " T"]
    totals: Float[Array, " T"]
    averages: Any


def task_ema(
    num_tasks: int, decay: float | optax.Schedule, *, start: Start = "debiased"
) -> optax.GradientTransformationExtraArgs:
    """Averages each task's gradient over the steps: `y_t <- decay y_t + (1 - decay) g_t`.

    A link of a chain, for what follows to see averages in place of gradients: weights that a method
    finds on them change with less noise, and so does its direction.

    Args:
        num_tasks: the number T of tasks.
        decay: the share of the old average that is kept, in [0, 1); or a schedule, a function of
            the number of steps in which the task was present before.
        start: "zero" starts at zero, so that the first averages are short; "debiased" divides that
            by the weights that gradients have in it, as Adam does; "first" starts at the task's
            first gradient.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `(T, *p.shape)`.
        Sums are in float32 or better, and what is returned has the dtype of the gradients. The
        average of an absent task (`task_mask`) stands still, its count too, and its row is zero.
        What is not finite stays in a task's average for good: guard the chain with
        `skip_nonfinite`.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> tx = optax.chain(mtl.task_ema(2, 0.5), mtl.mgda(2), optax.sgd(0.1))
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> for gradients in (jnp.eye(2), 4 * jnp.eye(2)):
        ...     updates, state = tx.update(gradients, state, params)
        >>> print(state[0].averages)
        [[3. 0.]
         [0. 3.]]
    """
    name = "task_ema"
    _checks.check_num_tasks(name, num_tasks)
    if not callable(decay):
        _checks.check_number(name, "decay", decay, low=0, high=1, open_high=True)
    _checks.check_choice(name, "start", start, get_args(Start))
    contract = Contract(name, num_tasks)

    def init_fn(params: optax.Params) -> TaskEmaState:
        contract.start(params)
        return first_averages(num_tasks, params)

    def update_fn(
        task_gradients: optax.Updates,
        state: TaskEmaState,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, TaskEmaState]:
        task_gradients = as_stack(task_gradients)
        contract.check_step(task_gradients, params, extra)
        mask = _checks.check_mask(name, num_tasks, task_mask)
        state = next_averages(state, task_gradients, mask, decay, start)
        rows = state.averages if task_mask is None else zero_absent(mask, state.averages)
        return jax.tree.map(lambda row, g: row.astype(g.dtype), rows, task_gradients), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def first_averages(num_tasks: int, params: optax.Params) -> TaskEmaState:
    """Returns the state of averages of task gradients before the first step."""
    totals = jnp.zeros(num_tasks, at_least_float32(*jax.tree.leaves(params)))
    counts = jnp.zeros(num_tasks, jnp.int32)
    rows = stacked_zeros(num_tasks, params, accumulator)
    return TaskEmaState(*varying_like((counts, totals), params), rows)


def next_averages(
    state: TaskEmaState,
    task_gradients: Any,
    mask: Bool[Array, " T"],
    decay: Any,
    start: Start,
) -> TaskEmaState:
    """Takes the gradients of the present tasks into their averages."""
    # Of a Python number in its own precision: in float32, 1 - 0.999 has lost five digits.
    kept = jax.vmap(decay)(state.counts) if callable(decay) else decay
    share = jnp.broadcast_to(jnp.asarray(1 - kept, state.totals.dtype), state.totals.shape)
    if start == "first":
        share = jnp.where(state.counts == 0, 1, share)
    totals = state.totals + share * (1 - state.totals)
    if start == "debiased":  # An average itself, of shares that begin at one.
        share = share / jnp.where(totals > 0, totals, 1)

    def average(old: Array, gradient: Array) -> Array:
        part = along_tasks(share, old).astype(old.dtype)
        return (1 - part) * old + part * gradient.astype(old.dtype)

    rows = jax.tree.map(average, state.averages, task_gradients)
    following = TaskEmaState(optax.safe_increment(state.counts), totals, rows)
    return select_tasks(mask, following, state)

"""GO4Align: weights by groups of tasks (Shen et al. 2024)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting, softmax_present
from mtl_optax._methods._logarithms import add_losses, logs_of_positive
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._tracing import varying_like


class GO4AlignState(NamedTuple):
    """The history of the losses.

    Attributes:
        scores: `(T,)` float32, minus `η` times the sum of each task's losses, the logits of `p`.
    """

    scores: Float[Array, " T"]


@register(
    "Takes out the losses' scales, and gives like tasks like weights.",
    "Shen et al. 2024, https://arxiv.org/abs/2404.07518",
    reads=frozenset({"losses"}),
    scale="sum",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous", "conic"},
    heads="weighted",
)
def go4align(
    num_tasks: int, *, num_groups: int = 1, step_size: float = 1e-4, combine: bool = True
) -> Method:
    """Weighs tasks by group: `d = Σ_t W_t g_t`, `W_t` the mean of `s` over the group of task t.

    `s_t = p_t Σ_s L_s / L_t`, `p <- p exp(-η L)` scaled to sum to one, so that the scale of a loss
    goes out and one that has fallen fast gains. The groups are those of k-means on the T numbers
    `s`, found exactly: in order, groups are intervals.

    Args:
        num_tasks: the number T of tasks.
        num_groups: how many groups there are, at least 1. With one group, the default of the
            authors' code, all tasks have the same weight; with T each has its own.
        step_size: η, at least 0.
        combine: if False, return the rows `W_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: sum; equal losses
        give weights of one. A loss at or below zero has no part in it: its task is left out.

    When not to use:
        With one group: it is a sum whose length follows the losses' ratios. Where a loss can come
        near zero: its weight grows as `1 / L`.

    References:
        Shen et al., `GO4Align: Group Optimization for Multi-Task Alignment
        <https://arxiv.org/abs/2404.07518>`_, 2024, and its code. There k-means starts at random
        centres, and may end in another grouping than the best.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.go4align(3, num_groups=2, step_size=0.0)
        >>> params = jnp.zeros(3)
        >>> losses = jnp.array([1.0, 2.0, 4.0])
        >>> updates, _ = tx.update(jnp.eye(3), tx.init(params), params, task_losses=losses)
        >>> print([round(float(x), 3) for x in updates])
        [2.333, 0.875, 0.875]
    """
    _checks.check_num_tasks("go4align", num_tasks)
    _checks.check_count("go4align", "num_groups", num_groups)
    _checks.check_number("go4align", "step_size", step_size, low=0)

    def init() -> GO4AlignState:
        return GO4AlignState(jnp.zeros(num_tasks, jnp.float32))

    def update(evidence: Evidence, state: GO4AlignState) -> tuple[Array, GO4AlignState]:
        mask, losses = evidence.mask, evidence.losses
        logs, counted = logs_of_positive(losses, mask)
        scores = add_losses(state.scores, -step_size, losses, mask)
        p = softmax_present(scores, counted).astype(logs.dtype)
        total = jax.nn.logsumexp(jnp.where(counted | ~jnp.any(counted), logs, -jnp.inf))
        strengths = jnp.where(counted, p * jnp.exp(jnp.clip(total - logs, -80, 80)), 0)
        return _group_means(strengths, counted, jnp.asarray(num_groups, jnp.int32)), GO4AlignState(
            scores
        )

    weighting = Weighting("go4align", num_tasks, frozenset({"losses"}), init, update)
    return from_weighting(weighting, combine_tasks=combine)


@jax.jit
def _group_means(
    values: Float[Array, " T"], mask: Bool[Array, " T"], num_groups: Int[Array, ""]
) -> Float[Array, " T"]:
    """Returns for each value the mean of its group, of the grouping with the least squares."""
    num_tasks = len(values)
    order = jnp.argsort(jnp.where(mask, values, jnp.inf))
    ordered, counts = values[order], mask[order].astype(values.dtype)
    # Those in front of the first number of an interval, and those behind its last, are not in it.
    places = jnp.arange(num_tasks)
    first, last, at = (jnp.expand_dims(places, axes) for axes in ((1, 2), (0, 2), (0, 1)))
    inside = jnp.where((at >= first) & (at <= last), jnp.expand_dims(counts, (0, 1)), 0)
    sizes = jnp.sum(inside, axis=2)
    means = jnp.sum(inside * jnp.expand_dims(ordered, (0, 1)), axis=2) / jnp.maximum(sizes, 1)
    offsets = jnp.expand_dims(ordered, (0, 1)) - jnp.expand_dims(means, 2)
    costs = jnp.sum(inside * offsets**2, axis=2)
    costs = jnp.where(jnp.expand_dims(places, 1) <= jnp.expand_dims(places, 0), costs, jnp.inf)

    def add_group(best: Array, _: None) -> tuple[Array, Array]:
        # One more group begins at `first`, behind the best grouping of those in front of it.
        before = jnp.concatenate([jnp.zeros(1, best.dtype), best[:-1]])
        totals = jnp.expand_dims(before, 1) + costs
        best = jnp.min(totals, axis=0)
        return best, jnp.argmin(totals, axis=0)

    _, starts = jax.lax.scan(add_group, costs[0], None, length=num_tasks - 1)
    starts = jnp.concatenate([jnp.zeros((1, num_tasks), starts.dtype), starts])

    def lay(number: Int[Array, ""], carried: tuple[Array, Array]) -> tuple[Array, Array]:
        laid, end = carried
        start = starts[jnp.maximum(wanted - 1 - number, 0), jnp.maximum(end, 0)]
        group = (places >= start) & (places <= end) & (number < wanted)
        laid = jnp.where(group, means[start, jnp.maximum(end, 0)], laid)
        return laid, jnp.where(number < wanted, start - 1, end)

    wanted = jnp.clip(num_groups, 1, num_tasks).astype(starts.dtype)
    last_place = jnp.asarray(num_tasks - 1, starts.dtype)
    # As often as there can be groups, so that derivatives pass.
    begin = varying_like((jnp.zeros_like(ordered), last_place), starts, means, wanted)
    means_at, _ = jax.lax.fori_loop(0, num_tasks, lay, begin)
    return jnp.where(mask, jnp.zeros_like(values).at[order].set(means_at), 0)

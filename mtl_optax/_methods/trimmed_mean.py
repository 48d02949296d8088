"""The coordinate-wise trimmed mean (Yin et al. 2018)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from mtl_optax import _checks
from mtl_optax._complex import as_given, as_real
from mtl_optax._frame import Contract
from mtl_optax._gram import FEW_TASKS
from mtl_optax._precision import at_least_float32
from mtl_optax._registry import register
from mtl_optax._unstacked import as_stack


@register(
    "The mean of each coordinate without its largest and smallest entries.",
    "Yin et al. 2018, https://arxiv.org/abs/1803.01498",
    reads=frozenset({"coordinates"}),
    scale="mean",
    properties=frozenset({"deterministic", "equivariant", "one task", "homogeneous"}),
)
def trimmed_mean(
    num_tasks: int, *, trim: int = 1, combine: bool = True
) -> optax.GradientTransformationExtraArgs:
    """Averages each coordinate over the tasks, without the `k` largest and `k` smallest entries.

    It is robust aggregation: up to `k` gradients may be anything. With `k = (T - 1) / 2` it is the
    median.

    Args:
        num_tasks: the number T of tasks.
        trim: k, at least 0. Of `n` present tasks at most `(n - 1) / 2` are left out on each side.
        combine: if False, return each task's part of the update, leaves `(T, *p.shape)`, with zeros
            where its entry is left out.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Scale: mean. It is not linear in the gradients,
        so it has no task weights. A coordinate with an entry that is not finite is not finite: it
        is not trimmed away, for the guard `skip_nonfinite` counts what it drops. Complex
        coordinates are trimmed by their real and imaginary parts. Its time grows with T².

    When not to use:
        For balancing tasks: gradients of different tasks are not noisy copies of one.

    References:
        Yin et al., `Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates
        <https://arxiv.org/abs/1803.01498>`_, 2018, Definition 2. TorchJD 0.18's `TrimmedMean` wants
        `T > 2 k`.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.trimmed_mean(3)
        >>> params = jnp.zeros(2)
        >>> rows = jnp.array([[1.0, 5.0], [2.0, -9.0], [99.0, 4.0]])
        >>> print(tx.update(rows, tx.init(params), params)[0])
        [2. 4.]
    """
    _checks.check_num_tasks("trimmed_mean", num_tasks)
    _checks.check_count("trimmed_mean", "trim", trim, low=0)
    contract = Contract("trimmed_mean", num_tasks)

    def init_fn(params: optax.Params) -> optax.EmptyState:
        contract.start(params)
        return optax.EmptyState()

    def update_fn(
        task_gradients: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        *,
        task_mask: Array | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        task_gradients = as_stack(task_gradients)
        contract.check_step(task_gradients, params, extra)
        mask = _checks.check_mask("trimmed_mean", num_tasks, task_mask)
        most = jnp.asarray(trim, jnp.int32)
        trimmed = jax.tree.map(lambda g: _trimmed(g, mask, most, combine), as_real(task_gradients))
        return as_given(trimmed, task_gradients), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@functools.partial(jax.jit, static_argnames="combine")
def _trimmed(
    leaf: Float[Array, "T ..."], mask: Bool[Array, " T"], trim: Int[Array, ""], combine: bool
) -> Float[Array, "..."]:
    """Returns the mean of the entries that count, or each task's part of it.

    An entry's rank is counted by comparing it with all others: XLA's sort over a short leading
    axis takes several hundred times as long on the CPU.
    """
    rows = leaf.astype(at_least_float32(leaf))
    num_tasks, number = len(rows), jnp.sum(mask).astype(jnp.int32)
    cut = jnp.minimum(trim, jnp.maximum(number - 1, 0) // 2)
    count = jnp.maximum(number - 2 * cut, 1).astype(rows.dtype)

    def part(t: int | Int[Array, ""]) -> Float[Array, "..."]:
        row = rows[t]
        before = lambda s: mask[s] & ((rows[s] < row) | ((rows[s] == row) & (s < t)))
        rank = sum(before(s).astype(jnp.int32) for s in range(num_tasks))
        kept = mask[t] & (rank >= cut) & (rank < number - cut)
        # A present entry that is not finite is never trimmed away.
        return jnp.where(kept | (mask[t] & ~jnp.isfinite(row)), row / count, 0)

    if not combine:
        parts = jax.lax.map(part, jnp.arange(num_tasks))
    elif num_tasks <= FEW_TASKS:
        parts = sum(map(part, range(num_tasks)))
    else:
        parts = jax.lax.fori_loop(1, num_tasks, lambda t, total: total + part(t), part(0))
    return parts.astype(leaf.dtype)

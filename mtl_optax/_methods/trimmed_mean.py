"""The coordinate-wise trimmed mean (Yin et al. 2018)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from mtl_optax import _checks
from mtl_optax._complex import as_given, as_real
from mtl_optax._frame import Contract
from mtl_optax._precision import at_least_float32
from mtl_optax._registry import register
from mtl_optax._trees import along_tasks
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
        so it has no task weights. A coordinate with an entry that is not finite is NaN: it is not
        trimmed away, for the guard `skip_nonfinite` counts what it drops. Complex coordinates are
        trimmed by their real and imaginary parts.

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
        number = jnp.sum(mask).astype(jnp.int32)
        cut = jnp.minimum(jnp.asarray(trim, jnp.int32), jnp.maximum(number - 1, 0) // 2)
        kept = jax.tree.map(lambda g: _kept(g, mask, number, cut), as_real(task_gradients))
        if combine:
            kept = jax.tree.map(lambda rows: jnp.sum(rows, axis=0), kept)
        kept = jax.tree.map(lambda k, g: k.astype(g.dtype), kept, as_real(task_gradients))
        return as_given(kept, task_gradients), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _kept(
    leaf: Float[Array, "T ..."],
    mask: Bool[Array, " T"],
    number: Int[Array, ""],
    cut: Int[Array, ""],
) -> Float[Array, "T ..."]:
    """Returns the entries that count, over their number, in float32 or better."""
    rows = leaf.astype(at_least_float32(leaf))
    present = along_tasks(mask, rows)
    finite = jnp.all(jnp.isfinite(rows) | ~present, axis=0, keepdims=True)
    order = jnp.argsort(jnp.where(present, rows, jnp.inf), axis=0)
    ranks = jnp.argsort(order, axis=0).astype(jnp.int32)
    count = jnp.maximum(number - 2 * cut, 1).astype(rows.dtype)
    kept = jnp.where((ranks >= cut) & (ranks < number - cut), rows / count, 0)
    return jnp.where(finite, kept, jnp.nan)

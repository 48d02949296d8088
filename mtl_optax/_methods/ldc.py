"""LDC-MTL: learned weights that even out loss discrepancies (Xiao et al. 2025)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting, softmax_present
from mtl_optax._methods._learned import LearnedScalars, default_adam
from mtl_optax._registry import GRAM_METHOD, register


class LDCState(NamedTuple):
    """What LDC has learned.

    Attributes:
        logits: of the weights, and their optimiser.
        first: `(T,)` float32, each task's first loss; one before it.
        seen: `(T,)` bool.
    """

    logits: LearnedScalars
    first: Float[Array, " T"]
    seen: Bool[Array, " T"]


@register(
    "Learns weights that even out the weighted losses of neighbouring tasks.",
    "Xiao et al. 2025, https://arxiv.org/abs/2502.08585",
    reads=frozenset({"losses"}),
    scale="own",
    properties=GRAM_METHOD | {"deterministic", "one task", "homogeneous"},
    heads="weighted",
)
def ldc(
    num_tasks: int,
    *,
    penalty: float = 0.05,
    lower: float | None = None,
    upper: float = 0.8,
    optimizer: optax.GradientTransformation | None = None,
    combine: bool = True,
) -> Method:
    """Descends `Σ_t w_t l_t / Σ_t w_t + λ Σ_t |w_t l_t - w_{t+1} l_{t+1}|`, in the weights too.

    `l_t = L_t / r_t` with `r_t` the first loss over the least of the first losses, and `w` the
    softmax of learned logits, clipped. So `d = Σ_t W_t g_t` with
    `W_t = [w_t / Σ_s w_s + λ D_t w_t] / r_t`, where `D_t` is the sum of the signs of task t's two
    differences.

    Args:
        num_tasks: the number T of tasks.
        penalty: λ, at least 0. The paper has 0.05, and 0.01 for many tasks.
        lower: the least weight, positive; `0.6 / T` by default, which is the paper's 0.2 for its
            three tasks, and lets more of them learn.
        upper: the largest weight.
        optimizer: for the logits; Adam at 1e-3 by default.
        combine: if False, return the rows `W_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: its own. Weights can
        be negative, with `λ > 1 / (2 Σ w)`. Neighbours are those in the order of the tasks, of the
        present ones: another order is another method. A first loss at or below zero counts as the
        least one.

    When not to use:
        With tasks in no order that means something. With a `lower` above `1 / T`: equal weights lie
        below the clip, where logits have no gradient and never move.

    References:
        Xiao et al., `LDC-MTL: Balancing Multi-Task Learning through Scalable Loss Discrepancy
        Control <https://arxiv.org/abs/2502.08585>`_, 2025, and its code, in which a router, a
        network on pooled features, makes the logits; here they are numbers.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.ldc(2)
        >>> params = jnp.zeros(2)
        >>> losses = jnp.array([2.0, 4.0])
        >>> updates, _ = tx.update(jnp.eye(2), tx.init(params), params, task_losses=losses)
        >>> print([round(float(x), 3) for x in updates])
        [0.5, 0.25]
    """
    optimizer = default_adam(1e-3) if optimizer is None else optimizer
    _checks.check_num_tasks("ldc", num_tasks)
    _checks.check_number("ldc", "penalty", penalty, low=0)
    if lower is not None:
        _checks.check_number("ldc", "lower", lower, low=0, high=1, open_low=True)
    _checks.check_number("ldc", "upper", upper, low=0, high=1, open_low=True)
    _checks.check_optimizer("ldc", "optimizer", optimizer)

    def init() -> LDCState:
        zeros, ones = jnp.zeros(num_tasks, jnp.float32), jnp.ones(num_tasks, jnp.float32)
        return LDCState(LearnedScalars.create(optimizer, zeros), ones, jnp.zeros(num_tasks, bool))

    def update(evidence: Evidence, state: LDCState) -> tuple[Array, LDCState]:
        mask, losses = evidence.mask, evidence.losses.astype(jnp.float32)
        first = jnp.where(mask & ~state.seen, losses, state.first)
        usable = mask & (first > 0)
        least = jnp.min(jnp.where(usable, first, jnp.inf))
        ratios = jnp.where(usable, first / jnp.where(usable, least, 1), 1)
        scaled = jnp.where(mask, losses / ratios, 0)
        number = jnp.maximum(jnp.sum(mask), 1).astype(jnp.float32)
        bottom = 0.6 / number if lower is None else lower
        share = jnp.asarray(penalty, jnp.float32)
        after = jnp.cumsum(mask) - 1
        pairs = jnp.expand_dims(after, 1) + 1 == jnp.expand_dims(after, 0)
        pairs &= jnp.outer(mask, mask)

        def total(logits: Float[Array, " T"], losses: Float[Array, " T"]) -> Float[Array, ""]:
            w = jnp.clip(softmax_present(logits, mask), bottom, upper)
            w = jnp.where(mask, w, 0)
            weighted = w * losses
            jumps = jnp.abs(jnp.expand_dims(weighted, 1) - jnp.expand_dims(weighted, 0))
            # In the first step all are equal, and rounding is no difference.
            noise = 8 * jnp.finfo(jnp.float32).eps * jnp.max(jnp.abs(weighted))
            jumps = jnp.where(jumps > noise, jumps, 0)
            mean = jnp.sum(weighted) / jnp.where(jnp.any(mask), jnp.sum(w), 1)
            return mean + share * jnp.sum(jnp.where(pairs, jumps, 0))

        slopes, weights = jax.grad(total, argnums=(0, 1))(state.logits.values, scaled)
        learned = state.logits.descend(optimizer, slopes, mask)
        return weights / ratios, LDCState(learned, first, state.seen | mask)

    weighting = Weighting("ldc", num_tasks, frozenset({"losses"}), init, update)
    return from_weighting(weighting, combine_tasks=combine)

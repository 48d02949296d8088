"""GradNorm: gradient norms that follow the tasks' training rates (Chen et al. 2018)."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting
from mtl_optax._methods._learned import LearnedScalars, default_adam
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.simplex import uniform
from mtl_optax._trees import Shared

_SMALLEST_WEIGHT = 1e-3
_SMALLEST_LOSS = 1e-12  # Stands in for an initial loss of zero.
_LARGEST_RATIO = 1e30


class GradNormState(NamedTuple):
    """The task weights, and where each task started.

    Attributes:
        learned: the weights of the next step and their optimiser.
        initial_losses: `(T,)` float32, each task's loss when it was first present.
        seen: `(T,)` bool, whether a task has been present.
    """

    learned: LearnedScalars
    initial_losses: Float[Array, " T"]
    seen: Bool[Array, " T"]


@register(
    "Learns weights that bring gradient norms to the tasks' training rates.",
    "Chen et al. 2018, https://arxiv.org/abs/1711.02257",
    reads=frozenset({"norms", "losses"}),
    scale="sum",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "one task", "conic"},
    heads="weighted",
)
def gradnorm(
    num_tasks: int,
    *,
    alpha: float = 1.5,
    optimizer: optax.GradientTransformation | None = None,
    norm_mask: Shared | None = None,
    combine: bool = True,
) -> Method:
    """Learns task weights that bring the gradient norms to a target: `d = Σ_t w_t g_t`.

    With `G_t = w_t ‖g_t‖` and the relative inverse training rate `r_t`, which is
    `L_t / L_t(0)` over its mean, the weights descend `Σ_t |G_t - Ḡ r_t^α|`, where the target
    `Ḡ r_t^α` is held constant: `∂/∂w_t = sign(G_t - Ḡ r_t^α) ‖g_t‖`. They start at one; a step
    uses those it finds, then updates them, keeps each at 0.001 or above, and rescales their sum
    to T.

    Args:
        num_tasks: the number T of tasks.
        alpha: α, at least 0: how strongly tasks that learn slowly are favoured. With `α = 0` the
            norms become equal. The paper uses 1.5, and 0.12 for nearly symmetric tasks.
        optimizer: any optax optimiser for `w`; `optax.adam(0.025)` by default. Each task has an
            optimiser state of its own.
        norm_mask: the leaves over which `‖g_t‖` is taken, a name or several, a tree of booleans
            or a predicate, as for `on_shared`; all by default. The paper takes the last
            shared layer. With `optax.inject_hyperparams`, name it in `static_args`.
        combine: if False, return the rows `w_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: sum (`Σw = T`, with T
        the number of present tasks). A negative `r_t` counts as zero. `L_t(0)` is the loss at the
        task's first presence; a zero counts as 1e-12. The slopes of `w` have the size of the
        gradients, at most 1e18: where norms fall to the optimiser's epsilon, 1e-8 for Adam, the
        weights come to rest.

    When not to use:
        Where a loss cannot fall much, for noise in its labels say: it passes for a task that trains
        slowly, and is weighed up for good. Where a loss starts near zero, or can be negative.

    References:
        Chen et al., `GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep
        Multitask Networks <https://arxiv.org/abs/1711.02257>`_, 2018, Eqs. 1 and 2 and
        Algorithm 1. Public codes differ: metaworld-algorithms differentiates through the target
        and combines with the updated weights; LibMTL learns `w = T softmax(s)` with the network's
        optimiser and takes the mean over the first epoch for `L_t(0)`.

    Example:
        The weights even out the norms of tasks that learn at the same rate:

        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.gradnorm(2)
        >>> gradients, losses = jnp.array([[3.0, 0.0], [0.0, 1.0]]), jnp.ones(2)
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> for _ in range(100):
        ...     updates, state = tx.update(gradients, state, params, task_losses=losses)
        >>> print([round(float(w), 1) for w in state.weights])
        [0.5, 1.5]
    """
    optimizer = default_adam(0.025) if optimizer is None else optimizer
    _checks.check_number("gradnorm", "alpha", alpha, low=0)
    _checks.check_optimizer("gradnorm", "optimizer", optimizer)

    def init() -> GradNormState:
        weights, losses = jnp.ones(num_tasks, jnp.float32), jnp.ones(num_tasks, jnp.float32)
        return GradNormState(
            LearnedScalars.create(optimizer, weights), losses, jnp.zeros(num_tasks, bool)
        )

    def update(evidence: Evidence, state: GradNormState) -> tuple[Array, GradNormState]:
        mask, share = evidence.mask, uniform(evidence.mask)
        losses, norms = evidence.losses.astype(jnp.float32), evidence.norms.astype(jnp.float32)
        initial = jnp.where(mask & ~state.seen, losses, state.initial_losses)

        values = state.learned.values
        total = jnp.sum(jnp.where(mask, values, 0))
        number = jnp.sum(mask).astype(jnp.float32)
        # The sum over the present tasks is T in the step, and in the state what it was before.
        weights = jnp.where(mask, values * (number / jnp.where(total > 0, total, 1)), values)

        ratios = losses / jnp.where(initial == 0, _SMALLEST_LOSS, initial)
        ratios = jnp.where(mask, jnp.clip(ratios, 0, _LARGEST_RATIO), 0)
        mean_ratio = jnp.dot(share, ratios)
        rates = jnp.where(mean_ratio > 0, ratios / jnp.where(mean_ratio > 0, mean_ratio, 1), 1)
        lengths = weights * norms
        target = jnp.dot(share, lengths) * rates ** jnp.asarray(alpha, jnp.float32)
        excess = lengths - target
        # On target up to rounding is on target: an optimiser like Adam would blow it up.
        noise = 16 * float(jnp.finfo(jnp.float32).eps) * jnp.maximum(lengths, target)
        slopes = jnp.where(jnp.abs(excess) > noise, jnp.sign(excess), 0) * norms

        learned = state.learned._replace(values=weights).descend(optimizer, slopes, mask)
        moved = jnp.maximum(learned.values, _SMALLEST_WEIGHT)
        moved = moved * (total / jnp.maximum(jnp.sum(jnp.where(mask, moved, 0)), _SMALLEST_WEIGHT))
        learned = learned._replace(values=jnp.where(mask, moved, values))
        return weights, GradNormState(learned, initial, state.seen | mask)

    reads = frozenset({"norms", "losses"})
    weighting = Weighting("gradnorm", num_tasks, reads, init, update, norm_mask)
    return from_weighting(weighting, combine_tasks=combine)

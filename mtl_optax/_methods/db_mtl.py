"""DB-MTL: balanced losses and gradients of one length (Lin et al. 2023)."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, stateless
from mtl_optax._methods._averaged import falling, from_averages
from mtl_optax._registry import register


@register(
    "Averages the gradients of the log losses, all brought to the longest one's length.",
    "Lin et al. 2023, https://arxiv.org/abs/2308.12029",
    reads=frozenset({"coordinates", "losses"}),
    scale="own",
    properties=frozenset(
        {"averaged", "deterministic", "equivariant", "homogeneous", "conic", "rotation"}
    ),
)
def db_mtl(
    num_tasks: int,
    *,
    decay: float = 0.9,
    decay_power: float = 0.0,
    eps: float = 1e-8,
    combine: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Brings averages of the log losses' gradients to one length: `d = Σ_t w_t y_t`.

    With `h_t = g_t / (L_t + ε)`, the gradient of `log(L_t + ε)`, and `β_k = β / k^σ` for the k-th
    step in which a task is present,

    - `y_t <- β_k y_t + (1 - β_k) h_t`, from zero;
    - `w_t = max_s ‖y_s‖ / ‖y_t‖`, so that all `w_t y_t` have the length of the longest.

    Args:
        num_tasks: the number T of tasks.
        decay: β, the share of the old average that is kept, in [0, 1). With 0 nothing is averaged.
        decay_power: σ, at least 0: how fast β falls over the steps.
        eps: ε, positive.
        combine: if False, return the rows `w_t y_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Its state holds T × N
        numbers, the averages `y_t`, and its task weights are of these, not of the gradients. Scale:
        its own. Equal gradients and losses tend to `T g / L`, and the first step is `1 - β` times
        that, for the average starts at zero, as in the public code. An average of zeros has no
        weight. A loss at or below zero counts as zero. Weights end at 3e38, where an average is
        that much shorter than another.

        Heads get the gradient of the log losses in the paper, `1 / (L_t + ε)` times their own.
        `on_shared(db_mtl(T), shared)` leaves them as they are, which an optimiser such as Adam
        makes up for.

    When not to use:
        Where a loss can reach zero or be negative, as for `scale_invariant`. Where a task has
        converged: its short gradients, noise by then, are lengthened to the longest. Where T × N
        numbers are too many.

    References:
        Lin et al., `Dual-Balancing for Multi-Task Learning <https://arxiv.org/abs/2308.12029>`_,
        2023, Algorithm 1, by way of LibMTL (main of May 2025, not in a release), whose defaults
        these are. There 1e-8 is added to `‖y_t‖` too, which shortens averages near it.

    Example:
        Averages of one length, whatever the losses and gradients:

        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.db_mtl(2)
        >>> gradients, losses = jnp.array([[3.0, 0.0], [0.0, 1.0]]), jnp.array([1.0, 5.0])
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(
        ...     gradients, tx.init(params), params, task_losses=losses
        ... )
        >>> print(updates.round(3), mtl.task_weights(state).round())
        [0.3 0.3] [ 1. 15.]
    """
    _checks.check_num_tasks("db_mtl", num_tasks)
    _checks.check_number("db_mtl", "decay", decay, low=0, high=1, open_high=True)
    _checks.check_number("db_mtl", "decay_power", decay_power, low=0)
    _checks.check_number("db_mtl", "eps", eps, low=0, open_low=True)

    def factors(losses: Float[Array, " T"]) -> Float[Array, " T"]:
        # A loss without a bound is not to pass for a gradient of zero.
        losses = jnp.where(jnp.isfinite(losses), jnp.maximum(losses, 0), jnp.nan)
        return 1 / (losses + jnp.asarray(eps, losses.dtype))

    def weigh(evidence: Evidence) -> Float[Array, " T"]:
        lengths = evidence.norms
        known = lengths > 0
        ratios = jnp.max(lengths) / jnp.where(known, lengths, 1)
        return jnp.where(known, jnp.minimum(ratios, float(jnp.finfo(jnp.float32).max)), 0)

    weighting = stateless("db_mtl", num_tasks, frozenset({"norms"}), weigh)
    kept = lambda count: falling(decay, decay_power, count)
    return from_averages(weighting, kept, factors=factors, combine_tasks=combine)

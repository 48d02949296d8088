"""Tchebycheff scalarisation: the worst weighted task alone (Mao et al. 2020)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, from_weighting, softmax_present, stateless
from mtl_optax._precision import common_unit, exponent, shift
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.simplex import uniform


@register(
    "Descends the largest weighted loss alone.",
    "Mao et al. 2020, https://aclanthology.org/2020.acl-main.388/",
    reads=frozenset({"losses"}),
    scale="mean",
    properties=GRAM_METHOD
    | {"deterministic", "equivariant", "one task", "homogeneous", "convex", "conic"},
)
def tchebycheff(
    num_tasks: int,
    *,
    weights: Any | None = None,
    reference: Any | None = None,
    smooth: float | None = None,
    combine: bool = True,
) -> Method:
    """Descends the largest weighted loss: the gradient of `max_t w_t (L_t - z_t)`.

    `d = w_s g_s` for the task `s` where the maximum is attained; several such tasks share the
    step equally. With `smooth`, μ, it is the gradient of `μ log Σ_t exp(w_t (L_t - z_t) / μ)`:
    `d = Σ_t w_t softmax(w (L - z) / μ)_t g_t`, which tends to the former as μ falls to zero, and
    to `Σ_t w_t g_t / T` as it grows.

    Args:
        num_tasks: the number T of tasks.
        weights: `w`, `(T,)`, positive, an array or a sequence of numbers; ones by default. Each
            choice leads to a point of its own on the Pareto front.
        reference: `z`, `(T,)`, a loss that each task cannot go below, an array or a sequence of
            numbers; zeros by default.
        smooth: μ, positive, or None for the maximum itself.
        combine: if False, return the weighted rows, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: mean (with `w` of
        ones, the weights of the step sum to one). Losses may have either sign. Heads are best
        updated by each task's own gradient, `on_shared(tchebycheff(T), shared)`: weighted, the
        heads of all tasks but the worst would stand still.

    When not to use:
        Where losses have different units, or floors of different height, without `weights` and
        `reference` to say so: one task takes all the steps, whether its loss can fall or not.

    References:
        Mao et al., `Tchebycheff Procedure for Multi-task Text Classification
        <https://aclanthology.org/2020.acl-main.388/>`_, 2020. Smooth: Lin et al., `Smooth
        Tchebycheff Scalarization for Multi-Objective Optimization
        <https://arxiv.org/abs/2402.19078>`_, 2024; their code and LibMTL apply it to
        logarithms of losses over their values after a warm-up, and multiply by T. Where losses
        tie, an argmax would take the first task, and make the step depend on their order.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.tchebycheff(3)
        >>> params = jnp.zeros(3)
        >>> state = tx.init(params)
        >>> print(tx.update(jnp.eye(3), state, params, task_losses=jnp.array([2.0, 1.0, 2.0]))[0])
        [0.5 0.  0.5]
    """
    _checks.check_num_tasks("tchebycheff", num_tasks)
    scale = _checks.check_vector("tchebycheff", "weights", weights, num_tasks, positive=True)
    origin = _checks.check_vector("tchebycheff", "reference", reference, num_tasks)
    if smooth is not None:
        _checks.check_number("tchebycheff", "smooth", smooth, low=0, open_low=True)

    def weigh(evidence: Evidence) -> Float[Array, " T"]:
        losses, mask = evidence.losses, evidence.mask
        w = jnp.ones_like(losses) if scale is None else scale.astype(losses.dtype)
        z = jnp.zeros_like(losses) if origin is None else origin.astype(losses.dtype)
        values, unit = _weighted_gaps(w, losses, z, mask)
        highest = jnp.max(jnp.where(mask, values, -jnp.inf))
        if smooth is None:
            return w * uniform(mask & (values == highest), losses.dtype)
        mu = jnp.asarray(smooth, losses.dtype)
        size = exponent(mu)
        depths = jnp.where(mask, values - highest, 0) / shift(mu, -size)
        return w * softmax_present(shift(depths, unit - size), mask)

    return from_weighting(
        stateless("tchebycheff", num_tasks, frozenset({"losses"}), weigh), combine_tasks=combine
    )


def _weighted_gaps(
    w: Float[Array, " T"],
    losses: Float[Array, " T"],
    z: Float[Array, " T"],
    mask: Bool[Array, " T"],
) -> tuple[Float[Array, " T"], Int[Array, ""]]:
    """Returns `w (L - z)` and the power of two that it is counted in, lest it overflow."""
    sizes = jnp.maximum(exponent(losses), exponent(z)) + 1
    gaps = shift(losses, -sizes) - shift(z, -sizes)
    powers = exponent(w)
    values, powers = gaps * shift(w, -powers), powers + sizes
    unit = common_unit(powers, mask & (values != 0))
    return shift(values, powers - unit), unit

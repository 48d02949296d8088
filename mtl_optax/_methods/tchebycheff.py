"""Tchebycheff scalarisation: the worst weighted task alone (Mao et al. 2020)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, from_weighting, softmax_present, stateless
from mtl_optax._methods._logarithms import times_exp
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
        >>> losses = jnp.array([2.0, 1.0, 2.0])
        >>> print(tx.update(jnp.eye(3), tx.init(params), params, task_losses=losses)[0])
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
        return w * _share_of_largest(w, losses, z, mask, smooth)

    return from_weighting(
        stateless("tchebycheff", num_tasks, frozenset({"losses"}), weigh), combine_tasks=combine
    )


@register(
    "Descends a smooth maximum of the weighted losses, or of their logarithms.",
    "Lin et al. 2024, https://arxiv.org/abs/2402.19078",
    reads=frozenset({"losses"}),
    scale="own",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous", "conic"},
    arguments=lambda num_tasks: {"mu": 1.0},
)
def stch(
    num_tasks: int,
    mu: float,
    *,
    nadir: Any | None = None,
    weights: Any | None = None,
    reference: Any | None = None,
    combine: bool = True,
) -> Method:
    """Descends the smooth maximum of weighted losses: `d = Σ_t W_t g_t`.

    `W = λ ∘ softmax(λ ∘ (L - z) / μ)`, the gradient of `μ log Σ_t exp(λ_t (L_t - z_t) / μ)`, with
    `λ_t = 1 / T`: `tchebycheff(T, weights=λ, smooth=μ)`. With `nadir`, the losses' logarithms take
    their place, as in the authors' experiments: `W_t = T softmax(log(L / nadir) / μ)_t / L_t`.

    Args:
        num_tasks: the number T of tasks.
        mu: μ, positive. Towards zero it is the largest weighted loss alone, and as it grows
            `W = λ / T`.
        nadir: `(T,)`, positive, losses to divide by, such as the means of a warm-up: in the
            authors' code, those of the fifth epoch, before which it descends `Σ_t log L_t`
            (`scale_invariant`).
        weights: λ, `(T,)`, positive; `1 / T` for each of T present tasks by default, or with
            `nadir` one.
        reference: z, `(T,)`, the least that each loss can be; zeros by default. Not with `nadir`.
        combine: if False, return the weighted rows, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: its own; the plain
        weights sum to `1 / T` with the default λ. With `nadir`, a loss at or below zero takes the
        weight that it has in the limit, and is left out where that is infinite, for `μ > λ_t`.

    When not to use:
        Where losses have different units, without `weights` or `nadir` to say so. With small μ,
        where the largest loss cannot fall: it takes all the steps.

    References:
        Lin et al., `Smooth Tchebycheff Scalarization for Multi-Objective Optimization
        <https://arxiv.org/abs/2402.19078>`_, 2024, Eq. 9. TorchJD 0.18's `STCH` is the plain one;
        LibMTL's and the authors' code for multi-task learning is the one with `nadir`, μ = 1.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.stch(2, 0.5)
        >>> params = jnp.zeros(2)
        >>> losses = jnp.array([2.0, 1.0])
        >>> updates, _ = tx.update(jnp.eye(2), tx.init(params), params, task_losses=losses)
        >>> print([round(float(x), 3) for x in updates])
        [0.366, 0.134]
    """
    _checks.check_num_tasks("stch", num_tasks)
    _checks.check_number("stch", "mu", mu, low=0, open_low=True)
    floor = _checks.check_vector("stch", "nadir", nadir, num_tasks, positive=True)
    scale = _checks.check_vector("stch", "weights", weights, num_tasks, positive=True)
    origin = _checks.check_vector("stch", "reference", reference, num_tasks)
    if floor is not None and origin is not None:
        raise ValueError(
            "stch: reference is for the losses, and nadir for their logarithms. Give one of them."
        )

    def weigh(evidence: Evidence) -> Float[Array, " T"]:
        losses, mask = evidence.losses, evidence.mask
        dtype = losses.dtype
        if floor is None:
            w = uniform(mask, dtype) if scale is None else scale.astype(dtype)
            z = jnp.zeros_like(losses) if origin is None else origin.astype(dtype)
            return w * _share_of_largest(w, losses, z, mask, mu)
        w = jnp.ones_like(losses) if scale is None else scale.astype(dtype)
        smoothing, bottom = jnp.asarray(mu, dtype), jnp.finfo(dtype).tiny
        # Towards a loss of zero the weight has a limit, or grows without bound and is left out.
        counted = mask & ~((losses <= 0) & (w < smoothing))
        least = jnp.log(floor.astype(dtype))
        depths = jnp.log(jnp.where(counted, jnp.where(losses <= 0, bottom, losses), 1)) - least
        exponents = jnp.where(counted, w / smoothing * depths, -jnp.inf)
        total = jax.nn.logsumexp(jnp.where(jnp.any(counted), exponents, 0))
        number = jnp.sum(counted).astype(dtype)
        return times_exp(number * w, (w / smoothing - 1) * depths - total - least, counted)

    return from_weighting(
        stateless("stch", num_tasks, frozenset({"losses"}), weigh), combine_tasks=combine
    )


def _share_of_largest(
    w: Float[Array, " T"],
    losses: Float[Array, " T"],
    z: Float[Array, " T"],
    mask: Bool[Array, " T"],
    smooth: Any | None,
) -> Float[Array, " T"]:
    """Returns each present task's share, in all one, of the largest `w (L - z)`."""
    values, unit = _weighted_gaps(w, losses, z, mask)
    highest = jnp.max(jnp.where(mask, values, -jnp.inf))
    if smooth is None:
        return uniform(mask & (values == highest), losses.dtype)
    mu = jnp.asarray(smooth, losses.dtype)
    size = exponent(mu)
    depths = jnp.where(mask, values - highest, 0) / shift(mu, -size)
    return softmax_present(shift(depths, unit - size), mask)


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

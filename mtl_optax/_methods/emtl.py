"""EMTL: equitable multi-task learning (Yuan and Zhang 2023)."""

import math
import numbers
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mtl_optax import _checks
from mtl_optax._frame import (
    Evidence,
    Method,
    Weighting,
    WeightingState,
    from_weighting,
    recipe_of,
    weigh,
)
from mtl_optax._methods.mgda import mgda
from mtl_optax._precision import common_unit, exponent, root, shift
from mtl_optax._registry import register
from mtl_optax._solvers.kl_ball import ascend, half_of_all
from mtl_optax._solvers.simplex import uniform


class EMTLState(NamedTuple):
    """State of the base weighting and the adversary's distribution over tasks.

    Attributes:
        base: state of the base weighting.
        scores: `(T,)` float32, `log(T p)`, at least -30.
        residual: `()` float32, by how much `KL(p ‖ u)` missed the radius in the last step.
    """

    base: Any
    scores: Float[Array, " T"]
    residual: Float[Array, ""]


@register(
    "Evens out the tasks' loss per gradient norm, on the weights of MGDA.",
    "Yuan and Zhang 2023, https://arxiv.org/abs/2306.09373",
    reads=frozenset({"gram", "losses"}),
    scale="own",
    # Not "rotation": where several weightings reach MGDA's shortest vector, it is rounding that
    # chooses between them, and here, unlike in MGDA, the update shows which.
    properties=frozenset({"linear", "deterministic", "equivariant", "conic"}),
    heads="weighted",
    ambiguous="affinely dependent",
)
def emtl(
    num_tasks: int,
    *,
    rho: float | None = None,
    step_size: float = 0.5,
    mix: float = 0.1,
    base: Method | Weighting | None = None,
    combine: bool = True,
) -> Method:
    """Evens out what the tasks contribute for their size of gradient, on top of another method.

    With α the weights of `base` and `n_t = ‖g_t‖`, a task's relative contribution is
    `R_t = α_t L_t / n_t`. An adversary moves a distribution `p` by mirror ascent on `<R, p>`
    within `KL(p ‖ u) <= r`, as in `bandit_mtl`, from the uniform one, and the step uses the `p`
    just found:

    `d = Σ_t W_t g_t`, `W_t = (α_t / T) [mix + (1 - mix) p_t / n_t]`.

    Args:
        num_tasks: the number T of tasks.
        rho: ρ, at least 0, of the radius `r = sqrt(ρ)`; the paper searches 0.1 to 1.2. With
            `sqrt(ρ) >= log T` the ball holds every distribution and restrains nothing, of which
            the factory warns: for two tasks from 0.48 on, for three from 1.21 on. By default, None,
            `r = ½ log T`, over the tasks that play a part, as in `bandit_mtl`.
        step_size: η of the adversary, at least 0.
        mix: the share of the base's own weights, in [0, 1]; the paper searches [0, 0.5]. With
            `mix = 1` it is the base method over T.
        base: a method made from a weighting, or a weighting; `mgda(num_tasks)` by default.
        combine: if False, return the rows `W_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: its own. The first
        term scales with the gradients and the second does not; T equal gradients `g` give
        `(g / T) [mix + (1 - mix) / (T ‖g‖)]`. A task to which the base gives no weight, or whose
        gradient is zero, plays no part, and a negative loss makes the adversary turn away from its
        task. Where the base's weights are not unique, as MGDA's are not for linearly dependent
        gradients, neither is the update.

    When not to use:
        Where a task's gradient vanishes: the update divides by its length. Where a loss can be
        negative: the adversary turns away from its task.

    References:
        Yuan and Zhang, `Equitable Multi-Task Learning <https://arxiv.org/abs/2306.09373>`_, 2023,
        of which no code is public. The radius is sqrt(ρ) as in the text; the coefficient ρ of the
        standard deviation in its Eq. 9 would need `ρ²/2`.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.emtl(3)
        >>> gradients, losses = jnp.diag(jnp.array([1.0, 2.0, 2.0])), jnp.array([3.0, 1.0, 1.0])
        >>> params = jnp.zeros(3)
        >>> updates, state = tx.update(gradients, tx.init(params), params, task_losses=losses)
        >>> print([round(float(w), 3) for w in state.weights])
        [0.135, 0.011, 0.011]
    """
    _checks.check_num_tasks("emtl", num_tasks)
    if rho is not None:
        _checks.check_number("emtl", "rho", rho, low=0)
    _checks.check_number("emtl", "step_size", step_size, low=0)
    _checks.check_number("emtl", "mix", mix, low=0, high=1)
    inner = _base_weighting(num_tasks, base)
    if isinstance(rho, numbers.Real) and num_tasks > 1 and math.sqrt(rho) >= math.log(num_tasks):
        _checks.warn(
            f"emtl: the ball is inactive: with rho={rho!r}, sqrt(rho) is not below log({num_tasks})"
            f" = {math.log(num_tasks):.3f}, so that nothing keeps p near uniform. Choose rho below "
            f"{math.log(num_tasks) ** 2:.3f}."
        )

    def init() -> EMTLState:
        zero = jnp.zeros((), jnp.float32)
        return EMTLState(inner.init(), jnp.zeros(num_tasks, jnp.float32), zero)

    def update(evidence: Evidence, state: EMTLState) -> tuple[Array, EMTLState]:
        before = WeightingState(jnp.zeros(num_tasks, jnp.float32), state.base)
        _, alpha, after = weigh(inner, evidence, before)
        dtype = evidence.gram.dtype
        alpha = alpha.astype(dtype)
        lengths = root(jnp.diagonal(evidence.gram)) * evidence.scale
        playing = evidence.mask & (lengths > 0)
        per_length = jnp.where(playing, alpha / jnp.where(playing, lengths, 1), 0)
        rewards, unit = _contributions(per_length, evidence.losses)
        radius = half_of_all(playing) if rho is None else jnp.sqrt(jnp.asarray(rho, jnp.float32))
        scores, solution = ascend(state.scores, rewards, step_size, radius, playing, unit)
        p = jnp.where(playing, jnp.exp(solution.log_weights), 0).astype(dtype)
        share = jnp.asarray(mix, dtype)
        weights = uniform(evidence.mask, dtype) * (share * alpha + (1 - share) * p * per_length)
        return weights, EMTLState(after.inner, scores, solution.residual)

    reads = inner.reads | {"gram", "losses"}
    weighting = Weighting("emtl", num_tasks, reads, init, update, inner.norm_mask)
    return from_weighting(weighting, combine_tasks=combine)


def _contributions(
    per_length: Float[Array, " T"], losses: Float[Array, " T"]
) -> tuple[Float[Array, " T"], Int[Array, ""]]:
    """Returns `R`, float32, and the power of two that it is counted in, lest it overflow."""
    # The power of a zero is zero, for its derivative is to stay in range.
    powers = [jnp.where(x == 0, 0, exponent(x)) for x in (per_length, losses)]
    digits = shift(per_length, -powers[0]).astype(jnp.float32)
    digits = digits * shift(losses, -powers[1]).astype(jnp.float32)
    power = powers[0] + powers[1]
    # What is small may vanish, beside scores of order one; its derivative is to stay in range.
    unit = jnp.maximum(common_unit(power, digits != 0), 0)
    return shift(digits, power - unit), unit


def _base_weighting(num_tasks: int, base: Any) -> Weighting:
    base = mgda(num_tasks) if base is None else base
    weighting = recipe_of("emtl", "base", base).weighting
    if weighting.num_tasks != num_tasks:
        raise ValueError(
            f"emtl: base {weighting.name} was made for {weighting.num_tasks} tasks, wanted "
            f"{num_tasks}."
        )
    return weighting

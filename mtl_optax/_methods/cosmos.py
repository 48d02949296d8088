"""COSMOS: a weighted sum that is drawn towards a preference (Ruchte and Grabocka 2021)."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, from_weighting, stateless
from mtl_optax._precision import power_of_two
from mtl_optax._registry import GRAM_METHOD, register


@register(
    "A weighted sum of the losses, drawn towards losses in proportion to a preference.",
    "Ruchte and Grabocka 2021, https://arxiv.org/abs/2103.13392",
    reads=frozenset({"losses"}),
    scale="own",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous"},
    arguments=lambda num_tasks: {"preference": np.ones(num_tasks)},
)
def cosmos(
    num_tasks: int, preference: Any, *, strength: float = 1.0, combine: bool = True
) -> Method:
    """Descends `r . L - λ cos(r, L)`: `d = Σ_t W_t g_t`.

    `W = r - λ [r / (|r| |L|) - (r . L) L / (|r| |L|³)]`. The first term is the weighted sum, which
    cannot reach the concave parts of a Pareto front; the second draws the losses towards
    **L ∝ r: a task with a large preference may keep a large loss** in that term, while in the first
    it counts for more.

    Args:
        num_tasks: the number T of tasks.
        preference: r, `(T,)`, an array or a sequence of numbers, used as it is; for the whole front
            it is drawn anew for each batch, and given to the model too.
        strength: λ, at least 0. The paper's lie between 0.01 and 8, by the data.
        combine: if False, return the rows `W_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: its own. Weights can
        be negative. Where all losses, or the whole preference, are zero, the cosine has no
        gradient and none is taken.

    When not to use:
        Where losses can be negative. Where losses fall to zero: the second term's weights grow as
        `1 / |L|`.

    References:
        Ruchte and Grabocka, `Scalable Pareto Front Approximation for Deep Multi-Objective Learning
        <https://arxiv.org/abs/2103.13392>`_, 2021, Eq. 7. TorchJD 0.18's `COSMOS` has no default
        for λ.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.cosmos(2, [0.5, 0.5])
        >>> params = jnp.zeros(2)
        >>> losses = jnp.array([1.0, 0.0])
        >>> updates, _ = tx.update(jnp.eye(2), tx.init(params), params, task_losses=losses)
        >>> print([round(float(x), 3) for x in updates])
        [0.5, -0.207]
    """
    _checks.check_num_tasks("cosmos", num_tasks)
    given = _checks.check_preference("cosmos", preference, num_tasks)
    _checks.check_number("cosmos", "strength", strength, low=0)

    def weigh(evidence: Evidence) -> Float[Array, " T"]:
        mask, losses = evidence.mask, evidence.losses
        share = jnp.asarray(strength, losses.dtype)
        r = jnp.where(mask, given.astype(losses.dtype), 0)
        losses = jnp.where(mask, losses, 0)
        unit = power_of_two(jnp.max(jnp.abs(losses)))  # Lest squares overflow.
        scaled = losses / unit
        length, size = jnp.sqrt(jnp.sum(scaled**2)), jnp.sqrt(jnp.sum(r**2))
        there = (length > 0) & (size > 0)
        length, size = jnp.where(there, length, 1), jnp.where(there, size, 1)
        along, towards = scaled / length, r / size
        slope = (towards - jnp.dot(towards, along) * along) / length / unit
        return r - share * jnp.where(there, slope, 0)

    return from_weighting(
        stateless("cosmos", num_tasks, frozenset({"losses"}), weigh), combine_tasks=combine
    )

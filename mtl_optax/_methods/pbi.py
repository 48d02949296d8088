"""PBI: penalty-based boundary intersection (Zhang and Li 2007)."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, from_weighting, stateless
from mtl_optax._precision import power_of_two
from mtl_optax._registry import GRAM_METHOD, register

_NOISE = 8  # Roundings, within which losses lie on the ray.


@register(
    "Descends along a ray of loss space, with a penalty for leaving it.",
    "Zhang and Li 2007, https://doi.org/10.1109/TEVC.2007.892759",
    reads=frozenset({"losses"}),
    scale="own",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous"},
    arguments=lambda num_tasks: {"preference": np.ones(num_tasks)},
)
def pbi(
    num_tasks: int,
    preference: Any,
    *,
    penalty: float = 5.0,
    reference: Any | None = None,
    combine: bool = True,
) -> Method:
    """Descends `d_1 + θ d_2`, the way along a ray and the distance from it: `d = Σ_t W_t g_t`.

    With `p` the preference over its length, `d_1 = (L - z) . p`, `d_2 = ‖L - z - d_1 p‖` and
    `W = p + θ (L - z - d_1 p) / d_2`. It aims at **L - z ∝ preference: a task with a large
    preference keeps a large loss**. (EPO aims at the inverse.)

    Args:
        num_tasks: the number T of tasks.
        preference: `(T,)`, an array or a sequence of numbers, not all zero: the direction of the
            ray. Of tasks that are absent it is left out.
        penalty: θ, at least 0; the paper's is 5.
        reference: z, `(T,)`, where the ray begins; zeros by default.
        combine: if False, return the rows `W_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: its own, between
        `‖p‖ = 1` and `1 + θ` for the weights. Weights can be negative: a loss that is too small for
        the ray is driven up. On the ray, within rounding, `W = p`.

    When not to use:
        Where raising a loss is never wanted. Near the ray with large θ: the direction of the
        penalty flips from step to step.

    References:
        Zhang and Li, `MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition
        <https://doi.org/10.1109/TEVC.2007.892759>`_, 2007, Section II. TorchJD 0.18's `PBI` takes
        the root of `d_2² + 1e-12`.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.pbi(2, [0.6, 0.8], penalty=1.0)
        >>> params = jnp.zeros(2)
        >>> losses = jnp.array([1.0, 0.0])
        >>> updates, _ = tx.update(jnp.eye(2), tx.init(params), params, task_losses=losses)
        >>> print([round(float(x), 3) for x in updates])
        [1.4, 0.2]
    """
    _checks.check_num_tasks("pbi", num_tasks)
    given = _checks.check_preference("pbi", preference, num_tasks)
    _checks.check_number("pbi", "penalty", penalty, low=0)
    origin = _checks.check_vector("pbi", "reference", reference, num_tasks)

    def weigh(evidence: Evidence) -> Float[Array, " T"]:
        mask, losses = evidence.mask, evidence.losses
        dtype = losses.dtype
        p = jnp.where(mask, given.astype(dtype), 0)
        p = p / power_of_two(jnp.max(jnp.abs(p)))
        size = jnp.sqrt(jnp.sum(p**2))
        p = p / jnp.where(size > 0, size, 1)
        z = jnp.zeros_like(losses) if origin is None else origin.astype(dtype)
        gaps = jnp.where(mask, losses / 2 - z / 2, 0)  # Halved, lest the difference overflow.
        gaps = gaps / power_of_two(jnp.max(jnp.abs(gaps)))
        away = gaps - jnp.dot(gaps, p) * p
        distance = jnp.sqrt(jnp.sum(away**2))
        noise = _NOISE * jnp.finfo(dtype).eps * jnp.sqrt(jnp.sum(gaps**2))
        off = ~(distance <= noise)
        return p + jnp.asarray(penalty, dtype) * jnp.where(
            off, away / jnp.where(off, distance, 1), 0
        )

    return from_weighting(
        stateless("pbi", num_tasks, frozenset({"losses"}), weigh), combine_tasks=combine
    )

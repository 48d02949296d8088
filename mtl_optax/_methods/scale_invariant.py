"""Scale-invariant weighting: the gradient of the sum of log losses."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, from_weighting, stateless
from mtl_optax._registry import GRAM_METHOD, register


@register(
    "Descends the sum of log losses, whatever their scales.",
    "Navon et al. 2022, https://arxiv.org/abs/2202.01017",
    reads=frozenset({"losses"}),
    scale="sum",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "homogeneous", "conic"},
    heads="weighted",
)
def scale_invariant(num_tasks: int, *, eps: float = 1e-8, combine: bool = True) -> Method:
    """Descends the sum of log losses: `d = Σ_t g_t / (L_t + ε)`.

    It is the gradient of `Σ_t log(L_t + ε)`, so that multiplying a task's loss by a constant
    changes nothing as long as the loss stays far above ε.

    Args:
        num_tasks: the number T of tasks.
        eps: ε, positive.
        combine: if False, return the rows `w_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: sum, where all losses
        are one. The logarithm needs positive losses: a loss at or below zero counts as zero, whose
        weight is `1/ε`, large but finite.

    When not to use:
        Where a loss can reach zero, as residuals of equations, penalties and fitted tasks do: the
        weight of its task grows without bound, and the others stop learning. Where a loss can be
        negative.

    References:
        The baseline "SI" of Navon et al., `Multi-Task Learning as a Bargaining Game
        <https://arxiv.org/abs/2202.01017>`_, 2022. Their code takes the log without ε, so that a
        loss of zero makes an infinite update. The gradient of the geometric mean of the losses
        (GLS) has the same direction.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.scale_invariant(2)
        >>> gradients, losses = jnp.eye(2), jnp.array([4.0, 0.5])
        >>> params = jnp.zeros(2)
        >>> tx.update(gradients, tx.init(params), params, task_losses=losses)[0]
        Array([0.25, 2.  ], dtype=float32)
    """
    _checks.check_number("scale_invariant", "eps", eps, low=0, open_low=True)

    def weigh(evidence: Evidence) -> Float[Array, " T"]:
        losses = evidence.losses
        return 1 / (jnp.maximum(losses, 0) + jnp.asarray(eps, losses.dtype))

    return from_weighting(
        stateless("scale_invariant", num_tasks, frozenset({"losses"}), weigh),
        combine_tasks=combine,
    )

"""GLS: the geometric mean of the losses (Chennupati et al. 2019)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_optax._frame import Evidence, Method, from_weighting, stateless
from mtl_optax._methods._logarithms import logs_of_positive, times_exp
from mtl_optax._registry import GRAM_METHOD, register


@register(
    "Descends the geometric mean of the losses.",
    "Chennupati et al. 2019, https://arxiv.org/abs/1904.08492",
    reads=frozenset({"losses"}),
    scale="own",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous", "conic"},
    heads="weighted",
)
def gls(num_tasks: int, *, combine: bool = True) -> Method:
    """Descends the geometric mean of the losses: `d = Σ_t W_t g_t`, `W_t = GM(L) / (T L_t)`.

    It is the gradient of `(Π_t L_t)^(1/T)`. Its direction is that of the sum of log losses, in
    which no loss's unit has a say; its length follows the losses.

    Args:
        num_tasks: the number T of tasks.
        combine: if False, return the rows `W_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: its own; equal losses
        give the mean. A loss at or below zero has no logarithm: its task is left out, as if it were
        absent.

    When not to use:
        Where a loss can come near zero: its task's weight grows without bound before it is left
        out, and all others' fall to zero. Where losses can be negative.

    References:
        Chennupati et al., `MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy
        for Multi-Task Learning <https://arxiv.org/abs/1904.08492>`_, 2019, Eq. 3. TorchJD 0.18's
        `GeometricMean` gives NaN for a loss of zero. LibMTL applies the same weights, and reports
        `L_t / (T Π_s L_s)`, whose order is the opposite.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.gls(2)
        >>> params = jnp.zeros(2)
        >>> losses = jnp.array([1.0, 4.0])
        >>> print(tx.update(jnp.eye(2), tx.init(params), params, task_losses=losses)[0])
        [1.   0.25]
    """

    def weigh(evidence: Evidence) -> Float[Array, " T"]:
        logs, counted = logs_of_positive(evidence.losses, evidence.mask)
        number = jnp.maximum(jnp.sum(counted), 1).astype(logs.dtype)
        mean = jnp.sum(logs) / number
        return times_exp(1 / number, mean - logs, counted)

    return from_weighting(
        stateless("gls", num_tasks, frozenset({"losses"}), weigh), combine_tasks=combine
    )

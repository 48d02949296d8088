"""UW: weighting by homoscedastic uncertainty (Kendall et al. 2018)."""

import jax.numpy as jnp
import optax
from jaxtyping import Array

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting
from mtl_optax._methods._learned import LearnedScalars, default_adam
from mtl_optax._registry import GRAM_METHOD, register


@register(
    "Weights losses by a learned uncertainty of each task.",
    "Kendall et al. 2018, https://arxiv.org/abs/1705.07115",
    reads=frozenset({"losses"}),
    scale="sum",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "homogeneous", "conic"},
    heads="weighted",
)
def uw(
    num_tasks: int,
    optimizer: optax.GradientTransformation | None = None,
    *,
    factor: float = 0.5,
    clip: float = 10.0,
    combine: bool = True,
) -> Method:
    """Weights tasks by a learned uncertainty: `d = Σ_t f e^{-s_t} g_t`.

    The log variances `s` start at zero and descend the joint loss `Σ_t f e^{-s_t} L_t + s_t / 2`.
    A step weighs with the `s` it finds and then updates it. At the optimum `e^{s_t} = 2 f L_t`, so
    that the weights tend to those of `Σ_t log L_t`.

    Args:
        num_tasks: the number T of tasks.
        optimizer: any optax optimiser for `s`; `optax.adam(1e-3)` by default. The paper learns
            `s` along with the network, so give it the network's learning rate. Each task has an
            optimiser state of its own.
        factor: `f`, positive: 0.5 for regression (Eq. 7 of the paper), 1.0 for classification.
        clip: `s` is kept within `[-clip, clip]`; positive. A negative loss drives `s` to `-clip`.
        combine: if False, return the rows `w_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: sum times `f` at the
        start. Heads are to be weighted too: `on_shared(uw(T), shared, heads="weighted")`, or give
        it all the parameters.

    When not to use:
        Where a loss can be negative: its weight grows up to `clip`. In short runs with the default
        optimiser: in a thousand steps its weights move by a factor of about three at most. Given a
        rate so high that they follow the losses, it fails where `scale_invariant` does.

    References:
        Kendall, Gal and Cipolla, `Multi-Task Learning Using Uncertainty to Weigh Losses
        <https://arxiv.org/abs/1705.07115>`_, 2018, Eqs. 7 and 10. LibMTL starts at `s = -0.5`.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> tx = mtl.uw(2, optax.sgd(0.1))
        >>> gradients, losses = jnp.eye(2), jnp.array([4.0, 1.0])
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> for _ in range(200):
        ...     updates, state = tx.update(gradients, state, params, task_losses=losses)
        >>> print(state.weights.round(3))
        [0.125 0.5  ]
    """
    optimizer = default_adam(1e-3) if optimizer is None else optimizer
    _checks.check_optimizer("uw", "optimizer", optimizer)
    _checks.check_number("uw", "factor", factor, low=0, open_low=True)
    _checks.check_number("uw", "clip", clip, low=0, open_low=True)

    def init() -> LearnedScalars:
        return LearnedScalars.create(optimizer, jnp.zeros(num_tasks, jnp.float32))

    def update(evidence: Evidence, state: LearnedScalars) -> tuple[Array, LearnedScalars]:
        weights = jnp.asarray(factor, jnp.float32) * jnp.exp(-state.values)
        gradients = 0.5 - weights * evidence.losses.astype(jnp.float32)
        state = state.descend(optimizer, gradients, evidence.mask)
        bound = jnp.asarray(clip, jnp.float32)
        return weights, state._replace(values=jnp.clip(state.values, -bound, bound))

    weighting = Weighting("uw", num_tasks, frozenset({"losses"}), init, update)
    return from_weighting(weighting, combine_tasks=combine)

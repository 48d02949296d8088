"""IGB: improvable gap balancing (Dai et al. 2023), its first version."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting, softmax_present
from mtl_optax._methods._logarithms import logs_of_positive, times_exp
from mtl_optax._registry import GRAM_METHOD, register


class IGBState(NamedTuple):
    """The losses that those to come are compared with.

    Attributes:
        base: `(T,)` float32, each task's mean loss over its first steps.
        steps: `(T,)` int32, how many were averaged, `warmup` at most.
    """

    base: Float[Array, " T"]
    steps: Int[Array, " T"]


@register(
    "Weighs log losses by how much of each loss is left.",
    "Dai et al. 2023, https://openreview.net/forum?id=AkCyMYB3aNz",
    reads=frozenset({"losses"}),
    scale="own",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "homogeneous", "conic"},
    heads="weighted",
)
def igb(
    num_tasks: int, *, warmup: int = 100, base_losses: Any | None = None, combine: bool = True
) -> Method:
    """Weighs log losses by the gap that is left: `d = Σ_t W_t g_t`.

    `W_t = T softmax(L / L_base)_t / L_t`, the gradient of `T Σ_t softmax_t log L_t` with the
    softmax held. `L_base` is each task's mean loss over its first steps, in which `W_t = 1 / L_t`.

    Args:
        num_tasks: the number T of tasks.
        warmup: how many first steps of each task are averaged, at least 1: an epoch, say.
        base_losses: `L_base`, `(T,)`, positive, where it is known; then there is no warm-up.
        combine: if False, return the rows `W_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: its own, that of
        `1 / L`. A loss at or below zero has no logarithm: its task is left out.

    When not to use:
        Where a loss can come near zero or below. Where tasks have floors of different height: the
        share of a loss that can still fall is not known, and the gap to zero stands for it.

    References:
        Dai et al., `Improvable Gap Balancing for Multi-Task Learning
        <https://openreview.net/forum?id=AkCyMYB3aNz>`_, UAI 2023, IGBv1; in the authors' code
        `L_base` are the means of an early epoch. IGBv2, which learns the weights by reinforcement,
        is not here.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.igb(3, base_losses=[2.0, 2.0, 2.0])
        >>> params = jnp.zeros(3)
        >>> losses = jnp.array([1.0, 2.0, 4.0])
        >>> updates, _ = tx.update(jnp.eye(3), tx.init(params), params, task_losses=losses)
        >>> print([round(float(x), 3) for x in updates])
        [0.421, 0.347, 0.471]
    """
    _checks.check_num_tasks("igb", num_tasks)
    _checks.check_count("igb", "warmup", warmup)
    known = _checks.check_vector("igb", "base_losses", base_losses, num_tasks, positive=True)

    def init() -> IGBState:
        return IGBState(jnp.zeros(num_tasks, jnp.float32), jnp.zeros(num_tasks, jnp.int32))

    def update(evidence: Evidence, state: IGBState) -> tuple[Array, IGBState]:
        losses, mask = evidence.losses, evidence.mask
        logs, counted = logs_of_positive(losses, mask)
        number = jnp.sum(counted).astype(logs.dtype)
        length = jnp.asarray(warmup, jnp.int32)
        ready = state.steps >= length
        base = state.base.astype(logs.dtype) if known is None else known.astype(logs.dtype)
        usable = base > 0
        ratios = losses / jnp.where(usable, base, 1)
        # What is far above its base is, and its square would overflow.
        ratios = jnp.where(usable, jnp.clip(ratios, 0, 1e6), 0)
        shares = number * softmax_present(ratios, counted)
        if known is None:
            shares = jnp.where(jnp.all(ready | ~counted), shares, 1)
        weights = times_exp(shares, -logs, counted)
        adding = mask & ~ready
        steps = state.steps + adding.astype(jnp.int32)
        share = 1 / jnp.maximum(steps, 1).astype(jnp.float32)
        moved = state.base + share * (losses.astype(jnp.float32) - state.base)
        return weights, IGBState(jnp.where(adding, moved, state.base), steps)

    weighting = Weighting("igb", num_tasks, frozenset({"losses"}), init, update)
    return from_weighting(weighting, combine_tasks=combine)

"""DWA: dynamic weight averaging (Liu et al. 2019)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting, softmax_present
from mtl_optax._registry import GRAM_METHOD, register


class DWAState(NamedTuple):
    """Each task's mean losses by epoch.

    Attributes:
        step: `()` int32, how many steps have been taken.
        epoch: `(T,)` int32, the epoch in which the task was last present.
        mean: `(T,)` float32, the task's mean loss in that epoch so far.
        seen: `(T,)` int32, how many losses that is the mean of.
        last: `(T,)` float32, mean of the epoch before that in which the task was present; zero
            while there is none.
        before: `(T,)` float32, mean of the one before `last`; zero while there is none.
    """

    step: Int[Array, ""]
    epoch: Int[Array, " T"]
    mean: Float[Array, " T"]
    seen: Int[Array, " T"]
    last: Float[Array, " T"]
    before: Float[Array, " T"]


@register(
    "Weights losses by how slowly they fall from epoch to epoch.",
    "Liu et al. 2019, https://arxiv.org/abs/1803.10704",
    reads=frozenset({"losses"}),
    scale="sum",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous", "conic"},
    heads="weighted",
)
def dwa(
    num_tasks: int,
    *,
    temperature: float = 2.0,
    steps_per_epoch: int | Array = 1,
    combine: bool = True,
) -> Method:
    """Weights tasks by how slowly their losses fall: `d = Σ_t w_t g_t`, `w = T softmax(r / τ)`.

    In epoch `e`, `r_t = L̄_t(e-1) / L̄_t(e-2)` with `L̄_t` the mean of the task's losses over an
    epoch. A factor on a task's loss cancels. `r_t` is one until two epochs are known, so that in
    the first two epochs all weights are one.

    Args:
        num_tasks: the number T of tasks.
        temperature: τ, positive. Towards infinity the weights become equal.
        steps_per_epoch: over how many steps losses are averaged, at least 1. With the default, 1,
            `r` compares the losses of the last two steps, which is noisy on mini-batches.
        combine: if False, return the rows `w_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: sum (`Σw = T`, with T
        the number of present tasks). A task's mean is over the steps of the epoch in which it is
        present; an epoch in which it never is does not count for it. A ratio to a mean of zero
        counts as one; losses of either sign are taken as they come.

    When not to use:
        Where tasks differ in scale: it knows their losses' rates alone, and its weights stay within
        a factor of `e^{1/τ}` of each other while losses fall. Where losses pass through zero, or
        are those of single batches: their ratios are noise (set `steps_per_epoch`).

    References:
        Liu, Johns and Davison, `End-to-End Multi-Task Learning with Attention
        <https://arxiv.org/abs/1803.10704>`_, 2019, Eq. 7. The nash-mtl code averages over windows
        of 25 steps and divides the weights by T.

    Example:
        The second task's loss stays, and gains weight over the first, whose loss is halved:

        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.dwa(2)
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> for loss in (4.0, 2.0, 1.0):
        ...     losses = jnp.array([loss, 3.0])
        ...     updates, state = tx.update(jnp.eye(2), state, params, task_losses=losses)
        ...     print([round(float(u), 3) for u in updates])
        [1.0, 1.0]
        [1.0, 1.0]
        [0.876, 1.124]
    """
    _checks.check_number("dwa", "temperature", temperature, low=0, open_low=True)
    _checks.check_count("dwa", "steps_per_epoch", steps_per_epoch)

    def init() -> DWAState:
        zeros = lambda dtype: jnp.zeros(num_tasks, dtype)
        return DWAState(
            step=jnp.zeros((), jnp.int32),
            epoch=zeros(jnp.int32),
            mean=zeros(jnp.float32),
            seen=zeros(jnp.int32),
            last=zeros(jnp.float32),
            before=zeros(jnp.float32),
        )

    def update(evidence: Evidence, state: DWAState) -> tuple[Array, DWAState]:
        mask = evidence.mask
        now = state.step // jnp.asarray(steps_per_epoch, jnp.int32)
        # A task closes its last epoch when it is next seen, so that an absent one stands still.
        closes = mask & (state.epoch != now) & (state.seen > 0)
        epoch = jnp.where(mask, now, state.epoch)
        last = jnp.where(closes, state.mean, state.last)
        before = jnp.where(closes, state.last, state.before)
        seen = jnp.where(closes, 0, state.seen) + mask.astype(jnp.int32)
        mean = jnp.where(closes, 0, state.mean)
        rest = evidence.losses.astype(jnp.float32) - mean
        mean = jnp.where(mask, mean + rest / jnp.maximum(seen, 1).astype(jnp.float32), mean)

        known = before != 0
        ratios = jnp.where(known, last / jnp.where(known, before, 1), 1)
        bound = float(jnp.finfo(jnp.float32).max)
        logits = jnp.clip(ratios / jnp.asarray(temperature, jnp.float32), -bound, bound)
        weights = jnp.sum(mask).astype(jnp.float32) * softmax_present(logits, mask)
        return weights, DWAState(state.step + 1, epoch, mean, seen, last, before)

    weighting = Weighting("dwa", num_tasks, frozenset({"losses"}), init, update)
    return from_weighting(weighting, combine_tasks=combine)

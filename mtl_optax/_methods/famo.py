"""FAMO: fast adaptive multitask optimization (Liu et al. 2023)."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting, softmax_present
from mtl_optax._methods._learned import LearnedScalars, default_adam
from mtl_optax._registry import GRAM_METHOD, register


class FAMOState(NamedTuple):
    """What FAMO has learned.

    Attributes:
        logits: the ξ of the tasks, and their Adam.
        log_losses: `(T,)` float32, `log(L_t - b_t)` when each task was last present.
        known: `(T,)` bool, the tasks that the next change of the losses is measured for.
    """

    logits: LearnedScalars
    log_losses: Float[Array, " T"]
    known: Bool[Array, " T"]


@register(
    "Lets all losses fall at one rate, from the change of the losses alone.",
    "Liu et al. 2023, https://arxiv.org/abs/2306.03792",
    reads=frozenset({"losses"}),
    scale="mean",
    properties=GRAM_METHOD
    | {"deterministic", "equivariant", "one task", "homogeneous", "convex", "conic"},
    heads="weighted",
)
def famo(
    num_tasks: int,
    *,
    learning_rate: float = 0.025,
    weight_decay: float = 1e-3,
    lagged: bool = True,
    min_losses: Any | None = None,
    combine: bool = True,
) -> Method:
    """Lets the losses fall at one rate: `d = Σ_t W_t g_t`, `W_t = (z_t / D_t) / Σ_s (z_s / D_s)`.

    `D_t = L_t - b_t` are the losses above their least values, and `z = softmax(ξ)`. It is MGDA on
    the logarithms of the losses, of which ξ follows the dual problem without a task gradient: each
    call first takes a step of Adam along `z ∘ (δ - <z, δ>)`, `δ = log D_before - log D_after`, so
    that a task whose loss has just fallen more than the others loses weight; then it weighs.

    Args:
        num_tasks: the number T of tasks.
        learning_rate: that of ξ's Adam, at least 0.
        weight_decay: γ, at least 0: `γ ξ` is added to ξ's gradient. The paper's Algorithm 2 and
            its experiments have 1e-3.
        lagged: whether the losses of this batch stand for those of the batch before at the present
            parameters. It saves a forward pass, and adds the difference of the batches, which is
            noise, to δ. If False, `update` reads `next_losses`, those of the batch of the step
            before at the present parameters; in the first call they are ignored.
        min_losses: b, `(T,)`, below every loss; zeros by default.
        combine: if False, return the rows `W_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`, with `next_losses=...` if
        not lagged. Scale: mean, the weights sum to one. A loss at or below its `b_t` takes all the
        weight. Of a task that was absent, lagged measures the change since it was last present;
        not lagged, ξ moves for tasks that are present now and were in the step before.

    When not to use:
        Where losses can be negative or are near their least values: it descends their logarithms.
        Where batches are small and `next_losses` are not given: their differences are its signal.

    References:
        Liu et al., `FAMO: Fast Adaptive Multitask Optimization <https://arxiv.org/abs/2306.03792>`_,
        2023, Algorithm 2. Public codes differ in γ: 1e-3 in LibMTL and TorchJD 0.18, 1e-2 in the
        authors' `famo.py`, and 1e-5 is a default of theirs that their own scripts override. They
        add 1e-8 to `D`.

    Example:
        Between the calls the first loss halved, and the other two stood nearly still:

        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.famo(3)
        >>> params = jnp.zeros(3)
        >>> state = tx.init(params)
        >>> for losses in ([1.0, 2.0, 4.0], [0.5, 1.9, 4.0]):
        ...     losses = jnp.array(losses)
        ...     updates, state = tx.update(jnp.eye(3), state, params, task_losses=losses)
        ...     print([round(float(w), 3) for w in state.weights])
        [0.571, 0.286, 0.143]
        [0.71, 0.196, 0.093]
    """
    _checks.check_num_tasks("famo", num_tasks)
    _checks.check_number("famo", "learning_rate", learning_rate, low=0)
    _checks.check_number("famo", "weight_decay", weight_decay, low=0)
    _checks.check_flag("famo", "lagged", lagged)
    least = _checks.check_vector("famo", "min_losses", min_losses, num_tasks)
    adam = default_adam(learning_rate)

    def log_above(losses: Float[Array, " T"]) -> Float[Array, " T"]:
        above = losses if least is None else losses - least.astype(losses.dtype)
        return jnp.log(jnp.maximum(above, jnp.finfo(losses.dtype).tiny))

    def init() -> FAMOState:
        zeros = lambda: jnp.zeros(num_tasks, jnp.float32)
        return FAMOState(LearnedScalars.create(adam, zeros()), zeros(), jnp.zeros(num_tasks, bool))

    def update(evidence: Evidence, state: FAMOState) -> tuple[Array, FAMOState]:
        mask, measured = evidence.mask, evidence.mask & state.known
        after = log_above(evidence.losses if lagged else evidence.next_losses)
        fell = jnp.where(measured, state.log_losses.astype(after.dtype) - after, 0)
        logits = state.logits.values.astype(after.dtype)
        z = softmax_present(logits, measured)
        slopes = z * (fell - jnp.sum(z * fell)) + jnp.asarray(weight_decay, after.dtype) * logits
        learned = state.logits.descend(adam, slopes, measured)
        now = log_above(evidence.losses)
        return softmax_present(learned.values.astype(now.dtype) - now, mask), FAMOState(
            learned,
            jnp.where(mask, now.astype(jnp.float32), state.log_losses),
            state.known | mask if lagged else mask,
        )

    reads = frozenset({"losses"} if lagged else {"losses", "next_losses"})
    weighting = Weighting("famo", num_tasks, reads, init, update)
    return from_weighting(weighting, combine_tasks=combine)

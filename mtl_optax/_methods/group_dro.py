"""Group DRO: exponentiated ascent on the task weights (Sagawa et al. 2020)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting, softmax_present
from mtl_optax._methods._logarithms import add_losses
from mtl_optax._registry import GRAM_METHOD, register


class GroupDROState(NamedTuple):
    """What the adversary has gathered.

    Attributes:
        scores: `(T,)` float32, `η` times the sum of each task's losses, the logits of its weight.
    """

    scores: Float[Array, " T"]


@register(
    "Weighs tasks by an adversary that follows the losses.",
    "Sagawa et al. 2020, https://arxiv.org/abs/1911.08731",
    reads=frozenset({"losses"}),
    scale="sum",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous", "conic"},
    heads="weighted",
)
def group_dro(num_tasks: int, *, step_size: float = 0.01, combine: bool = True) -> Method:
    """Weighs tasks by an adversary: `W <- W exp(η L)`, scaled to sum to T; `d = Σ_t W_t g_t`.

    It descends the worst weighted average of the losses, with mirror ascent on the weights: in the
    end the largest loss alone. `bandit_mtl` keeps the weights in a ball around equal ones.

    Args:
        num_tasks: the number T of tasks.
        step_size: η, at least 0.
        combine: if False, return the rows `W_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: sum; where tasks are
        absent, the weights sum to the number of those present. Each step weighs with its own losses
        already counted. Losses may have either sign.

    When not to use:
        Where losses have different units or floors: the weight of a loss that cannot fall grows for
        ever.

    References:
        Sagawa et al., `Distributionally Robust Neural Networks for Group Shifts
        <https://arxiv.org/abs/1911.08731>`_, 2020, Algorithm 1, where the weights sum to one; they
        sum to T in the code of ExcessMTL (He et al. 2024), with η = 0.01.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.group_dro(2, step_size=1.0)
        >>> params = jnp.zeros(2)
        >>> losses = jnp.array([0.0, 1.0])
        >>> updates, _ = tx.update(jnp.eye(2), tx.init(params), params, task_losses=losses)
        >>> print([round(float(x), 3) for x in updates])
        [0.538, 1.462]
    """
    _checks.check_num_tasks("group_dro", num_tasks)
    _checks.check_number("group_dro", "step_size", step_size, low=0)

    def init() -> GroupDROState:
        return GroupDROState(jnp.zeros(num_tasks, jnp.float32))

    def update(evidence: Evidence, state: GroupDROState) -> tuple[Array, GroupDROState]:
        mask = evidence.mask
        scores = add_losses(state.scores, step_size, evidence.losses, mask)
        number = jnp.sum(mask).astype(jnp.float32)
        return number * softmax_present(scores, mask), GroupDROState(scores)

    weighting = Weighting("group_dro", num_tasks, frozenset({"losses"}), init, update)
    return from_weighting(weighting, combine_tasks=combine)

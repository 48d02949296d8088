"""Fixed task weights: what a grid search over loss weights tries."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, from_weighting, stateless
from mtl_optax._registry import GRAM_METHOD, register


@register(
    "Fixed task weights.",
    "baseline",
    reads=frozenset(),
    scale="own",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous", "conic"},
    heads="weighted",
    arguments=lambda num_tasks: {"weights": np.ones(num_tasks)},
)
def constant(num_tasks: int, weights: Any, *, combine: bool = True) -> Method:
    """Weighs tasks by fixed numbers: `d = Σ_t w_t g_t`, the gradient of `Σ_t w_t L_t`.

    Args:
        num_tasks: the number T of tasks.
        weights: `w`, `(T,)`, an array or a sequence of numbers, used as they are; the weights of
            absent tasks are not handed to the others.
        combine: if False, return the rows `w_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Scale: that of the weights; ones give a sum.

    When not to use:
        Where nobody knows the weights: the search is one training for each choice.

    References:
        The baseline of most papers; GridSearch in Yang et al., `AdaTask
        <https://arxiv.org/abs/2211.15055>`_, 2023, is the best of a grid of them, which
        `python -m benchmarks grid` trains.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.constant(2, [0.9, 0.1])
        >>> params = jnp.zeros(2)
        >>> print(tx.update(jnp.eye(2), tx.init(params), params)[0])
        [0.9 0.1]
    """
    _checks.check_num_tasks("constant", num_tasks)
    given = _checks.check_vector("constant", "weights", weights, num_tasks)
    if given is None:
        raise TypeError("constant: weights must hold one number per task, got None.")

    def weigh(evidence: Evidence) -> Float[Array, " T"]:
        del evidence
        return jnp.asarray(given)

    return from_weighting(
        stateless("constant", num_tasks, frozenset(), weigh), combine_tasks=combine
    )

"""RLW: random loss weighting (Lin et al. 2022)."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting, softmax_present
from mtl_optax._methods._draws import Draws, RandomState
from mtl_optax._registry import GRAM_METHOD, register

Distribution = Literal["normal", "dirichlet"]


@register(
    "Draws new task weights at every step.",
    "Lin et al. 2022, https://arxiv.org/abs/2111.10603",
    reads=frozenset(),
    scale="mean",
    properties=GRAM_METHOD | {"one task", "homogeneous", "convex", "conic"},
    heads="weighted",
)
def rlw(
    num_tasks: int, *, distribution: Distribution = "normal", key: Any = 0, combine: bool = True
) -> Method:
    """Draws new task weights at every step: `d = Σ_t w_t g_t` with random `w` on the simplex.

    It is a baseline that any method with learned weights should beat.

    Args:
        num_tasks: the number T of tasks.
        distribution: "normal" takes `w = softmax(z)` with `z ~ N(0, I)`; "dirichlet" draws `w`
            uniformly from the simplex.
        key: integer seed or typed key; lives in the state, as a plain array, and moves at every
            step.
        combine: if False, return the rows `w_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Scale: mean (`Σw = 1`, and each weight is `1/T`
        on average, with T the number of present tasks). For three tasks the standard deviation of a
        weight is 0.22 ("normal") or 0.24 ("dirichlet").

    When not to use:
        As more than a baseline: it adds noise to equal weighting, and helps against neither
        scales nor conflicts.

    References:
        Lin et al., `Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task
        Learning <https://arxiv.org/abs/2111.10603>`_, 2022, Section 3. LibMTL, nash-mtl and
        TorchJD draw "normal".

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.rlw(2)
        >>> params = jnp.zeros(2)
        >>> state, drawn = tx.init(params), []
        >>> for _ in range(100):
        ...     _, state = tx.update(jnp.eye(2), state, params)
        ...     drawn.append(state.weights)
        >>> print(jnp.mean(jnp.stack(drawn), axis=0).round(1))
        [0.5 0.5]
    """
    _checks.check_choice("rlw", "distribution", distribution, get_args(Distribution))
    draws = Draws("rlw", key)

    def update(evidence: Evidence, state: RandomState) -> tuple[Array, RandomState]:
        state, now = draws.next(state)
        if distribution == "normal":
            logits = jax.random.normal(now, (num_tasks,), jnp.float32)
        else:
            # The uniform distribution on the simplex is that of exponential variables divided by
            # their sum; the logarithm of one is minus a Gumbel variable, and never infinite.
            logits = -jax.random.gumbel(now, (num_tasks,), jnp.float32)
        return softmax_present(logits, evidence.mask), state

    weighting = Weighting("rlw", num_tasks, frozenset(), draws.init, update)
    return from_weighting(weighting, combine_tasks=combine)

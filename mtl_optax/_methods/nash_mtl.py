"""Nash-MTL: the update as a bargaining solution between the tasks (Navon et al. 2022)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting
from mtl_optax._precision import HIGHEST
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.bargaining import bargaining


class NashMTLState(NamedTuple):
    """The last bargaining solution.

    Attributes:
        solution: `(T,)` float32, each task's `a_t` when it was last solved for, before the clip.
        residual: `()` float32, `max_t |a_t (Ma)_t - 1|` of the last solution; one where there was
            none.
        iterations: `()` int32, the Newton steps it took.
    """

    solution: Float[Array, " T"]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]


@register(
    "The bargaining solution, which maximises the product of the tasks' gains.",
    "Navon et al. 2022, https://arxiv.org/abs/2202.01017",
    reads=frozenset({"gram"}),
    scale="unit",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "non-conflicting", "conic"},
)
def nash_mtl(
    num_tasks: int,
    *,
    max_norm: float | None = 1.0,
    combine: bool = True,
) -> Method:
    """Lets the tasks bargain over the direction: `d = Σ_t a_t g_t` with `Ma = 1/a`, `a > 0`.

    It maximises the product `Π_t <g_t, d>` of the tasks' gains in a ball. The equations
    `a_t <g_t, d> = 1` have one solution where the gradients are linearly independent; it is found
    by Newton steps to rounding. No task's scale has a say in `d`, which satisfies `<g_t, d> > 0`.
    Since `a'Ma = T`, it has the same length at every step, `sqrt(T)`, clipped to `max_norm`: it
    does not shrink near an optimum, so a decaying learning rate is needed.

    Args:
        num_tasks: the number T of tasks.
        max_norm: `d` is scaled to at most this norm, positive; None for no limit. Any limit up to
            `sqrt(T)` makes the norm constant.
        combine: if False, return the rows `a_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Its state reports the residual and the Newton
        steps. Scale: unit, whatever that of the gradients: one task gives `g / ‖g‖`. A zero
        gradient takes no part. Pareto stationary gradients, opposite ones for instance, have no
        solution: the update is zero.

    When not to use:
        With a learning rate that does not decay: near an optimum its steps grow no shorter. Where a
        task has converged, what is left of its gradient, noise say, counts as much as any other.

    References:
        Navon et al., `Multi-Task Learning as a Bargaining Game
        <https://arxiv.org/abs/2202.01017>`_, 2022, Claim 3.1 and Algorithm 1. The authors' code,
        and after it LibMTL's and TorchJD's, solves at most 20 convex-concave rounds with ECOS, and
        tests convergence against another scaling of the Gram matrix than it solves for: on
        ill-conditioned gradients the residual stayed as high as 16. TorchJD refuses `T = 1`. Their
        `update_weights_every` is `mtl_optax.every(nash_mtl(T), k)`.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.nash_mtl(2)
        >>> gradients = jnp.array([[100.0, 0.0], [0.0, 0.1]])
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        >>> print(updates.round(3), state.inner.solution.round(3))
        [0.707 0.707] [ 0.01 10.  ]
    """
    if max_norm is not None:
        _checks.check_number("nash_mtl", "max_norm", max_norm, low=0, open_low=True)

    def init() -> NashMTLState:
        zero = jnp.zeros((), jnp.float32)
        return NashMTLState(jnp.zeros(num_tasks, jnp.float32), zero, jnp.zeros((), jnp.int32))

    def update(evidence: Evidence, state: NashMTLState) -> tuple[Array, NashMTLState]:
        gram, scale, mask = evidence.gram, evidence.scale, evidence.mask
        found = bargaining(gram, mask)
        weights = found.weights / scale
        state = NashMTLState(
            jnp.where(mask, weights.astype(jnp.float32), state.solution),
            found.residual.astype(jnp.float32),
            found.iterations,
        )
        if max_norm is not None:
            scaled = jnp.where(mask, weights * scale, 0)
            square = jnp.dot(scaled, jnp.matmul(gram, scaled, precision=HIGHEST), precision=HIGHEST)
            limit = jnp.asarray(max_norm, gram.dtype)
            norm = jnp.sqrt(jnp.maximum(square, 0))
            weights = weights * (limit / jnp.maximum(norm, limit))
        return weights, state

    weighting = Weighting("nash_mtl", num_tasks, frozenset({"gram"}), init, update)
    return from_weighting(weighting, combine_tasks=combine)

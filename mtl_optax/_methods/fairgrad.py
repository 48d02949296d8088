"""FairGrad: the update of the fairest gains, by α-fair utilities (Ban and Ji 2024)."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.bargaining import fair


class FairGradState(NamedTuple):
    """How well the equations of the last step were solved.

    Attributes:
        residual: `()` float32, by how much they fall short, as a share of their terms; one where
            there is no solution.
        iterations: `()` int32, the Newton steps it took.
    """

    residual: Float[Array, ""]
    iterations: Int[Array, ""]


@register(
    "Maximises α-fair utilities of the tasks' gains, from their sum to the least of them.",
    "Ban and Ji 2024, https://arxiv.org/abs/2402.15638",
    reads=frozenset({"gram"}),
    scale="own",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "non-conflicting", "conic"},
    arguments=lambda num_tasks: {"alpha": 2.0},
)
def fairgrad(
    num_tasks: int, alpha: float, *, weights: Any | None = None, combine: bool = True
) -> Method:
    """Weighs tasks by how little they gain: `d = Σ_t a_t g_t` with `Ma = (w/a)^(1/α)`, `a > 0`.

    So `a_t = w_t <g_t, d>^(-α)`: of all directions in a ball, that of `d` maximises the sum of the
    utilities `w_t <g_t, d>^(1-α) / (1-α)` of the gains, for `α = 1` of `w_t log <g_t, d>`. As α
    falls to zero `a` tends to `w`, and as it grows `d` serves the task that gains least. `α = 1` is
    Nash-MTL without its limit on the norm. The equations have one solution where the gradients are
    linearly independent; it is found by Newton steps to rounding, and `<g_t, d> > 0`.

    Args:
        num_tasks: the number T of tasks.
        alpha: α, between 0.05 and 20. The authors' experiments have 2, their class 1.
        weights: `w`, `(T,)`, positive, an array or a sequence of numbers; ones by default. PIVRG is
            this with `α = 2` and weights from validation scores.
        combine: if False, return the rows `a_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Its state reports the residual and the Newton
        steps. Scale: its own; gradients `s` times as long give `s^((1-α)/(1+α))` times the update,
        and one task `g / ‖g‖^(2α/(1+α))`. The weights go as `s^(-2α/(1+α))`, and those beyond
        float32 become its largest number: for α up to 3 gradients from 1e-25 to 1e20 do not need
        them, for `α = 20` they do below 1e-20. A zero gradient takes no part. Pareto stationary
        gradients, opposite ones for instance, have no solution: the update is zero.

    When not to use:
        With α above one and a learning rate that does not decay: near an optimum its steps grow.
        Where a task has converged and α is one or more: what is left of its gradient, noise say,
        counts as much as any other, or more.

    References:
        Ban and Ji, `Fair Resource Allocation in Multi-Task Learning
        <https://arxiv.org/abs/2402.15638>`_, 2024, Eq. 7. Public codes solve by SciPy's
        least_squares: the authors' multiplies by T and clips the norm to one; LibMTL and TorchJD
        0.18 do neither. For `α = 0` TorchJD returns the mean, T times less than the limit, and
        below 1e-3 raises an error; for `α = 5` it stopped up to 54 % from the solution in 300
        draws. Of a zero gradient the weight grows until SciPy stops.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.fairgrad(2, alpha=2.0)
        >>> gradients = jnp.array([[8.0, 0.0], [0.0, 1.0]])
        >>> params = jnp.zeros(2)
        >>> print(tx.update(gradients, tx.init(params), params)[0].round(4))
        [0.5 1. ]
    """
    _checks.check_num_tasks("fairgrad", num_tasks)
    _checks.check_number("fairgrad", "alpha", alpha, low=0.05, high=20)
    given = _checks.check_vector("fairgrad", "weights", weights, num_tasks, positive=True)

    def init() -> FairGradState:
        return FairGradState(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))

    def update(evidence: Evidence, state: FairGradState) -> tuple[Array, FairGradState]:
        del state
        gram, mask = evidence.gram, evidence.mask
        shares, unit = evidence.relative()
        w = jnp.ones_like(shares) if given is None else given.astype(gram.dtype)
        found = fair(gram, shares, unit, jnp.asarray(alpha, gram.dtype), w, mask)
        return found.weights, FairGradState(found.residual.astype(jnp.float32), found.iterations)

    weighting = Weighting("fairgrad", num_tasks, frozenset({"gram"}), init, update)
    return from_weighting(weighting, combine_tasks=combine)

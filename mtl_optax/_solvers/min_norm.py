"""The point of least norm in the convex hull of the task gradients: min w'Mw on the simplex.

It is the inner problem of MGDA (Désidéri 2012; Sener and Koltun 2018, Eq. 3) and is met again
wherever a common descent direction is asked for. Of a solution `w` with `d = G'w`, duality says
that `<g_t, d> >= ‖d‖²` for every task, with equality where `w_t > 0`; the duality gap
`w'Mw - min_t (Mw)_t` bounds `½w'Mw` from its minimum and is what each solver returns.
"""

import functools
from collections.abc import Callable
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_optax._precision import HIGHEST
from mtl_optax._solvers.conic import corrected, on_unit_rows
from mtl_optax._solvers.simplex import Solution, lowest, present, project, uniform
from mtl_optax._tracing import varying_like

_State = TypeVar("_State")
MinNormSolver = Literal["fully_corrective", "frank_wolfe", "projected_gradient"]


def min_norm(
    gram: Float[Array, "T T"],
    mask: Bool[Array, " T"] | None = None,
    scale: Float[Array, " T"] | None = None,
    *,
    solver: MinNormSolver = "fully_corrective",
) -> Solution:
    """Solves `min ½ w'Mw` over the simplex of the tasks in `mask`.

    Args:
        gram: `M`, symmetric positive semi-definite `(T, T)`, float32 or float64; `M_st` divided by
            the scales of both tasks.
        mask: `(T,)` bool, the tasks that may get weight; all by default.
        scale: `(T,)`, each task's, positive and at most one; ones by default. With it, and with
            the default solver, rows can lie further apart than their squares can in the dtype.
        solver: `"fully_corrective"` is exact in a few iterations; the other two are the classic
            first-order methods, kept for fidelity to published code.

    Returns:
        Weights, duality gap `w'Mw - min_t (Mw)_t` and iterations. A non-finite `M` gives NaN
        weights; `M = 0` gives uniform weights.
    """
    if solver == "fully_corrective":
        return fully_corrective(gram, mask, scale)
    return SOLVERS[solver](gram if scale is None else gram * jnp.outer(scale, scale), mask)


def duality_gap(
    gram: Float[Array, "T T"], weights: Float[Array, " T"], mask: Bool[Array, " T"]
) -> Float[Array, ""]:
    """Computes `w'Mw - min_t (Mw)_t` over the tasks in `mask`; never below zero."""
    slopes = jnp.matmul(gram, weights, precision=HIGHEST)
    return jnp.maximum(jnp.dot(weights, slopes, precision=HIGHEST) - lowest(slopes, mask), 0)


@functools.partial(jax.jit, static_argnames=("tolerance", "max_iterations"))
def fully_corrective(
    gram: Float[Array, "T T"],
    mask: Bool[Array, " T"] | None = None,
    scale: Float[Array, " T"] | None = None,
    *,
    tolerance: float | None = None,
    max_iterations: int | None = None,
) -> Solution:
    """Solves the min-norm problem exactly: that of `conic` with `b = 0`, `κ = 1`.

    Args:
        gram: `M`, `(T, T)`, divided by the scales.
        mask: tasks that may get weight.
        scale: as in `min_norm`.
        tolerance: by how much `<g_t, d>` may fall short of `‖d‖²`, relative to
            `‖g_t‖ Σ_s w_s‖g_s‖`; 8 units of the dtype's precision by default.
        max_iterations: cap on linear solves, `8 T + 8` by default.
    """
    mask = present(mask, gram)
    problem = on_unit_rows(None, gram, 1.0, mask, scale)
    point, _, iterations = corrected(problem, tolerance, max_iterations)
    weights = point * problem.costs
    total = jnp.sum(weights)
    # The gap in units of min(D): in those of the longest row its terms would underflow.
    slopes = problem.lengths / problem.shortest * problem.product(point)
    value = jnp.dot(point, problem.product(point), precision=HIGHEST)
    gap = jnp.maximum(value / total - lowest(slopes, mask), 0) / total * problem.shortest**2
    return Solution(weights / total, gap, iterations)


@functools.partial(jax.jit, static_argnames=("tolerance", "max_iterations"))
def frank_wolfe(
    gram: Float[Array, "T T"],
    mask: Bool[Array, " T"] | None = None,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
) -> Solution:
    """Solves the min-norm problem by classic Frank-Wolfe with exact line search.

    Algorithm 2 of Sener and Koltun (2018). Its gap falls like one over the iterations: TorchJD's
    defaults (100 iterations, step below 1e-3) stop at up to 5e-3 of the mean squared norm.

    Args:
        gram: `M`, `(T, T)`.
        mask: tasks that may get weight.
        tolerance: duality gap to stop at, as a share of the mean diagonal of `M`.
        max_iterations: cap on iterations.
    """
    mask = present(mask, gram)
    goal = _goal(gram, mask, tolerance)

    def step(weights: Float[Array, " T"]) -> Float[Array, " T"]:
        slopes = jnp.matmul(gram, weights, precision=HIGHEST)
        best = jnp.argmin(jnp.where(mask, slopes, jnp.inf))
        value = jnp.dot(weights, slopes, precision=HIGHEST)
        curvature = value + gram[best, best] - 2 * slopes[best]
        length = jnp.clip((value - slopes[best]) / jnp.where(curvature > 0, curvature, 1), 0, 1)
        return weights + length * (jnp.zeros_like(weights).at[best].set(1) - weights)

    return _descend(gram, mask, uniform(mask, gram.dtype), step, lambda x: x, goal, max_iterations)


@functools.partial(jax.jit, static_argnames=("tolerance", "max_iterations"))
def projected_gradient(
    gram: Float[Array, "T T"],
    mask: Bool[Array, " T"] | None = None,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
) -> Solution:
    """Solves the min-norm problem by accelerated projected gradient descent (FISTA).

    Beck and Teboulle (2009), with the restart of O'Donoghue and Candès (2015) whenever the
    momentum points uphill; projections by `optax.projections.projection_simplex`.

    Args:
        gram: `M`, `(T, T)`.
        mask: tasks that may get weight.
        tolerance: duality gap to stop at, as a share of the mean diagonal of `M`.
        max_iterations: cap on iterations.
    """
    mask = present(mask, gram)
    goal = _goal(gram, mask, tolerance)
    # The largest row sum bounds the largest eigenvalue, the Lipschitz constant of the gradient.
    lipschitz = jnp.max(jnp.sum(jnp.abs(gram), axis=1))
    lipschitz = jnp.where(lipschitz > 0, lipschitz, 1)
    # Absent tasks sort last and so never enter the projection's support.
    absent = -4 * jnp.asarray(gram.shape[0], gram.dtype)

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        weights, ahead, momentum = state
        slopes = jnp.matmul(gram, ahead, precision=HIGHEST)
        moved = jnp.where(mask, ahead - slopes / lipschitz, absent)
        new = project(moved)
        uphill = jnp.dot(ahead - new, new - weights) > 0
        momentum = jnp.where(uphill, 1.0, momentum)
        grown = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        return new, new + (momentum - 1) / grown * (new - weights), grown

    start = uniform(mask, gram.dtype)
    state = (start, start, jnp.ones((), gram.dtype))
    return _descend(gram, mask, state, step, lambda x: x[0], goal, max_iterations)


def _goal(gram: Float[Array, "T T"], mask: Bool[Array, " T"], tolerance: float) -> Array:
    return tolerance * jnp.dot(uniform(mask, gram.dtype), jnp.diagonal(gram))


def _descend(
    gram: Float[Array, "T T"],
    mask: Bool[Array, " T"],
    start: _State,
    step: Callable[[_State], _State],
    weights_of: Callable[[_State], Float[Array, " T"]],
    goal: Float[Array, ""],
    max_iterations: int,
) -> Solution:
    """Repeats `step` until the duality gap reaches `goal`, the cap is met or a NaN appears."""
    initial_gap = duality_gap(gram, weights_of(start), mask)
    final, gap, iterations = jax.lax.while_loop(
        # A comparison with NaN is false, which ends the loop.
        lambda loop: (loop[1] > goal) & (loop[2] < max_iterations),
        lambda loop: (
            new := step(loop[0]),
            duality_gap(gram, weights_of(new), mask),
            loop[2] + 1,
        ),
        varying_like((start, initial_gap, jnp.array(0, jnp.int32)), gram, mask),
    )
    weights = jnp.where(jnp.isfinite(gap), weights_of(final), jnp.nan)
    return Solution(weights, gap, iterations)


SOLVERS: dict[MinNormSolver, Callable[..., Solution]] = {
    "fully_corrective": fully_corrective,
    "frank_wolfe": frank_wolfe,
    "projected_gradient": projected_gradient,
}

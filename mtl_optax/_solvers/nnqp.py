"""Non-negative quadratic programs, min ½x'Qx + q'x over x >= 0, by active sets.

UPGrad, DualProj and PCD meet them as duals of projections: the nearest point `d` to `g` with
`<g_s, d> >= b_s` for every task is `d = g + Σ_s x_s g_s`, where `Q` is the Gram matrix and
`q_s = <g_s, g> - b_s`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mtl_optax._precision import HIGHEST
from mtl_optax._solvers.simplex import present, unit_rows
from mtl_optax._tracing import varying_like

# The first, and refinements against the matrix itself, which take out what the ridge put in.
_SOLVES = 3


class NNQPSolution(NamedTuple):
    """What `nnqp` returns; `C`, `p` and `y` are `Q`, `q` and `x` for rows of unit length.

    Attributes:
        points: `x`, `(K, T)`, not negative; zero for absent tasks and rows of zeros.
        residuals: `max_s |min(y_s, (Cy + p)_s)|`, `(K,)`, by how much the conditions of optimality
            are missed, in the unit of `p`.
        bounded: `(K,)` bool, whether there is a minimum, to the resolution of `Q`. There is one
            where `q` comes of a projection with `b <= 0`.
        iterations: `(K,)` int32, the number of linear systems solved.
    """

    points: Float[Array, "K T"]
    residuals: Float[Array, " K"]
    bounded: Bool[Array, " K"]
    iterations: Int[Array, " K"]


class _Active(NamedTuple):
    point: Float[Array, " *K T"]
    support: Bool[Array, " *K T"]
    done: Bool[Array, " *K"]
    iterations: Int[Array, " *K"]


@functools.partial(jax.jit, static_argnames=("tolerance", "max_iterations"))
def nnqp(
    linear: Float[Array, "K T"],
    quadratic: Float[Array, "T T"],
    mask: Bool[Array, " T"] | None = None,
    *,
    tolerance: float | None = None,
    max_iterations: int | None = None,
) -> NNQPSolution:
    """Solves `min ½x'Qx + q'x` over `x >= 0` for `K` vectors `q` at once.

    After Lawson and Hanson (1974), "Solving Least Squares Problems": on the current support the
    minimum has a closed form; move there, or as far as the signs allow, dropping what reaches
    zero; once there, let the tasks enter along which the objective falls, until there are none.
    All of them enter at once, which treats tied tasks alike, and those that would turn negative
    leave again before anything moves, so that the objective falls with each move.

    Each row may be divided by a positive number of its own: `Q_st / (D_s D_t)` and `q_s / D_s`
    have the solution `D_s x_s` and the same certificate. So rows can lie further apart than their
    squares can in the dtype.

    Args:
        linear: the vectors `q`, `(K, T)`.
        quadratic: `Q`, symmetric positive semi-definite, `(T, T)`, float32 or float64.
        mask: `(T,)` bool, the tasks that take part; all by default.
        tolerance: by how much a slope may fall short of optimality, relative to the size of its
            terms; 8 units of the dtype's precision by default.
        max_iterations: cap on linear solves, `8 T + 8` by default.

    Returns:
        The solutions with their certificates. Non-finite input gives NaN points and residuals.
    """
    mask = present(mask, quadratic)
    cosines, lengths, active = unit_rows(quadratic, mask)
    rows = jnp.expand_dims(lengths, 0)
    slopes = jnp.where(jnp.expand_dims(active, 0), linear / rows, 0)
    points, iterations = _corrected(cosines, slopes, tolerance, max_iterations)
    products = jnp.matmul(points, cosines, precision=HIGHEST)
    residuals = jnp.max(jnp.abs(jnp.minimum(points, products + slopes)), axis=1)
    # Along a direction without curvature the point is as far out as the ridge lets it.
    bounded = jnp.sum((products + slopes / 2) * points, axis=1) >= 0
    return NNQPSolution(points / rows, residuals, bounded, iterations)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _corrected(
    cosines: Float[Array, "T T"],
    slopes: Float[Array, "K T"],
    tolerance: float | None,
    max_iterations: int | None,
) -> tuple[Float[Array, "K T"], Int[Array, " K"]]:
    """Returns points and iterations for rows of unit length; NaN where not finite."""
    num_tasks, dtype = len(cosines), cosines.dtype
    eps = float(jnp.finfo(dtype).eps)
    tolerance = 8 * eps if tolerance is None else tolerance
    cap = 8 * num_tasks + 8 if max_iterations is None else max_iterations

    def move(state: _Active, slopes: Float[Array, " T"]) -> _Active:
        point, support = state.point, state.support
        factor = jax.scipy.linalg.cho_factor(_ridged(cosines, support), lower=True)
        target = jnp.zeros_like(point)
        for _ in range(_SOLVES):
            wanted = -slopes - jnp.matmul(cosines, target, precision=HIGHEST)
            target += jax.scipy.linalg.cho_solve(factor, jnp.where(support, wanted, 0))

        # The longest step that keeps the point from turning negative.
        blocked = support & (target <= 0)
        ratios = point / jnp.where(blocked & (point > 0), point - target, 1)
        ratios = jnp.where(blocked, ratios, jnp.inf)
        step = jnp.min(ratios)
        free = step == jnp.inf
        held = support & (free | (ratios > step))
        moved = point + jnp.where(free, 0, step) * (target - point)
        moved = jnp.where(held, jnp.where(free, target, jnp.maximum(moved, 0)), 0)

        shortfall = -slopes - jnp.matmul(cosines, target, precision=HIGHEST)
        rounding = jnp.max(jnp.abs(slopes)) + jnp.sum(jnp.abs(target))
        entering = free & ~support & (shortfall > tolerance * rounding)
        # If all that entered are turned back, rounding has the last word.
        turned = (step == 0) & ~jnp.any(held & (point == 0))
        done = (free & ~jnp.any(entering)) | turned
        return _Active(moved, held | entering, done, state.iterations + 1)

    def going(state: _Active) -> Bool[Array, " K"]:
        return ~state.done & (state.iterations < cap)

    def body(state: _Active) -> _Active:
        new, on = jax.vmap(move)(state, slopes), going(state)
        return _Active(
            jnp.where(jnp.expand_dims(on, 1), new.point, state.point),
            jnp.where(jnp.expand_dims(on, 1), new.support, state.support),
            jnp.where(on, new.done, state.done),
            jnp.where(on, new.iterations, state.iterations),
        )

    num_problems = len(slopes)
    start = _Active(
        jnp.zeros_like(slopes),
        slopes < 0,
        jnp.zeros(num_problems, bool),
        jnp.zeros(num_problems, jnp.int32),
    )
    final = jax.lax.while_loop(
        lambda state: jnp.any(going(state)), body, varying_like(start, cosines, slopes)
    )
    finite = jnp.isfinite(jnp.sum(jnp.abs(cosines)) + jnp.sum(jnp.abs(slopes), axis=1))
    points = jnp.where(jnp.expand_dims(finite, 1), final.point, jnp.nan)
    return points, final.iterations


@_corrected.defjvp
def _corrected_jvp(
    tolerance: float | None, max_iterations: int | None, primals: Any, tangents: Any
) -> tuple[Any, Any]:
    """Differentiates the closed form on the support, which near the solution stays the same."""
    (cosines, slopes), (turn, change) = primals, tangents
    points, iterations = _corrected(cosines, slopes, tolerance, max_iterations)
    support = points > 0
    excess = jnp.matmul(points, turn.T, precision=HIGHEST) + change
    systems = jax.vmap(_ridged, in_axes=(None, 0))(cosines, support)
    wanted = jnp.where(support, -excess, 0)
    moves = jnp.linalg.solve(systems, jnp.expand_dims(wanted, 2))
    still = np.zeros(iterations.shape, jax.dtypes.float0)
    return (points, iterations), (jnp.squeeze(moves, 2), still)


def _ridged(cosines: Float[Array, "T T"], support: Bool[Array, " T"]) -> Float[Array, "T T"]:
    """Cuts the support out, in an identity, with a ridge that keeps singular ones definite."""
    eye = jnp.eye(len(cosines), dtype=cosines.dtype)
    ridge = 4 * len(cosines) * float(jnp.finfo(cosines.dtype).eps)
    return jnp.where(jnp.outer(support, support), cosines + ridge * eye, eye)

"""The conic problem min b'w + κ·sqrt(w'Qw) on the simplex, fully corrective.

CAGrad (b = Mu, Q = M) and GetMTL share it, and with b = 0, κ = 1 it is the min-norm problem of
MGDA. Its dual asks for the vector `z`, `‖z‖ <= κ`, that raises the smallest of `b_t + <h_t, z>`
the most, where `Q = HH'`; at the optimum `z = H'x` with `x = κ w / sqrt(w'Qw)`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtl_optax._gram import HIGHEST
from mtl_optax._solvers.simplex import lowest, present


class ConicSolution(NamedTuple):
    """What `conic` returns.

    Attributes:
        weights: `w`, `(T,)`, on the simplex, zero for absent tasks.
        multipliers: `x = κ w / sqrt(w'Qw)`, `(T,)`; bounded where `w'Qw` vanishes.
        gap: `()`, upper bound on `F(w)` minus the optimum, `F(w) - min_t (b + Qx)_t`.
        iterations: `()` int32, the number of linear systems solved.
    """

    weights: Float[Array, " T"]
    multipliers: Float[Array, " T"]
    gap: Float[Array, ""]
    iterations: Int[Array, ""]


class _Active(NamedTuple):
    point: Float[Array, " T"]
    multipliers: Float[Array, " T"]
    support: Bool[Array, " T"]
    done: Bool[Array, ""]
    iterations: Int[Array, ""]


@functools.partial(jax.jit, static_argnames=("tolerance", "max_iterations"))
def conic(
    linear: Float[Array, " T"],
    quadratic: Float[Array, "T T"],
    kappa: Float[Array, ""] | float,
    mask: Bool[Array, " T"] | None = None,
    *,
    tolerance: float | None = None,
    max_iterations: int | None = None,
) -> ConicSolution:
    """Solves `min F(w) = b'w + κ·sqrt(w'Qw)` over the simplex of the tasks in `mask`.

    Fully corrective Frank-Wolfe, after Wolfe (1976), "Finding the nearest point in a polytope":
    over the affine hull of the current support the minimum has a closed form; move there, or as
    far as the simplex allows, dropping the task whose weight reaches zero; once there, let the
    task of steepest descent enter, until none descends. It starts from all tasks, which in high
    dimension is most often already the answer, and treats tied tasks alike.

    On a support, with `p = Q⁻¹1`, `a = 1'p`, `v = b'p / a`, `q = Q⁻¹(v1 - b)` and
    `σ² = (v1 - b)'q`, the minimum over the affine hull is `w = p/a + q / sqrt(a (κ² - σ²))` where
    `σ < κ`; otherwise `F` falls without end along `q`.

    The work is done in the variables `y_t ∝ w_t D_t`, with `D_t = sqrt(Q_tt)`, where `Q` has unit
    diagonal. This is a change of variables, not of the problem, and makes the accuracy
    independent of how far apart the scales of the tasks lie.

    Args:
        linear: `b`, `(T,)`.
        quadratic: `Q`, symmetric positive semi-definite, `(T, T)`, float32 or float64.
        kappa: `κ >= 0`, `()`.
        mask: `(T,)` bool, the tasks that may get weight; all by default.
        tolerance: by how much a slope may fall short of optimality, relative to the size of its
            terms; 8 units of the dtype's precision by default.
        max_iterations: cap on linear solves, `8 T + 8` by default.

    Returns:
        The solution with its certificate. Non-finite input gives NaN weights and multipliers.
    """
    mask = present(mask, quadratic)
    num_tasks, dtype = quadratic.shape[0], quadratic.dtype
    eps = float(jnp.finfo(dtype).eps)
    tolerance = 8 * eps if tolerance is None else tolerance
    cap = 8 * num_tasks + 8 if max_iterations is None else max_iterations
    ridge = 4 * num_tasks * eps  # Keeps the Cholesky factor of a singular matrix real.
    kappa = jnp.asarray(kappa, dtype)

    lengths = jnp.sqrt(jnp.where(mask, jnp.diagonal(quadratic), 0))
    longest = jnp.max(lengths)
    lengths = jnp.where(longest > 0, jnp.maximum(lengths, eps * longest), 1)
    shortest = lowest(lengths, mask)
    costs = jnp.where(mask, shortest / lengths, 0)
    slopes_0 = jnp.where(mask, linear / lengths, 0)
    cosines = quadratic / jnp.outer(lengths, lengths)

    def product(point: Float[Array, " T"]) -> Float[Array, " T"]:
        return jnp.matmul(cosines, point, precision=HIGHEST)

    def within_radius(multipliers: Float[Array, " T"]) -> Float[Array, " T"]:
        square = jnp.dot(multipliers, product(multipliers))
        outside = square > kappa**2
        return multipliers * jnp.where(outside, kappa / jnp.sqrt(jnp.where(outside, square, 1)), 1)

    def value(point: Float[Array, " T"]) -> Float[Array, ""]:
        square = jnp.maximum(jnp.dot(point, product(point)), 0)
        return jnp.dot(slopes_0, point) + kappa * jnp.sqrt(square)

    def body(state: _Active) -> _Active:
        point, support = state.point, state.support
        pairs = jnp.outer(support, support)
        system = jnp.where(pairs, cosines, 0) + jnp.diag(jnp.where(support, ridge, 1).astype(dtype))
        factor = jax.scipy.linalg.cho_factor(system, lower=True)

        def solve(wanted: Float[Array, " T"]) -> Float[Array, " T"]:
            wanted = jnp.where(support, wanted, 0)
            solution = jax.scipy.linalg.cho_solve(factor, wanted)
            # One refinement against the matrix itself takes out most of what the ridge put in.
            residual = jnp.where(support, wanted - product(solution), 0)
            return solution + jax.scipy.linalg.cho_solve(factor, residual)

        nearest = solve(costs)
        norm = jnp.dot(costs, nearest)
        level = jnp.dot(slopes_0, nearest) / norm
        uneven = level * costs - slopes_0
        noise = 4 * eps * (jnp.abs(level) * costs + jnp.abs(slopes_0))
        uneven = jnp.where(support & (jnp.abs(uneven) > noise), uneven, 0)
        shift = solve(uneven)
        # Of a singular matrix, `level` is lost to rounding in `uneven`; this puts it back.
        shift -= nearest * (jnp.dot(costs, shift) / norm)
        margin = kappa**2 - jnp.dot(uneven, shift)
        bounded = margin > 0
        height = jnp.sqrt(jnp.where(bounded, margin, 1) / norm)
        target = nearest / norm + shift / (norm * height)
        direction = jnp.where(bounded, target - point, shift)

        # The longest step that keeps the point in the simplex.
        blocked = support & jnp.where(bounded, target <= 0, direction < 0)
        ratios = jnp.where(blocked, point / jnp.where(blocked, -direction, 1), jnp.inf)
        free = ~jnp.any(blocked)
        step = jnp.where(free, 0, jnp.min(ratios))
        moved = jnp.where(ratios <= step, 0, jnp.maximum(point + step * direction, 0))
        moved = jnp.where(free, jnp.where(bounded, target, point), moved)
        moved = jnp.where(support, moved, 0)
        total = jnp.dot(costs, moved)
        lost = ~(total > 0)  # Also if NaN.
        moved = jnp.where(lost, point, moved / jnp.where(lost, 1, total))

        # Of the solution over the affine hull, this is κ·y/sqrt(y'Cy) without the division, which
        # would lose the multipliers where y'Cy vanishes.
        multipliers = within_radius(jnp.where(free & bounded, shift + height * nearest, 0))
        shortfall = value(moved) * costs - slopes_0 - product(multipliers)
        shortfall = jnp.where(mask & (moved == 0), shortfall, -jnp.inf)
        worst = jnp.argmax(shortfall)
        rounding = jnp.max(jnp.abs(slopes_0)) + jnp.sum(multipliers)
        optimal = ~(shortfall[worst] > tolerance * rounding)
        entering = free & (jnp.arange(num_tasks) == worst)
        # A task that entered and is turned back at once means that rounding has the last word.
        done = jnp.where(free, optimal, step == 0) | lost
        return _Active(moved, multipliers, (moved > 0) | entering, done, state.iterations + 1)

    start = mask.astype(dtype)
    final = jax.lax.while_loop(
        lambda state: ~state.done & (state.iterations < cap),
        body,
        _Active(
            start / jnp.sum(costs),
            jnp.zeros_like(start),
            mask,
            jnp.array(False),
            jnp.array(0, jnp.int32),
        ),
    )
    finite = jnp.all(jnp.isfinite(jnp.where(mask, linear, 0))) & jnp.isfinite(kappa)
    finite &= jnp.all(jnp.isfinite(jnp.where(jnp.outer(mask, mask), quadratic, 0)))
    point = jnp.where(finite, final.point, jnp.nan)
    weights = point * costs
    # In the original variables, F = shortest * value, and x = scaled multipliers / lengths.
    multipliers = jnp.where(finite, final.multipliers, jnp.nan) / lengths
    # The multiplier of a zero row says nothing, and can be very large.
    multipliers = jnp.where(jnp.diagonal(quadratic) == 0, 0, multipliers)
    slopes = linear + jnp.matmul(quadratic, multipliers, precision=HIGHEST)
    gap = jnp.maximum(shortest * value(point) - lowest(slopes, mask), 0)
    return ConicSolution(weights / jnp.sum(weights), multipliers, gap, final.iterations)

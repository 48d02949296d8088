"""The conic problem min b'w + κ·sqrt(w'Qw) on the simplex, fully corrective.

CAGrad (b = Mu, Q = M) and GetMTL share it, and with b = 0, κ = 1 it is the min-norm problem of
MGDA. Its dual asks for the vector `z`, `‖z‖ <= κ`, that raises the smallest of `b_t + <h_t, z>`
the most, where `Q = HH'`; at the optimum `z = H'x` with `x = κ w / sqrt(w'Qw)`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mtl_optax._precision import HIGHEST, power_of_two, root
from mtl_optax._solvers.simplex import lowest, present
from mtl_optax._tracing import varying_like


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


class UnitRows(NamedTuple):
    """The problem in the variables `y_t = w_t D_t / min(D)`, with `D_t = sqrt(Q_tt)`.

    In them `Q` has unit diagonal. This is a change of variables, not of the problem, and makes the
    accuracy independent of how far apart the scales of the tasks lie. The objective is
    `min(D) (slopes'y + κ·sqrt(y'Cy))`, where `y >= 0` and `costs'y = 1`.

    Attributes:
        mask: `(T,)` bool, the tasks that may get weight.
        lengths: `D`, `(T,)`, as a share of the largest scale.
        shortest: `min(D)`, `()`.
        costs: `min(D) / D`, `(T,)`, zero for absent tasks.
        slopes: `b / D`, `(T,)`, zero for absent tasks; None where `b = 0`.
        cosines: `C`, `(T, T)`, zero for absent tasks.
        kappa: `κ`, `()`.
    """

    mask: Bool[Array, " T"]
    lengths: Float[Array, " T"]
    shortest: Float[Array, ""]
    costs: Float[Array, " T"]
    slopes: Float[Array, " T"] | None
    cosines: Float[Array, "T T"]
    kappa: Float[Array, ""]

    @property
    def all_slopes(self) -> Float[Array, " T"]:
        """``slopes``, or zeros."""
        return jnp.zeros_like(self.costs) if self.slopes is None else self.slopes

    def product(self, point: Float[Array, " T"]) -> Float[Array, " T"]:
        """Returns `Cy`."""
        return jnp.matmul(self.cosines, point, precision=HIGHEST)

    def value(self, point: Float[Array, " T"]) -> Float[Array, ""]:
        """Returns the objective, as a share of `min(D)`."""
        # Beside a row of zeros a point is so long that its square overflows.
        unit = power_of_two(jnp.max(jnp.abs(point)))
        part = point / unit
        length = unit * root(jnp.dot(part, self.product(part), precision=HIGHEST))
        return jnp.dot(self.all_slopes, point, precision=HIGHEST) + self.kappa * length


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
    scale: Float[Array, " T"] | None = None,
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

    Args:
        linear: `b`, `(T,)`; `b_t` divided by the task's scale.
        quadratic: `Q`, symmetric positive semi-definite, `(T, T)`, float32 or float64; `Q_st`
            divided by the scales of both tasks.
        kappa: `κ >= 0`, `()`.
        mask: `(T,)` bool, the tasks that may get weight; all by default.
        scale: `(T,)`, each task's, positive and at most one; ones by default. With it rows can lie
            further apart than their squares can in the dtype.
        tolerance: by how much a slope may fall short of optimality, relative to the size of its
            terms; 8 units of the dtype's precision by default.
        max_iterations: cap on linear solves, `8 T + 8` by default.

    Returns:
        The solution with its certificate. Non-finite input gives NaN weights and multipliers.
    """
    mask = present(mask, quadratic)
    problem = on_unit_rows(linear, quadratic, kappa, mask, scale)
    point, multipliers, iterations = corrected(problem, tolerance, max_iterations)
    # The multiplier of a zero row says nothing, and can be very large.
    multipliers = jnp.where(jnp.diagonal(quadratic) == 0, 0, multipliers)
    slopes = problem.lengths * (problem.all_slopes + problem.product(multipliers))
    gap = problem.shortest * problem.value(point) - lowest(slopes, mask)
    weights = point * problem.costs
    return ConicSolution(
        weights / jnp.sum(weights), multipliers / problem.lengths, jnp.maximum(gap, 0), iterations
    )


def on_unit_rows(
    linear: Float[Array, " T"] | None,
    quadratic: Float[Array, "T T"],
    kappa: Float[Array, ""] | float,
    mask: Bool[Array, " T"],
    scale: Float[Array, " T"] | None,
) -> UnitRows:
    """Changes the variables of the problem that `conic` describes; `linear` is zero if None."""
    held = root(jnp.where(mask, jnp.diagonal(quadratic), 0))
    lengths = held if scale is None else held * scale
    shortest = jnp.min(jnp.where(lengths > 0, lengths, jnp.inf))
    shortest = jnp.where(shortest < jnp.inf, shortest, 1)
    # So short that the weight of a row of zeros leaves none for the others.
    zero = jnp.maximum(shortest * 2.0**-60, jnp.finfo(lengths.dtype).tiny)
    lengths = jnp.where(mask, jnp.where(lengths > 0, lengths, zero), 1)
    shortest = lowest(lengths, mask)
    held = jnp.where(held > 0, held, 1)
    return UnitRows(
        mask,
        lengths,
        shortest,
        jnp.where(mask, shortest / lengths, 0),
        None if linear is None else jnp.where(mask, linear / held, 0),
        jnp.where(jnp.outer(mask, mask), quadratic / jnp.outer(held, held), 0),
        jnp.asarray(kappa, quadratic.dtype),
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def corrected(
    problem: UnitRows, tolerance: float | None, max_iterations: int | None
) -> tuple[Float[Array, " T"], Float[Array, " T"], Int[Array, ""]]:
    """Returns point, multipliers and iterations; NaN for a problem that is not finite."""
    mask, costs, slopes = problem.mask, problem.costs, problem.all_slopes
    cosines, kappa = problem.cosines, problem.kappa
    num_tasks, dtype = len(cosines), cosines.dtype
    eps = float(jnp.finfo(dtype).eps)
    tolerance = 8 * eps if tolerance is None else tolerance
    cap = 8 * num_tasks + 8 if max_iterations is None else max_iterations
    steepest = jnp.max(jnp.abs(slopes))

    # Products with all of these at once: XLA compiles sums one by one.
    rows = jnp.concatenate([cosines, jnp.stack([costs, slopes, jnp.ones_like(costs)])])

    def body(state: _Active) -> _Active:
        point, support = state.point, state.support
        factor = jax.scipy.linalg.cho_factor(_ridged(cosines, support), lower=True)

        def solve(wanted: Float[Array, " T"]) -> Float[Array, " T"]:
            wanted = jnp.where(support, wanted, 0)
            solution = jax.scipy.linalg.cho_solve(factor, wanted)
            # One refinement against the matrix itself takes out most of what the ridge put in.
            residual = jnp.where(support, wanted - problem.product(solution), 0)
            return solution + jax.scipy.linalg.cho_solve(factor, residual)

        nearest = solve(costs)
        norm, level = jnp.matmul(rows[num_tasks:-1], nearest, precision=HIGHEST)
        shift, drop = jnp.zeros_like(nearest), jnp.zeros_like(norm)
        if problem.slopes is not None:
            level = level / norm
            uneven = level * costs - slopes
            noise = 4 * eps * (jnp.abs(level) * costs + jnp.abs(slopes))
            uneven = jnp.where(support & (jnp.abs(uneven) > noise), uneven, 0)
            shift = solve(uneven)
            along, drop = jnp.matmul(jnp.stack([costs, uneven]), shift, precision=HIGHEST)
            # Of a singular matrix, `level` is lost to rounding in `uneven`; this puts it back.
            shift -= nearest * (along / norm)
        margin = kappa**2 - drop
        bounded = margin > 0
        height = jnp.sqrt(jnp.where(bounded, margin, 1) / norm)
        target = nearest / norm + shift / (norm * height)
        direction = jnp.where(bounded, target - point, shift)

        # The longest step that keeps the point in the simplex.
        blocked = support & jnp.where(bounded, target <= 0, direction < 0)
        ratios = jnp.where(blocked, point / jnp.where(blocked, -direction, 1), jnp.inf)
        step = jnp.min(ratios)
        free = step == jnp.inf
        step = jnp.where(free, 0, step)
        moved = jnp.where(ratios <= step, 0, jnp.maximum(point + step * direction, 0))
        moved = jnp.where(free, jnp.where(bounded, target, point), moved)
        moved = jnp.where(support, moved, 0)
        # Of the solution over the affine hull, this is κ·y/sqrt(y'Cy) without the division, which
        # would lose the multipliers where y'Cy vanishes.
        multipliers = jnp.where(free & bounded, shift + height * nearest, 0)

        both = jnp.stack([moved, multipliers], axis=1)
        found = jnp.matmul(rows, both, precision=HIGHEST)
        squares = jnp.matmul(both.T, found[:num_tasks], precision=HIGHEST)
        total, linear = found[num_tasks, 0], found[num_tasks + 1, 0]
        lost = ~(total > 0)  # Also if NaN.
        total = jnp.where(lost, 1, total)
        value = (linear + kappa * jnp.sqrt(jnp.maximum(squares[0, 0], 0))) / total
        outside = squares[1, 1] > kappa**2
        shrink = jnp.where(outside, kappa / jnp.sqrt(jnp.where(outside, squares[1, 1], 1)), 1)
        shortfall = value * costs - slopes - shrink * found[:num_tasks, 1]
        shortfall = jnp.where(mask & (moved == 0), shortfall, -jnp.inf)
        worst = jnp.argmax(shortfall)
        rounding = steepest + shrink * found[num_tasks + 2, 1]
        entering = free & (jnp.arange(num_tasks) == worst)
        # A task that entered and is turned back at once means that rounding has the last word.
        optimal = ~(shortfall[worst] > tolerance * rounding)
        return _Active(
            jnp.where(lost, point, moved / total),
            shrink * multipliers,
            (moved > 0) | entering,
            jnp.where(free, optimal, step == 0) | lost,
            state.iterations + 1,
        )

    everybody = mask.astype(dtype)
    start = _Active(
        everybody / jnp.sum(costs),
        jnp.zeros_like(everybody),
        mask,
        jnp.array(False),
        jnp.array(0, jnp.int32),
    )
    final = jax.lax.while_loop(
        lambda state: ~state.done & (state.iterations < cap),
        body,
        varying_like(start, problem),
    )
    finite = jnp.isfinite(jnp.sum(jnp.abs(cosines)) + jnp.sum(jnp.abs(slopes)) + kappa)
    point = jnp.where(finite, final.point, jnp.nan)
    return point, jnp.where(finite, final.multipliers, jnp.nan), final.iterations


@corrected.defjvp
def _corrected_jvp(
    tolerance: float | None, max_iterations: int | None, primals: Any, tangents: Any
) -> tuple[Any, Any]:
    """Differentiates the closed form on the support, which near the solution stays the same."""
    (problem,), (changes,) = primals, tangents
    point, multipliers, iterations = corrected(problem, tolerance, max_iterations)
    support = point > 0

    def closed_form(
        costs: Array, slopes: Array | None, cosines: Array, kappa: Array
    ) -> tuple[Float[Array, " T"], Float[Array, " T"]]:
        system = _ridged(cosines, support)
        solve = lambda wanted: jnp.linalg.solve(system, jnp.where(support, wanted, 0))
        nearest = solve(costs)
        norm = jnp.dot(costs, nearest, precision=HIGHEST)
        shift, margin = jnp.zeros_like(nearest), kappa**2
        if slopes is not None:
            level = jnp.dot(slopes, nearest, precision=HIGHEST) / norm
            uneven = jnp.where(support, level * costs - slopes, 0)
            shift = solve(uneven)
            margin -= jnp.dot(uneven, shift, precision=HIGHEST)
        bounded = margin > 0
        height = jnp.where(bounded, root(margin / norm), 1)
        target = nearest / norm + shift / (norm * height)
        # A vertex that the slopes alone choose stays where it is.
        fixed = jax.lax.stop_gradient(target)
        outer = jnp.where(jnp.any(multipliers != 0) & bounded, shift + height * nearest, 0)
        return jnp.where(bounded, target, fixed), outer

    fields = ("costs", "slopes", "cosines", "kappa")
    _, moves = jax.jvp(
        closed_form,
        [getattr(problem, name) for name in fields],
        [getattr(changes, name) for name in fields],
    )
    still = np.zeros((), jax.dtypes.float0)
    return (point, multipliers, iterations), (*moves, still)


def _ridged(cosines: Float[Array, "T T"], support: Bool[Array, " T"]) -> Float[Array, "T T"]:
    """Cuts the support out, in an identity, with a ridge that keeps singular ones definite."""
    eye = jnp.eye(len(cosines), dtype=cosines.dtype)
    ridge = 4 * len(cosines) * float(jnp.finfo(cosines.dtype).eps)
    return jnp.where(jnp.outer(support, support), cosines + ridge * eye, eye)

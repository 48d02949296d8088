"""A small dense linear program, by the revised simplex method on the device."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtl_optax._precision import HIGHEST, power_of_two
from mtl_optax._tracing import varying_like

# Pivots between two factorisations: their updates of the inverse each lose a little.
_PIVOTS_AT_A_TIME = 24


class LPSolution(NamedTuple):
    """What `lp` returns.

    Attributes:
        point: `x`, `(n,)`, a vertex; the last one met where there is no optimum.
        gap: `()`, by how much the last of the costs may fall short of its optimum: the duality gap
            of the vertex, and what its primal and dual constraints are violated by, weighed by
            `|y|` and `Σ x`.
        feasible: `()` bool, whether any point meets the constraints, to rounding.
        bounded: `()` bool, whether no ray was met along which a cost grows for ever.
        iterations: `()` int32, the number of pivots.
    """

    point: Float[Array, " n"]
    gap: Float[Array, ""]
    feasible: Bool[Array, ""]
    bounded: Bool[Array, ""]
    iterations: Int[Array, ""]


class _Pivots(NamedTuple):
    basis: Int[Array, " m"]
    inverse: Float[Array, "m m"]
    stalled: Int[Array, ""]
    resting: Bool[Array, ""]
    bounded: Bool[Array, ""]
    iterations: Int[Array, ""]


class _Columns(NamedTuple):
    """The problem in standard form: `max costs x` where `matrix x = bounds`, `x >= 0`.

    Its columns are the variables, a slack for each row and an artificial variable for each row.
    The first of the costs is minus the sum of the artificial ones.
    """

    costs: Float[Array, "K N"]
    matrix: Float[Array, "m N"]
    bounds: Float[Array, " m"]
    enters: Bool[Array, " N"]
    artificial: Bool[Array, " N"]


@functools.partial(jax.jit, static_argnames=("tolerance", "max_iterations"))
def lp(
    costs: Float[Array, "K n"],
    matrix: Float[Array, "m n"],
    bounds: Float[Array, " m"],
    equal: Bool[Array, " m"] | None = None,
    *,
    tolerance: float | None = None,
    max_iterations: int | None = None,
) -> LPSolution:
    """Solves `max c'x` where `Ax <= b`, `x >= 0`, and `(Ax)_i = b_i` where `equal`.

    The rows of `costs` are goals in their order: the second is maximised among the optima of the
    first, and so on. So is feasibility, the goal before them all, and there is one phase only.

    The state is a basis: point and multipliers are computed from it and from the data, with no
    tableau that would gather rounding. The column that would raise the goal most enters, relative
    to the size of the terms of its slope; after more pivots in a row that raised nothing than there
    are rows, the first one does (Bland 1977, "New finite pivoting rules for the simplex method"),
    so that a degenerate vertex is left. Scaling rows or columns changes no choice.

    The point is differentiable in all arguments: near a solution its basis stays the same.

    Args:
        costs: `c`, `(K, n)`, float32 or float64.
        matrix: `A`, `(m, n)`. A column of zeros with no costs takes no part; neither does a row of
            zeros with a bound of zero or above.
        bounds: `b`, `(m,)`, of any sign.
        equal: `(m,)` bool, the rows that are equations; none by default.
        tolerance: what counts as zero, relative to the size of the terms summed; 16 units of the
            dtype's precision by default.
        max_iterations: cap on pivots, `6 (m + n)` by default. Few problems need `2 (m + n)`.

    Returns:
        The solution with its certificate. Non-finite input gives a point of NaN.
    """
    num_rows, num_variables = matrix.shape
    tolerance = 16 * float(jnp.finfo(matrix.dtype).eps) if tolerance is None else tolerance
    cap = 6 * (num_rows + num_variables) if max_iterations is None else max_iterations
    equal = jnp.zeros(num_rows, bool) if equal is None else equal
    problem = _standard_form(costs, matrix, bounds, equal)
    held = jax.lax.stop_gradient(problem)
    last = _solve(held, tolerance, cap)

    values = jnp.linalg.solve(problem.matrix[:, last.basis], problem.bounds)
    finite = jnp.isfinite(jnp.sum(jnp.abs(problem.matrix)) + jnp.sum(jnp.abs(problem.costs)))
    finite &= jnp.isfinite(jnp.sum(jnp.abs(problem.bounds)))
    values = jnp.where(values > 0, values, 0)
    point = jnp.zeros(problem.matrix.shape[1], matrix.dtype).at[last.basis].set(values)
    point = jnp.where(finite, point, jnp.nan)
    _, error = _solved(held, last, held.bounds)
    short = held.artificial[last.basis] & (values > 4 * tolerance * error)
    return LPSolution(
        point[:num_variables],
        _gap(held, last, jax.lax.stop_gradient(point), tolerance),
        finite & ~jnp.any(short),
        finite & last.bounded,
        last.iterations,
    )


def _standard_form(
    costs: Float[Array, "K n"],
    matrix: Float[Array, "m n"],
    bounds: Float[Array, " m"],
    equal: Bool[Array, " m"],
) -> _Columns:
    num_rows, num_variables = matrix.shape
    # Each row in a unit of its own, so that a factorisation pivots on numbers that compare.
    unit = power_of_two(jnp.max(jnp.abs(matrix), axis=1))
    matrix, bounds = matrix / jnp.expand_dims(unit, 1), bounds / unit
    slack = jnp.eye(num_rows, dtype=matrix.dtype)
    signed = jnp.diag(jnp.where(bounds < 0, -1, 1).astype(matrix.dtype))
    artificial = jnp.arange(num_variables + 2 * num_rows) >= num_variables + num_rows
    goals = jnp.pad(costs, ((0, 0), (0, 2 * num_rows)))
    return _Columns(
        jnp.concatenate([-jnp.expand_dims(artificial, 0).astype(matrix.dtype), goals]),
        jnp.concatenate([matrix, slack, signed], axis=1),
        bounds,
        jnp.concatenate([jnp.ones(num_variables, bool), ~equal, jnp.zeros(num_rows, bool)]),
        artificial,
    )


def _solved(
    problem: _Columns, last: _Pivots, values: Float[Array, " m"]
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Returns `x = B⁻¹ values`, and its error in units of rounding.

    That is `|B⁻¹| |B| |x|`, and the largest `‖B_j‖ |x_j|` for what should be zero in the inverse
    and is not.
    """
    found = jnp.matmul(last.inverse, values, precision=HIGHEST)
    basis = jnp.abs(problem.matrix[:, last.basis])
    error = jnp.matmul(basis, jnp.abs(found), precision=HIGHEST)
    error = jnp.matmul(jnp.abs(last.inverse), error, precision=HIGHEST)
    lengths = jnp.max(basis, axis=0)
    return found, error + jnp.max(lengths * jnp.abs(found)) / jnp.where(lengths > 0, lengths, 1)


def _slopes(
    problem: _Columns, last: _Pivots
) -> tuple[Float[Array, "K N"], Float[Array, "K N"], Float[Array, "K m"]]:
    """Returns the reduced costs, in units of rounding their errors, and the multipliers."""
    basis, inverse = problem.matrix[:, last.basis], last.inverse
    multipliers = jnp.matmul(problem.costs[:, last.basis], inverse, precision=HIGHEST)
    slopes = problem.costs - jnp.matmul(multipliers, problem.matrix, precision=HIGHEST)
    error = multipliers
    for factor in (basis, inverse, problem.matrix):
        error = jnp.matmul(jnp.abs(error), jnp.abs(factor), precision=HIGHEST)
    # As in `_solved`, what should be zero in the multipliers is not.
    largest = jnp.max(jnp.abs(multipliers), axis=1, keepdims=True)
    error += largest * jnp.max(jnp.abs(problem.matrix), axis=0, keepdims=True)
    return slopes, jnp.abs(problem.costs) + error, multipliers


def _solve(problem: _Columns, tolerance: float, cap: int) -> _Pivots:
    """Moves from basis to basis until a fresh factorisation agrees that none is better."""
    num_rows, dtype = len(problem.bounds), problem.bounds.dtype

    def factorised(state: _Pivots) -> _Pivots:
        inverse = jnp.linalg.inv(problem.matrix[:, state.basis])
        start = state._replace(inverse=inverse, resting=jnp.zeros_like(state.resting))
        most = jnp.minimum(state.iterations + _PIVOTS_AT_A_TIME, cap)
        moved = jax.lax.while_loop(
            lambda now: ~now.resting & now.bounded & (now.iterations < most),
            lambda now: _pivot(problem, now, tolerance, now.iterations == state.iterations),
            start,
        )
        return moved._replace(resting=moved.resting & (moved.iterations == state.iterations))

    slacks = len(problem.enters) - 2 * num_rows + jnp.arange(num_rows)
    usable = problem.enters[-2 * num_rows : -num_rows] & (problem.bounds >= 0)
    start = _Pivots(
        jnp.where(usable, slacks, slacks + num_rows).astype(jnp.int32),
        jnp.eye(num_rows, dtype=dtype),
        jnp.array(0, jnp.int32),
        jnp.array(False),
        jnp.array(True),
        jnp.array(0, jnp.int32),
    )
    return jax.lax.while_loop(
        lambda state: ~state.resting & state.bounded & (state.iterations < cap),
        factorised,
        varying_like(start, problem),
    )


def _pivot(problem: _Columns, state: _Pivots, tolerance: float, fresh: Bool[Array, ""]) -> _Pivots:
    """Lets a column into the basis that raises the first goal which one raises.

    It rests where none does. Where the inverse is not fresh, it also rests before a pivot that its
    updates may have made up, which would leave a singular basis, and where nothing blocks.
    """
    basis, inverse = state.basis, state.inverse
    slopes, error, _ = _slopes(problem, state)
    share = slopes / jnp.where(error > 0, error, 1)
    open_ = problem.enters.at[basis].set(False)
    gain = jnp.zeros_like(share[0])
    level = jnp.full_like(gain, len(share), jnp.int32)
    for k in range(len(share)):
        raises = open_ & (share[k] > tolerance)
        gain, level = jnp.where(raises, share[k], gain), jnp.where(raises, k, level)
        open_ &= jnp.abs(share[k]) <= tolerance
    able = gain > 0
    steepest = jnp.argmax(jnp.where(level == jnp.min(level), gain, 0))
    stalled = state.stalled > len(basis)
    entering = jnp.where(stalled, jnp.argmax(able), steepest)

    move, solid = _solved(problem, state, problem.matrix[:, entering])
    values, noise = _solved(problem, state, problem.bounds)
    values = jnp.where(values > tolerance * noise, values, 0)
    # An artificial variable at zero stays there: a column that raised it would lower the first
    # goal, or lower another one, which blocks.
    blocks = move > tolerance * solid
    size = jnp.where(blocks, move, 1)
    steps = jnp.where(blocks, values / size, jnp.inf)
    moves = values > math.sqrt(tolerance) * noise
    # Of those that block at once the surest pivot leaves; by Bland's rule, the first column.
    last = jnp.min(jnp.where(blocks, steps + tolerance * noise / size, jnp.inf))
    tied = blocks & (steps <= last)
    sureness = size / jnp.where(blocks, solid, 1)
    surest = jnp.argmax(jnp.where(tied, sureness, -1))
    first = jnp.argmin(jnp.where(tied, basis, len(open_)))
    leaving = jnp.where(stalled, first, surest)

    optimal, blocked = ~jnp.any(able), jnp.any(blocks)
    sure = blocked & (sureness[leaving] > math.sqrt(tolerance))
    goes = ~optimal & blocked & (fresh | sure)
    row = inverse[leaving] / jnp.where(goes, move[leaving], 1)
    updated = (inverse - jnp.outer(move, row)).at[leaving].set(row)
    return _Pivots(
        jnp.where(goes, basis.at[leaving].set(entering.astype(basis.dtype)), basis),
        jnp.where(goes, updated, inverse),
        jnp.where(goes, jnp.where(moves[leaving], 0, state.stalled + 1), state.stalled),
        optimal | ~(fresh | sure),
        optimal | blocked | ~fresh,
        state.iterations + goes.astype(jnp.int32),
    )


def _gap(
    problem: _Columns, last: _Pivots, point: Float[Array, " N"], tolerance: float
) -> Float[Array, ""]:
    """Computes by how much the last goal may fall short of its optimum."""
    slopes, error, multipliers = _slopes(problem, last)
    # A column that an earlier goal turns away stays at zero.
    turned = jnp.any(slopes[:-1] < -tolerance * error[:-1], axis=0)
    rises = jnp.where(problem.enters & ~turned, jnp.maximum(slopes[-1], 0), 0)
    residual = problem.bounds - jnp.matmul(problem.matrix, point, precision=HIGHEST)
    dual = jnp.dot(multipliers[-1], problem.bounds, precision=HIGHEST)
    primal = jnp.dot(problem.costs[-1], point, precision=HIGHEST)
    violated = jnp.dot(jnp.abs(multipliers[-1]), jnp.abs(residual), precision=HIGHEST)
    return jnp.maximum(dual - primal, 0) + jnp.max(rises) * jnp.sum(point) + violated

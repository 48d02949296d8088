"""Bargaining between tasks: a > 0 with `Ma = (w/a)^q`, the minimum of a convex potential.

Nash-MTL asks for `q = 1` and `w = 1`, FairGrad for `q = 1/α`.
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

# Where a step moves weights by more than this share of the terms that they are in, they have not
# settled: at Pareto stationary points they grow by `1/(qT)` at least.
_SETTLED = 1e-3
# Steps go at most this share of the way to where a number would be zero.
_TOWARDS_ZERO = 0.9


class BargainingSolution(NamedTuple):
    """What `bargaining` and `fair` return.

    Attributes:
        weights: `a`, `(T,)`, positive; zero for absent tasks and zero gradients, and for all tasks
            where no solution exists, at Pareto stationary points.
        residual: `()`, by how much the equations fall short, over the tasks that take part; one
            where there is no solution. Of `bargaining`, `max_t |a_t (Ma)_t - 1|`; of `fair`,
            `max_t |(Ma)_t - (w_t/a_t)^q|` as a share of the terms `|M_ts| a_s`.
        iterations: `()` int32, the number of Newton steps.
    """

    weights: Float[Array, " T"]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]


class _Newton(NamedTuple):
    log_point: Float[Array, " T"]
    log_gains: Float[Array, " T"]
    error: Float[Array, ""]
    settled: Bool[Array, ""]
    feasible: Bool[Array, ""]
    done: Bool[Array, ""]
    iterations: Int[Array, ""]


@functools.partial(jax.jit, static_argnames=("tolerance", "max_iterations"))
def bargaining(
    gram: Float[Array, "T T"],
    mask: Bool[Array, " T"] | None = None,
    *,
    tolerance: float | None = None,
    max_iterations: int = 100,
) -> BargainingSolution:
    """Solves `Ma = 1/a`, `a > 0`.

    Where the gradients are Pareto stationary, no direction serves all tasks and `a` grows until
    the rounding of `a'Ma` comes near its value. That ends the iteration, and the answer is zero.

    Args:
        gram: `M`, symmetric positive semi-definite `(T, T)`, float32 or float64.
        mask: `(T,)` bool, the tasks that take part; all by default.
        tolerance: what the equations may fall short by, as a share of their terms; 4 units of the
            dtype's precision by default. Rounding that lets it fall no further stops it, too.
        max_iterations: cap on Newton steps. Few problems need more than 15.

    Returns:
        The solution with its certificate. Non-finite input gives NaN weights.
    """
    mask = present(mask, gram)
    cosines, lengths, active = unit_rows(gram, mask)
    even = jnp.zeros_like(lengths)
    log_point, _, iterations = _balance(
        cosines, even, jnp.ones((), gram.dtype), tolerance, max_iterations
    )
    point = jnp.exp(log_point)
    excess = point * jnp.matmul(cosines, point, precision=HIGHEST) - 1
    residual = jnp.max(jnp.where(active, jnp.abs(excess), 0))
    return _answer(gram, mask, active, point / lengths, residual, residual < 0.5, iterations)


@functools.partial(jax.jit, static_argnames=("max_iterations",))
def fair(
    gram: Float[Array, "T T"],
    scale: Float[Array, " T"],
    unit: Float[Array, ""],
    alpha: Float[Array, ""],
    weights: Float[Array, " T"],
    mask: Bool[Array, " T"],
    *,
    max_iterations: int = 300,
) -> BargainingSolution:
    """Solves `Ma = (w/a)^(1/α)`, `a > 0`, for `M = DAD` in the squares of a unit.

    Args:
        gram: `A`, symmetric positive semi-definite `(T, T)`, float32 or float64.
        scale: `D`, `(T,)`, positive.
        unit: what the scales are counted in, `()`.
        alpha: α, `()`.
        weights: `w`, `(T,)`, positive.
        mask: `(T,)` bool, the tasks that take part.
        max_iterations: cap on Newton steps. Few problems need more than 20 where α lies between
            0.3 and 3, or 100 at its ends.

    Returns:
        The solution, in logarithms until its end; weights beyond the dtype are its largest number.
        Non-finite input gives NaN weights.
    """
    mask = present(mask, gram)
    cosines, lengths, active = unit_rows(gram, mask)
    dtype = gram.dtype
    limits = jnp.finfo(dtype)
    power = 1 / alpha
    # In `y_t = a_t ‖g_t‖` the equations are `Cy = b y^-q` with `b = w^q ‖g‖^(q-1)`.
    logs = jnp.log(jnp.maximum(jnp.where(active, lengths * scale, 1), limits.tiny))
    targets = power * jnp.log(jnp.where(active, weights, 1)) + (power - 1) * logs
    number = jnp.maximum(jnp.sum(active), 1).astype(dtype)
    mean = jnp.sum(jnp.where(active, targets, 0)) / number
    targets = jnp.where(active, targets - mean, 0)
    log_point, exists, iterations = _balance(cosines, targets, power, None, max_iterations)
    point = jnp.exp(log_point)
    gains = jnp.exp(jnp.minimum(targets - power * log_point, limits.maxexp / 2))
    terms = jnp.matmul(jnp.abs(cosines), point, precision=HIGHEST)
    short = jnp.abs(jnp.matmul(cosines, point, precision=HIGHEST) - gains) / terms
    residual = jnp.max(jnp.where(active, short, 0))
    log_weights = log_point - logs + mean / (1 + power) - 2 / (1 + power) * jnp.log(unit)
    found = jnp.exp(jnp.clip(log_weights, jnp.log(limits.tiny), jnp.log(limits.max) - 1e-4))
    return _answer(gram, mask, active, found, residual, exists, iterations)


def _answer(
    gram: Float[Array, "T T"],
    mask: Bool[Array, " T"],
    active: Bool[Array, " T"],
    weights: Float[Array, " T"],
    residual: Float[Array, ""],
    exists: Bool[Array, ""],
    iterations: Int[Array, ""],
) -> BargainingSolution:
    finite = jnp.all(jnp.isfinite(jnp.where(jnp.outer(mask, mask), gram, 0)))
    return BargainingSolution(
        jnp.where(finite, jnp.where(active & exists, weights, 0), jnp.nan),
        jnp.where(finite, jnp.where(exists, residual, 1), jnp.nan),
        iterations,
    )


def _is_known(
    cosines: Float[Array, "T T"], point: Float[Array, " T"], gains: Float[Array, " T"]
) -> Bool[Array, ""]:
    """Whether the direction's length stands out from its rounding.

    And that of the part which is made of the tasks whose gains do not: a task's gain may vanish
    beside its terms where another, much shorter gradient says so, but of tasks that cancel one
    another nothing is left.
    """
    eps = float(jnp.finfo(cosines.dtype).eps)
    # The largest of `y` is brought to one: squares do not overflow.
    size = jnp.max(point)
    shares, gains = point / size, gains / size
    terms = jnp.matmul(jnp.abs(cosines), shares, precision=HIGHEST)
    whole = eps * jnp.dot(shares, terms, precision=HIGHEST)
    part = jnp.where(gains < 4 * eps * terms, shares, 0)
    left = jnp.dot(part, jnp.matmul(cosines, part, precision=HIGHEST), precision=HIGHEST)
    largest = jnp.max(part)
    return (whole <= 0.25 * jnp.dot(shares, gains, precision=HIGHEST)) & (
        (largest == 0) | (left > 64 * eps * largest**2)
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _balance(
    cosines: Float[Array, "T T"],
    targets: Float[Array, " T"],
    power: Float[Array, ""],
    tolerance: float | None,
    max_iterations: int,
) -> tuple[Float[Array, " T"], Bool[Array, ""], Int[Array, ""]]:
    """Solves `Cy = exp(targets) y^-q` for a matrix of unit diagonal.

    Returns `log y`, whether there is a solution, and the number of steps.

    By Newton steps on `v = Cy` and `log v + q log y = targets` together, both `y` and `v` kept
    positive, as interior-point methods do. Steps are proportions of `y` and `v`, so that the
    scales of the tasks drop out, and no number leaves the dtype that its logarithm does not. The
    first steps are those of `q = 1` and even targets, until `v = Cy` holds: from there the way to
    others is short.
    """
    dtype, eps = cosines.dtype, float(jnp.finfo(cosines.dtype).eps)
    tolerance = 4 * eps if tolerance is None else tolerance
    power = jnp.asarray(power, dtype)

    def body(state: _Newton) -> _Newton:
        wanted = jnp.where(state.feasible, targets, 0)
        q = jnp.where(state.feasible, power, 1)
        point, gains = jnp.exp(state.log_point), jnp.exp(state.log_gains)
        missing = wanted - state.log_gains - q * state.log_point
        reached = jnp.matmul(cosines, point, precision=HIGHEST)
        step = _newton_step(
            cosines, state.log_point, state.log_gains, q, gains * missing - reached + gains
        )
        change = missing - q * step
        furthest = jnp.maximum(jnp.max(-step), jnp.max(-change))
        full = furthest < _TOWARDS_ZERO
        length = jnp.where(full, 1, _TOWARDS_ZERO / jnp.where(full, 1, furthest))
        log_point = state.log_point + jnp.log1p(length * step)
        log_gains = state.log_gains + jnp.log1p(length * change)
        lost = ~jnp.all(jnp.isfinite(log_point) & jnp.isfinite(log_gains))
        log_point = jnp.where(lost, state.log_point, log_point)
        log_gains = jnp.where(lost, state.log_gains, log_gains)

        moved = jnp.abs(jnp.exp(log_point) - point)
        point, gains = jnp.exp(log_point), jnp.exp(log_gains)
        terms = jnp.matmul(jnp.abs(cosines), point, precision=HIGHEST)
        short = jnp.abs(jnp.matmul(cosines, point, precision=HIGHEST) - gains) / terms
        missing = jnp.abs(wanted - log_gains - q * log_point)
        error = jnp.max(jnp.maximum(short, missing))
        settled = state.feasible & jnp.all(moved <= _SETTLED * terms)
        # Where steps should converge quadratically and do not, rounding has the last word.
        stalled = full & (error > state.error / 2)
        over = lost | ~_is_known(cosines, point, gains)
        done = over | (settled & ((error <= tolerance) | stalled))
        return _Newton(
            log_point,
            log_gains,
            error,
            settled & ~over,
            state.feasible | full,
            done,
            state.iterations + 1,
        )

    start = -jnp.log(jnp.maximum(jnp.sum(cosines, axis=1), 1)) / 2
    same = jnp.all(targets == 0) & (power == 1)
    first = _Newton(
        start,
        -start,
        jnp.array(jnp.inf, dtype),
        jnp.array(False),
        same,
        jnp.array(False),
        jnp.array(0, jnp.int32),
    )
    final = jax.lax.while_loop(
        lambda state: ~state.done & (state.iterations < max_iterations),
        body,
        varying_like(first, cosines, targets, power),
    )
    return final.log_point, final.settled, final.iterations


def _newton_step(
    cosines: Float[Array, "T T"],
    log_point: Float[Array, " T"],
    log_gains: Float[Array, " T"],
    power: Float[Array, ""],
    right: Float[Array, " T"],
) -> Float[Array, " T"]:
    """Solves `C (y s) + q v s = right` for the proportions `s`, where `y` or `v` may be zero."""
    point, gains = jnp.exp(log_point), jnp.exp(log_gains)
    shares = jnp.exp(-jnp.logaddexp(0.0 * log_point, jnp.log(power) + log_gains - log_point) / 2)
    off = cosines - jnp.diag(jnp.diagonal(cosines))
    ridge = 4 * float(jnp.finfo(cosines.dtype).eps)
    matrix = off * jnp.outer(shares, shares) + (1 + ridge) * jnp.eye(len(cosines), dtype=off.dtype)
    factor = jax.scipy.linalg.cho_factor(matrix, lower=True)
    moves = shares * jax.scipy.linalg.cho_solve(factor, shares * right)
    rest = right - jnp.matmul(off, moves, precision=HIGHEST)
    return rest / jnp.maximum(point + power * gains, jnp.finfo(off.dtype).tiny)


@_balance.defjvp
def _balance_jvp(
    tolerance: float | None, max_iterations: int, primals: Any, tangents: Any
) -> tuple[Any, Any]:
    """The implicit function theorem, with the matrix of the Newton steps."""
    (cosines, targets, power), (change, turn, bend) = primals, tangents
    log_point, *rest = _balance(cosines, targets, power, tolerance, max_iterations)
    log_gains = targets - power * log_point
    moved = jnp.exp(log_gains) * (turn - bend * log_point)
    moved -= jnp.matmul(change, jnp.exp(log_point), precision=HIGHEST)
    step = _newton_step(cosines, log_point, log_gains, power, moved)
    none = np.zeros((), jax.dtypes.float0)
    return (log_point, *rest), (step, none, none)

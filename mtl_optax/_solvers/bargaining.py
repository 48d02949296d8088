"""The bargaining problem of Nash-MTL: a > 0 with Ma = 1/a, the minimum of ½a'Ma - Σ log a."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mtl_optax._precision import HIGHEST
from mtl_optax._solvers.simplex import present, unit_rows
from mtl_optax._tracing import varying_like


class BargainingSolution(NamedTuple):
    """What `bargaining` returns.

    Attributes:
        weights: `a`, `(T,)`, positive; zero for absent tasks and zero gradients, and for all tasks
            where no solution exists, at Pareto stationary points.
        residual: `()`, `max_t |a_t (Ma)_t - 1|` over the tasks that take part; one where there is
            no solution.
        iterations: `()` int32, the number of Newton steps.
    """

    weights: Float[Array, " T"]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]


class _Newton(NamedTuple):
    point: Float[Array, " T"]
    residual: Float[Array, ""]
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
    """Solves `Ma = 1/a`, `a > 0`, by damped Newton steps on the potential it is stationary for.

    In the variables `y_t = a_t ‖g_t‖` the matrix is that of the cosines `C`, so the scales of the
    tasks drop out, and the potential `½y'Cy - Σ log y` is self-concordant: the Newton step `s`,
    divided by `1 + λ` with `λ² = s'Hs`, stays positive and converges from anywhere without a line
    search (Nesterov and Nemirovskii, 1994); undivided, it converges quadratically where `λ < ¼`.

    Where the gradients are Pareto stationary, no direction serves all tasks and `y` grows until
    the rounding of `y_t (Cy)_t` comes near one. That ends the iteration, and the answer is zero.

    Args:
        gram: `M`, symmetric positive semi-definite `(T, T)`, float32 or float64.
        mask: `(T,)` bool, the tasks that take part; all by default.
        tolerance: residual to stop at; 4 units of the dtype's precision by default. It also stops
            where rounding lets the residual fall no further.
        max_iterations: cap on Newton steps. Few problems need more than 15.

    Returns:
        The solution with its certificate. Non-finite input gives NaN weights.
    """
    mask = present(mask, gram)
    # The solution of those that sit out, an identity block, is one.
    cosines, lengths, active = unit_rows(gram, mask)
    point, iterations = _balance(cosines, tolerance, max_iterations)
    residual = jnp.max(jnp.where(active, jnp.abs(_excess(cosines, point)), 0))
    exists = residual < 0.5
    finite = jnp.all(jnp.isfinite(jnp.where(jnp.outer(mask, mask), gram, 0)))
    weights = jnp.where(active & exists, point / lengths, 0)
    return BargainingSolution(
        jnp.where(finite, weights, jnp.nan),
        jnp.where(finite, jnp.where(exists, residual, 1), jnp.nan),
        iterations,
    )


def _excess(cosines: Float[Array, "T T"], point: Float[Array, " T"]) -> Float[Array, " T"]:
    return point * jnp.matmul(cosines, point, precision=HIGHEST) - 1


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _balance(
    cosines: Float[Array, "T T"], tolerance: float | None, max_iterations: int
) -> tuple[Float[Array, " T"], Int[Array, ""]]:
    """Solves `y Cy = 1` for a matrix of unit diagonal: the point and the steps it took."""
    dtype = cosines.dtype
    eps = float(jnp.finfo(dtype).eps)
    tolerance = 4 * eps if tolerance is None else tolerance

    def body(state: _Newton) -> _Newton:
        point = state.point
        slope = _excess(cosines, point) / point
        factor = jax.scipy.linalg.cho_factor(cosines + jnp.diag(point**-2), lower=True)
        step = jax.scipy.linalg.cho_solve(factor, slope)
        decrement = jnp.sqrt(jnp.maximum(jnp.dot(step, slope, precision=HIGHEST), 0))
        quadratic = decrement < 0.25
        moved = point - step / jnp.where(quadratic, 1, 1 + decrement)
        lost = ~jnp.all(moved > 0)  # Also if NaN.
        moved = jnp.where(lost, point, moved)
        residual = jnp.max(jnp.abs(_excess(cosines, moved)))
        rounding = eps * jnp.max(moved * jnp.matmul(jnp.abs(cosines), moved, precision=HIGHEST))
        # Where steps should converge quadratically and do not, rounding has the last word.
        stalled = quadratic & (residual > state.residual / 2)
        done = (residual <= tolerance) | stalled | (rounding > 0.25) | lost
        return _Newton(moved, residual, done, state.iterations + 1)

    point = 1 / jnp.sqrt(jnp.maximum(jnp.sum(cosines, axis=1), 1))
    start = _Newton(point, jnp.array(jnp.inf, dtype), jnp.array(False), jnp.array(0, jnp.int32))
    final = jax.lax.while_loop(
        lambda state: ~state.done & (state.iterations < max_iterations),
        body,
        varying_like(start, cosines),
    )
    return final.point, final.iterations


@_balance.defjvp
def _balance_jvp(
    tolerance: float | None, max_iterations: int, primals: Any, tangents: Any
) -> tuple[Any, Any]:
    """The implicit function theorem on `Cy - 1/y = 0`, with the matrix of the Newton steps."""
    (cosines,), (change,) = primals, tangents
    point, iterations = _balance(cosines, tolerance, max_iterations)
    slope = jnp.matmul(change, point, precision=HIGHEST)
    move = -jnp.linalg.solve(cosines + jnp.diag(point**-2), slope)
    return (point, iterations), (move, np.zeros((), jax.dtypes.float0))

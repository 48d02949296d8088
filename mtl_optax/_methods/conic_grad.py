"""ConicGrad: the best worst-task improvement within a cone around the mean gradient (2025)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._frame import (
    Evidence,
    Method,
    SolverReport,
    Weighting,
    from_weighting,
    no_report,
    report,
)
from mtl_optax._precision import HIGHEST, root
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.conic import ConicSolution, conic
from mtl_optax._solvers.simplex import uniform


@register(
    "The best worst-task improvement within a cone around the mean gradient.",
    "Hassanpour et al. 2025, https://arxiv.org/abs/2502.00217",
    reads=frozenset({"gram"}),
    scale="unit",
    # Not "non-conflicting": next to opposite gradients float32 misses it by more than rounding.
    properties=GRAM_METHOD | {"deterministic", "equivariant"},
)
def conic_grad(num_tasks: int, *, c: float = 0.25, combine: bool = True) -> Method:
    """Raises the worst task's improvement among the directions near the mean gradient.

    With `g_0 = (1/T) Σ_t g_t`, it solves `max_d min_t <g_t, d>` subject to `‖d‖ <= 1` and
    `<g_0, d> >= c ‖g_0‖ ‖d‖`, exactly. Where MGDA's direction lies within the cone, `d` is that,
    at length one. Elsewhere the cone binds: `d = c e + sqrt(1 - c²) f` with `e = g_0 / ‖g_0‖` and
    `f` at right angles to it, and the best `f` is CAGrad's problem on what is left of each gradient
    beside `e`: `w = argmin_Δ c <g_w, e> + sqrt(1 - c²) ‖g_w - <g_w, e> e‖`, `g_w = Σ_t w_t g_t`.

    Args:
        num_tasks: the number T of tasks.
        c: the least cosine between `d` and `g_0`, in [0, 1). As it grows, `d` tends to `e`.
        combine: if False, return the rows `α_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Its state reports the duality gap, as a share of
        the longest gradient, and the iterations. Scale: unit: `‖d‖ = 1`, whatever the length of the
        gradients, or `d = 0` where no direction in the cone serves all tasks. As far as the Gram
        matrix can tell: in float32, it is zero too where the gradients that hold it back cancel to
        about a thousandth of their lengths. A zero gradient takes no part.

    When not to use:
        With a learning rate that does not decay: near an optimum its steps grow no shorter. Where
        the mean conflicts with a task so much that no direction near it serves all: `d` is zero,
        and training stands still.

    References:
        Hassanpour et al., `Fantastic Multi-Task Gradient Updates and How to Find Them In a Cone
        <https://arxiv.org/abs/2502.00217>`_, 2025. This is the solution of the problem that the
        paper states. It does not follow the paper's own closed form, which was not compared.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.conic_grad(2)
        >>> gradients = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> params = jnp.zeros(2)
        >>> print(tx.update(gradients, tx.init(params), params)[0])
        [0.70710677 0.70710677]
    """
    _checks.check_number("conic_grad", "c", c, low=0, high=1, open_high=True)

    def update(evidence: Evidence, state: SolverReport) -> tuple[Array, SolverReport]:
        del state
        gram, dtype = evidence.gram, evidence.gram.dtype
        held = root(jnp.diagonal(gram))
        active = held > 0
        scale, unit = evidence.relative()
        least = jnp.asarray(c, dtype)
        most = root(1 - least**2)

        # The unit of length is that of the longest gradient, and `along` is `<g_t, e> / scale_t`.
        mean = uniform(active, dtype)
        products = jnp.matmul(gram, scale * mean, precision=HIGHEST)
        length = root(jnp.dot(scale * mean, products, precision=HIGHEST))
        length = jnp.where(length > 0, length, 1)
        along = products / length
        left, across = _beside_the_mean(gram, scale * mean / length, along)

        solution = _both(
            jnp.stack([jnp.zeros_like(along), least * along]),
            jnp.stack([gram, left]),
            jnp.stack([jnp.ones_like(most), most]),
            active,
            scale,
        )
        inside, x = solution.multipliers
        shares = jnp.stack([inside, x]) * jnp.expand_dims(scale * along, 0)
        others = jnp.matmul(shares[1], 1 - jnp.eye(num_tasks, dtype=dtype), precision=HIGHEST)
        outside = x * across + mean * (least - others) / length
        binds = jnp.sum(shares[0]) < least
        weights = jnp.where(binds, outside, inside)

        # What `d` is worth to the tasks that hold it back, and what rounding leaves unknown of it.
        chosen = binds.astype(jnp.int32)
        least_served = solution.weights[chosen] * scale
        gains = jnp.matmul(gram, scale * weights, precision=HIGHEST)
        worth = jnp.dot(least_served, gains, precision=HIGHEST)
        noise = jnp.sum(least_served * held) * jnp.sum(jnp.abs(weights) * scale * held)
        serves = worth > 8 * float(jnp.finfo(dtype).eps) * noise
        # Of no update, the gap is what the best one would be worth.
        gap = jnp.where(serves, solution.gap[chosen], jnp.maximum(worth, 0))
        gap *= jnp.max(held * scale)
        iterations = solution.iterations[0] + solution.iterations[1]
        return jnp.where(serves, weights / unit, 0), report(gap, iterations, gram, scale)

    weighting = Weighting("conic_grad", num_tasks, frozenset({"gram"}), no_report, update)
    return from_weighting(weighting, combine_tasks=combine)


def _beside_the_mean(
    gram: Float[Array, "T T"], mean: Float[Array, " T"], along: Float[Array, " T"]
) -> tuple[Float[Array, "T T"], Float[Array, " T"]]:
    """Returns the Gram matrix of `g_t - <g_t, e> e`, and the shares of `g_t` in itself.

    Args:
        gram: the Gram matrix of the gradients.
        mean: `e` as a combination of them.
        along: `<g_t, e>`.
    """
    eye = jnp.eye(len(gram), dtype=gram.dtype)
    # `1 - <g_t, e> mean_t` without the cancellation, which a gradient that leads the mean would be.
    across = jnp.matmul(1 - eye, along * mean, precision=HIGHEST)
    parts = jnp.where(eye > 0, across, -jnp.outer(along, mean))
    product = lambda a, b: jnp.matmul(jnp.matmul(a, b, precision=HIGHEST), a.T, precision=HIGHEST)
    left = product(parts, gram)
    # What rounding leaves of a gradient along the mean is no direction.
    noise = jnp.diagonal(product(jnp.abs(parts), jnp.abs(gram)))
    noise = 4 * float(jnp.finfo(gram.dtype).eps) * noise
    return (left + left.T) / 2 + jnp.diag(noise), across


@jax.jit
def _both(
    linear: Float[Array, "2 T"],
    quadratic: Float[Array, "2 T T"],
    kappa: Float[Array, " 2"],
    active: Bool[Array, " T"],
    scale: Float[Array, " T"],
) -> ConicSolution:
    """Solves two problems one after the other, by one program."""
    solve = lambda problem: conic(*problem, active, scale)
    return jax.lax.map(solve, (linear, quadratic, kappa))

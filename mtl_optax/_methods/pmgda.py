"""PMGDA: preference-based multiple-gradient descent by a linear program (Zhang et al. 2024)."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

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
from mtl_optax._methods._preference import check_preference, off_ray
from mtl_optax._precision import HIGHEST, power_of_two, root
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.lp import lp
from mtl_optax._solvers.min_norm import min_norm


@register(
    "Brings the losses to a preference's ray while it descends, then follows MGDA.",
    "Zhang et al. 2024, https://arxiv.org/abs/2402.09492",
    reads=frozenset({"gram", "losses"}),
    scale="own",
    properties=GRAM_METHOD | {"deterministic", "one task"},
    arguments=lambda num_tasks: {"preference": np.ones(num_tasks)},
)
def pmgda(
    num_tasks: int,
    preference: Any,
    *,
    h_eps: float = 0.01,
    sigma: float = 0.95,
    combine: bool = True,
) -> Method:
    """Descends to the Pareto optimal point on a ray: there **the losses are proportional to `p`**.

    A task of a larger preference `p_t` ends with a larger loss, as for `ferero` and `pareto_mtl`.
    `epo` takes the opposite convention, losses proportional to one over the preference:
    `pmgda(T, 1 / r)` aims at its ray.

    With `p` of unit length, `h = ‖L - (p'L) p‖` is the distance of the losses from the ray, and
    `∇h = Σ_t q_t g_t`, `q = (L - (p'L) p) / h`.

    - Where `h < h_eps`, `d` is MGDA's.
    - Elsewhere `d` is a convex combination of the unit vectors along `g_1..g_T` and `∇h`: of those
      with `<∇h, d> >= σ ‖∇h‖`, by which the distance falls, the one that raises the smallest
      `<g_t, d>` the most, by a linear program.

    Args:
        num_tasks: the number T of tasks.
        preference: `p`, `(T,)`, positive; only its direction counts.
        h_eps: the distance, in the unit of the losses, below which they count as on the ray; at
            least 0.
        sigma: σ, by what share of its steepest descent the distance is to fall, in [0, 1].
        combine: if False, return the rows `α_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: own: off the ray `d`
        is at most of length one, whatever the gradients' length; near it it is MGDA's. Weights can
        be negative. Its state reports the gap of the inner problem, as a share of the longest
        gradient (MGDA: of its square), and its iterations. A zero gradient takes no
        part off the ray, and a `∇h` that rounding cannot tell from zero makes no demand.

    When not to use:
        Where the learning rate is one for gradients: the length of `d` jumps as the losses come
        within `h_eps` of the ray. Where losses have different units, or floors above zero.

    References:
        Zhang et al., `PMGDA: A Preference-based Multiple Gradient Descent Algorithm
        <https://arxiv.org/abs/2402.09492>`_, 2024; the formula is that of the public code in
        libmoon (2025-03-28), with its constants, whose other distances ("cel", "cos") are left
        out. It solves by cvxpy, off the device.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.pmgda(2, [1.0, 1.0], sigma=0.6)
        >>> gradients, losses = jnp.eye(2), jnp.array([2.0, 1.0])
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(gradients, tx.init(params), params, task_losses=losses)
        >>> print([round(float(u), 2) for u in updates])  # The first loss is too large.
        [0.92, 0.08]
    """
    chosen = check_preference("pmgda", preference, num_tasks)
    _checks.check_number("pmgda", "h_eps", h_eps, low=0)
    _checks.check_number("pmgda", "sigma", sigma, low=0, high=1)

    def update(evidence: Evidence, state: SolverReport) -> tuple[Array, SolverReport]:
        del state
        gram, mask = evidence.gram, evidence.mask
        shares, _ = evidence.relative()
        off, length = off_ray(evidence.losses, chosen, mask, gram.dtype)
        near = length < jnp.asarray(h_eps, gram.dtype)
        shortest = min_norm(gram, mask, shares)
        mgda = report(shortest.gap, shortest.iterations, gram, shares)
        weights, program = _correction(evidence, off, jnp.asarray(sigma, gram.dtype))
        solver = SolverReport(*(jnp.where(near, *pair) for pair in zip(mgda, program, strict=True)))
        return jnp.where(near, shortest.weights, weights), solver

    weighting = Weighting("pmgda", num_tasks, frozenset({"gram", "losses"}), no_report, update)
    return from_weighting(weighting, combine_tasks=combine)


def _correction(
    evidence: Evidence, q: Float[Array, " T"], sigma: Float[Array, ""]
) -> tuple[Float[Array, " T"], SolverReport]:
    """Computes the weights off the ray, of `∇h = Σ_t q_t g_t`."""
    gram, mask, dtype = evidence.gram, evidence.mask, evidence.gram.dtype
    num_tasks = len(gram)
    shares, unit = evidence.relative()
    vectors = jnp.concatenate([jnp.eye(num_tasks, dtype=dtype), jnp.expand_dims(q, 0)])
    parts = vectors * jnp.expand_dims(shares, 0)
    scale = power_of_two(jnp.max(jnp.abs(parts), axis=1))
    parts = parts / jnp.expand_dims(scale, 1)
    products = jnp.matmul(parts, gram, precision=HIGHEST)
    products = jnp.matmul(products, parts.T, precision=HIGHEST)
    squares = jnp.diagonal(products)
    terms = jnp.matmul(jnp.abs(parts), root(jnp.diagonal(gram)), precision=HIGHEST)
    least = 64 * num_tasks * float(jnp.finfo(dtype).eps) * terms**2
    active = jnp.append(mask, jnp.any(mask)) & (squares > least)
    held = jnp.where(active, root(squares), 1)
    both = jnp.outer(active, active)
    cosines = jnp.where(both, products / jnp.outer(held, held), 0)
    lengths = held * scale

    # The smallest `<g_t, d>`, in units of the longest gradient, is the difference of the last two
    # variables: it can be negative.
    tasks = active[:-1]
    longest = jnp.max(jnp.where(tasks, lengths[:-1], 0))
    level = jnp.where(active, longest / lengths, 0).at[-1].set(0)
    counts = active.astype(dtype)
    none = jnp.zeros(2, dtype)
    matrix = jnp.concatenate(
        [
            jnp.concatenate([-cosines, jnp.stack([level, -level], axis=1)], axis=1),
            jnp.expand_dims(jnp.concatenate([counts, none]), 0),
        ]
    )
    some = jnp.any(tasks).astype(dtype)
    bounds = jnp.zeros(num_tasks + 2, dtype)
    bounds = bounds.at[num_tasks].set(jnp.where(active[-1], -sigma, 0)).at[-1].set(some)
    goal = jnp.concatenate([jnp.zeros_like(counts), jnp.stack([some, -some])])
    solution = lp(jnp.expand_dims(goal, 0), matrix, bounds, jnp.arange(num_tasks + 2) > num_tasks)
    shares_of = jnp.where(active, solution.point[:-2], 0) / lengths
    weights = jnp.matmul(shares_of, vectors, precision=HIGHEST) / unit
    return weights, SolverReport(solution.gap.astype(jnp.float32), solution.iterations)

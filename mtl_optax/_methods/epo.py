"""EPO search: exact Pareto optimal solutions by a linear program (Mahapatra and Rajan 2020)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mtl_optax import _checks
from mtl_optax._frame import (
    Evidence,
    Method,
    SolverReport,
    Weighting,
    from_weighting,
    no_report,
)
from mtl_optax._methods._preference import check_preference
from mtl_optax._precision import HIGHEST
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.lp import lp
from mtl_optax._solvers.simplex import present


@register(
    "Descends to the Pareto optimal point at which all preference times loss are equal.",
    "Mahapatra and Rajan 2020, https://proceedings.mlr.press/v119/mahapatra20a.html",
    reads=frozenset({"gram", "losses"}),
    scale="mean",
    properties=GRAM_METHOD | {"deterministic", "one task", "homogeneous", "convex", "conic"},
    arguments=lambda num_tasks: {"preference": np.ones(num_tasks)},
)
def epo(
    num_tasks: int,
    preference: Any,
    *,
    tolerance: float = 1e-4,
    relax: bool = False,
    combine: bool = True,
) -> Method:
    """Searches for the exact Pareto optimal point on a ray: there **all `r_t L_t` are equal**.

    The losses end proportional to **one over** the preference `r`: a task of a larger `r_t` gets a
    smaller loss. `ferero`, `pmgda` and `pareto_mtl` take the opposite convention, losses
    proportional to the preference; `epo(T, 1 / p)` aims at their ray `p`.

    With `l_t = r_t L_t / Σ_s r_s L_s`, the distance from the ray is `μ = Σ_t l_t log(T l_t)`, and
    `a_t = r_t (log(T l_t) - μ)` is the direction that the losses are to fall in; `a'L = 0`. With
    the Gram matrix `M`, `d = Σ_t α_t g_t` and `α` on the simplex:

    - Balance, where `μ > tolerance`: `max a'Mα`. If some `(Ma)_t` are positive, `<g_t, d> >= 0`
      for the tasks of the largest `r_t L_t`, `<g_t, d> >= (Ma)_t` for those with `(Ma)_t <= 0`,
      and no demand on the rest; else `<g_t, d> >= 0` for all.
    - Descent, on the ray: `max Σ_t <g_t, d>` with `<g_t, d> >= 0` for all, and with
      `a'Mα >= min(max_t (Ma)_t, 0)`, so as not to leave it. Where no `α` does all this, the
      last demand is met as nearly as possible.

    Args:
        num_tasks: the number T of tasks.
        preference: `r`, `(T,)`, positive. The ray depends on its direction alone; by how much
            losses on the low side may rise, `(Ma)_t`, grows with its length.
        tolerance: `μ` up to which the losses count as on the ray, at least 0.
        relax: descend without the last demand, which can leave the ray.
        combine: if False, return the rows `α_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: mean (`Σα = 1`). Its
        state reports the gap of the linear program, as a share of the largest entry of what it
        maximises, and the pivots. Losses below the smallest normal number count as that. `α` is a
        vertex, and so jumps as losses and gradients move; where several make one `d`, as of equal
        gradients, the order of the tasks and rounding choose.

    When not to use:
        Where losses can be negative, or have different floors above zero: the ray is one of the
        losses as they are. For one solution without a preference.

    References:
        Mahapatra and Rajan, `Multi-Task Learning with User Preferences
        <https://proceedings.mlr.press/v119/mahapatra20a.html>`_, 2020, Algorithm 1. The authors'
        code (EPOSearch) multiplies `α` by T, solves by cvxpy off the device, and where that fails
        takes `r / Σ r`.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.epo(2, [1.0, 1.0])
        >>> gradients, losses = jnp.eye(2), jnp.array([2.0, 1.0])
        >>> params = jnp.zeros(2)
        >>> tx.update(gradients, tx.init(params), params, task_losses=losses)[0]
        Array([1., 0.], dtype=float32)
    """
    chosen = check_preference("epo", preference, num_tasks)
    _checks.check_number("epo", "tolerance", tolerance, low=0)

    def update(evidence: Evidence, state: SolverReport) -> tuple[Array, SolverReport]:
        del state
        gram, dtype = evidence.gram, evidence.gram.dtype
        mask = present(evidence.mask, gram)
        shares, _ = evidence.relative()
        ranks = jnp.where(mask, chosen.astype(dtype), 1)
        losses = jnp.maximum(evidence.losses.astype(dtype), jnp.finfo(dtype).tiny)
        logits = jnp.where(mask, jnp.log(ranks) + jnp.log(losses), -jnp.inf)
        logs = jnp.where(mask, logits - jax.nn.logsumexp(logits), 0)
        excess = jnp.where(mask, logs + jnp.log(jnp.sum(mask).astype(dtype)), 0)
        distance = jnp.sum(jnp.where(mask, jnp.exp(logs), 0) * excess)
        seeking = distance > jnp.asarray(tolerance, dtype)
        wanted = jnp.where(mask, ranks * (excess - distance), 0)

        # Of `Ma` and of the rows of `M`, each in the scale of its task.
        gains = jnp.matmul(gram, shares * wanted, precision=HIGHEST)
        rises = seeking & (gains > 0)
        worst = mask & (logits == jnp.max(logits))
        least = jnp.where(seeking & jnp.any(rises) & ~worst, gains, 0)
        asked = mask & ~(rises & ~worst)
        rows = jnp.where(jnp.expand_dims(asked, 1), gram * jnp.expand_dims(shares, 0), 0)
        balance = shares * gains
        largest = jnp.max(jnp.where(mask, balance, -jnp.inf))
        keeps = ~(seeking | relax)

        # The last variable is what the demand not to leave the ray is short of.
        short = jnp.zeros(num_tasks + 1, dtype).at[-1].set(1)
        stays = jnp.where(keeps, jnp.append(balance, 0) + short, 0)
        total = jnp.append(mask.astype(dtype), 0)
        matrix = jnp.concatenate([-jnp.pad(rows, ((0, 0), (0, 1))), jnp.stack([-stays, total])])
        leaving = jnp.where(keeps, -jnp.minimum(largest, 0), 0)
        ends = jnp.stack([leaving, jnp.ones((), dtype)])
        bounds = jnp.concatenate([jnp.where(asked, -least, 0), ends])
        sums = shares * jnp.matmul(gram, shares * mask.astype(dtype), precision=HIGHEST)
        goal = jnp.where(mask, jnp.where(seeking, balance, sums), 0)
        goals = jnp.stack([-short, jnp.append(goal, 0)])
        solution = lp(goals, matrix, bounds, jnp.arange(num_tasks + 2) > num_tasks)

        weights = solution.point[:-1]
        weight = jnp.sum(weights)
        size = jnp.max(jnp.abs(goal))
        gap = (solution.gap / jnp.where(size > 0, size, 1)).astype(jnp.float32)
        weights = weights / jnp.where(weight > 0, weight, 1)
        return weights, SolverReport(gap, solution.iterations)

    weighting = Weighting("epo", num_tasks, frozenset({"gram", "losses"}), no_report, update)
    return from_weighting(weighting, combine_tasks=combine)

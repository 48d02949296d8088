"""MGDA: the min-norm point of the convex hull of the task gradients (Sener and Koltun 2018)."""

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array

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
from mtl_optax._precision import root
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.min_norm import MinNormSolver, min_norm
from mtl_optax._solvers.simplex import lowest, present

Normalization = Literal["none", "l2", "loss", "loss+"]
ApplyTo = Literal["normalized", "raw"]
_SMALLEST_LOSS = 1e-8


@register(
    "The shortest vector in the convex hull of the task gradients.",
    "Sener and Koltun 2018, https://arxiv.org/abs/1810.04650",
    reads=frozenset({"gram"}),
    scale="mean",
    properties=GRAM_METHOD
    | {
        "deterministic",
        "equivariant",
        "one task",
        "homogeneous",
        "non-conflicting",
        "convex",
        "conic",
    },
)
def mgda(
    num_tasks: int,
    *,
    normalization: Normalization = "none",
    solver: MinNormSolver = "fully_corrective",
    apply_to: ApplyTo = "normalized",
    combine: bool = True,
) -> Method:
    """The multiple-gradient descent algorithm: `d = Σ_t α_t g_t`, `α = argmin_Δ ‖Σ_t α_t g_t‖`.

    The direction satisfies `<g_t, d> >= ‖d‖²` for every task, with equality where `α_t > 0`, and
    is zero exactly where the tasks are Pareto stationary.

    With a normalisation `v`, the point of least norm is sought among `g_t / v_t`, for `v_t` =
    `‖g_t‖` ("l2"), `L_t` ("loss") or `L_t ‖g_t‖` ("loss+"). Its weights λ belong to the normalised
    gradients, so `α = λ/v`, rescaled to sum to one, is what keeps `d` a common descent direction.

    Args:
        num_tasks: the number T of tasks.
        normalization: what the gradients are divided by before the search.
        solver: "fully_corrective" is exact in a few iterations; "frank_wolfe" and
            "projected_gradient" stop at a duality gap of 1e-6 of the mean squared norm or after
            1000 iterations.
        apply_to: "normalized" for `α ∝ λ/v`; "raw" for `α = λ`, as the paper's code and nash-mtl
            do, which is no longer a descent direction for every task.
        combine: if False, return the rows `α_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Its state reports the duality gap and the
        iterations. Scale: mean (`Σα = 1`). A task whose gradient is zero gets all the weight, so
        that `d = 0`. "loss" and "loss+" read `task_losses`, which count as at least 1e-8.

    When not to use:
        Where the shortest gradient belongs to a task that matters least, or that has converged: the
        update is no longer than it, and waits for that task with all others (`normalization` leans
        to it less).

    References:
        Sener and Koltun, `Multi-Task Learning as Multi-Objective Optimization
        <https://arxiv.org/abs/1810.04650>`_, 2018, Eq. 3 and Algorithm 2; Désidéri,
        `MGDA <https://doi.org/10.1016/j.crma.2012.03.014>`_, 2012. Public codes differ: the
        paper's clips two-task weights to [0.001, 0.999] and never counts its iterations; LibMTL
        applies λ to the normalised gradients without rescaling; TorchJD's defaults stop early, at
        up to 0.5 % of the mean squared norm above the optimum.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.mgda(2)
        >>> gradients = jnp.array([[2.0, 0.0], [0.0, 1.0]])
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        >>> print(updates.round(3), state.weights.round(3))
        [0.4 0.8] [0.2 0.8]
    """
    _checks.check_choice("mgda", "normalization", normalization, get_args(Normalization))
    _checks.check_choice("mgda", "solver", solver, get_args(MinNormSolver))
    _checks.check_choice("mgda", "apply_to", apply_to, get_args(ApplyTo))
    reads = {"gram", "losses"} if normalization in ("loss", "loss+") else {"gram"}

    def update(evidence: Evidence, state: SolverReport) -> tuple[Array, SolverReport]:
        del state
        gram = evidence.gram
        scale, _ = evidence.relative()
        # 1 / v, up to a factor.
        factors = jnp.ones_like(scale)
        if normalization in ("l2", "loss+"):
            lengths = root(jnp.diagonal(gram))
            lengths = jnp.where(lengths > 0, lengths, 1)
            gram = gram / jnp.outer(lengths, lengths)
            factors = 1 / jnp.maximum(scale * lengths, jnp.finfo(gram.dtype).tiny)
            scale = jnp.ones_like(scale)
        if normalization in ("loss", "loss+"):
            losses = jnp.maximum(evidence.losses.astype(gram.dtype), _SMALLEST_LOSS)
            shares = lowest(losses, present(evidence.mask, gram)) / losses
            factors, scale = factors * shares, scale * shares
        solution = min_norm(gram, evidence.mask, scale, solver=solver)
        weights = solution.weights
        if apply_to == "normalized" and normalization != "none":
            raw = weights * factors
            total = jnp.sum(raw)
            # Where the factors lie further apart than the dtype reaches, one task has all weight.
            weights = jnp.where(total > 0, raw / jnp.where(total > 0, total, 1), weights)
        return weights, report(solution.gap, solution.iterations, gram, scale)

    weighting = Weighting("mgda", num_tasks, frozenset(reads), no_report, update)
    return from_weighting(weighting, combine_tasks=combine)

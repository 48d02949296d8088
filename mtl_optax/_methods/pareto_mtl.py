"""Pareto MTL: one subproblem for each preference between the tasks (Lin et al. 2019)."""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, SolverReport, Weighting, from_weighting, report
from mtl_optax._precision import HIGHEST, power_of_two, root
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.min_norm import min_norm

_SAME_PREFERENCE = 1e-6


class ParetoMTLState(NamedTuple):
    """Whether a feasible point has been met, and how well the last step was solved.

    Attributes:
        feasible: `()` bool, True once no constraint was active: stage one is over.
        solver: duality gap and iterations of the min-norm problem.
    """

    feasible: Bool[Array, ""]
    solver: SolverReport


@register(
    "Descends towards the trade-off nearest to one of several preference vectors.",
    "Lin et al. 2019, https://arxiv.org/abs/1912.12854",
    reads=frozenset({"gram", "losses"}),
    scale="sum",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous"},
    arguments=lambda num_tasks: {
        "preferences": np.concatenate([np.ones((1, num_tasks)), np.eye(num_tasks)]),
        "index": 0,
    },
)
def pareto_mtl(
    num_tasks: int,
    preferences: Any,
    index: Any,
    *,
    slack: float = 0.0,
    combine: bool = True,
) -> Method:
    """Descends within the sector of losses nearest to one of K preference vectors.

    With unit preferences `u_1..u_K`, subproblem `k` asks that the losses `L` make the smallest
    angle with `u_k`: `<u_j - u_k, L> <= 0` for all `j`. Constraint `j` is active where
    `<u_j - u_k, L / ‖L‖> > -slack`; let `A` hold the rows `u_j - u_k` of the active ones.

    - First, until no constraint is active, `d = G'α` is the shortest vector in the convex hull of
      the rows of `A G`: it brings the losses to the sector.
    - From then on it is that of the rows of `G` and of `A G`, with `α` scaled to `Σ_t |α_t| = T`:
      it descends all losses and keeps to the sector.

    Args:
        num_tasks: the number T of tasks; any will do.
        preferences: `(K, T)`, one preference vector per row, non-negative and not zero; only their
            directions count. A loss is the larger, the larger its preference. For two tasks the
            paper spaces them evenly over the quarter circle.
        index: `k`, which row this run is to follow. An array works too, so that `jax.vmap` over
            it trains all K models at once.
        slack: margin, at least 0, within which a constraint counts as active.
        combine: if False, return the rows `α_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: sum (`Σ|α| = T`) once
        feasible; before, `α` is as the hull has it. Weights can be negative. Losses that are all
        zero have no angle, and activate no constraint unless there is slack; negative ones are
        taken as they come. With `K = 1` it is T times MGDA. The columns of absent tasks are left
        out, and with them the preferences that name no other task.

    When not to use:
        Where losses have different units, or floors above zero: a preference is a ray in the losses
        as they are. For one solution without a preference.

    References:
        Lin et al., `Pareto Multi-Task Learning <https://arxiv.org/abs/1912.12854>`_, 2019,
        Section 4 and Algorithm 1. The authors' code is for two tasks, takes `slack = 0`, where the
        paper has a small positive one, leaves the first stage after two epochs at the latest, and
        does not rescale `α` in it.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.pareto_mtl(2, [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], index=0)
        >>> gradients, losses = jnp.eye(2), jnp.array([1.0, 1.0])
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(gradients, tx.init(params), params, task_losses=losses)
        >>> print(state.weights.round(3))  # The second loss is too large, so it is to fall faster.
        [-0.293  0.707]
    """
    table = _check_preferences(num_tasks, preferences)
    _check_index(table.shape[0], index)
    _checks.check_number("pareto_mtl", "slack", slack, low=0)

    def init() -> ParetoMTLState:
        solver = SolverReport(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))
        return ParetoMTLState(jnp.array(False), solver)

    def update(evidence: Evidence, state: ParetoMTLState) -> tuple[Array, ParetoMTLState]:
        gram, mask = evidence.gram, evidence.mask
        dtype = gram.dtype
        rows, valid = _unit_rows(jnp.where(mask, jnp.asarray(table).astype(dtype), 0))
        chosen = jnp.asarray(index).astype(jnp.int32)
        ahead = jnp.where(valid[chosen], rows - jnp.expand_dims(rows[chosen], 0), 0)
        # A preference equal to the chosen one is no constraint, and would end the descent.
        valid &= jnp.max(jnp.abs(ahead), axis=1) > _SAME_PREFERENCE
        losses, _ = _unit_rows(jnp.where(mask, evidence.losses.astype(dtype), 0)[None])
        excess = jnp.matmul(ahead, losses[0], precision=HIGHEST)
        active = valid & (excess > -jnp.asarray(slack, dtype))
        feasible = state.feasible | ~jnp.any(active)

        vectors = jnp.concatenate([jnp.eye(num_tasks, dtype=dtype), ahead])
        shares, _ = evidence.relative()
        parts = vectors * jnp.expand_dims(shares, 0)
        scale = power_of_two(jnp.max(jnp.abs(parts), axis=1))
        parts = parts / jnp.expand_dims(scale, 1)
        products = jnp.matmul(parts, gram, precision=HIGHEST)
        products = jnp.matmul(products, parts.T, precision=HIGHEST)
        # Both stages are one problem: the tasks' own gradients take part in the second alone.
        solution = min_norm(products, jnp.concatenate([mask & feasible, active]), scale)
        weights = jnp.matmul(solution.weights, vectors, precision=HIGHEST)
        total = jnp.sum(jnp.abs(weights))
        present = jnp.sum(mask).astype(dtype)
        weights = jnp.where(feasible, weights * (present / jnp.where(total > 0, total, 1)), weights)
        state = ParetoMTLState(feasible, report(solution.gap, solution.iterations, products, scale))
        return weights, state

    weighting = Weighting("pareto_mtl", num_tasks, frozenset({"gram", "losses"}), init, update)
    return from_weighting(weighting, combine_tasks=combine)


def _unit_rows(rows: Float[Array, "K T"]) -> tuple[Float[Array, "K T"], Bool[Array, " K"]]:
    """Divides each row by its norm, and says which ones have one."""
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    rows = rows / jnp.where(largest > 0, largest, 1)
    lengths = root(jnp.sum(rows**2, axis=1, keepdims=True))
    return rows / jnp.where(lengths > 0, lengths, 1), largest[:, 0] > 0


def _check_preferences(num_tasks: int, preferences: Any) -> Any:
    """Returns the preferences as an array, or raises if they are misshapen or out of range."""
    _checks.check_num_tasks("pareto_mtl", num_tasks)
    if isinstance(preferences, jax.core.Tracer):
        table: Any = preferences
    else:
        try:
            table = np.asarray(preferences, np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"pareto_mtl: preferences must be a (K, {num_tasks}) table of numbers, got "
                f"{preferences!r}."
            ) from error
    if table.ndim != 2 or table.shape[1] != num_tasks or table.shape[0] == 0:
        raise ValueError(
            f"pareto_mtl: preferences has shape {table.shape}, wanted (K, {num_tasks}): one row "
            "per preference vector, one column per task."
        )
    if isinstance(table, np.ndarray):
        bad = ~np.all(np.isfinite(table) & (table >= 0), axis=1) | ~np.any(table > 0, axis=1)
        if np.any(bad):
            row = int(np.argmax(bad))
            raise ValueError(
                f"pareto_mtl: preferences[{row}] must be finite, non-negative and not all zero, "
                f"got {table[row].tolist()}."
            )
    return table


def _check_index(num_preferences: int, index: Any) -> None:
    if isinstance(index, jax.core.Tracer):
        return
    whole = isinstance(index, numbers.Integral) or getattr(index, "shape", None) == ()
    if isinstance(index, bool) or not whole or int(index) != index:
        raise TypeError(f"pareto_mtl: index must be an integer, got {index!r}.")
    if not 0 <= int(index) < num_preferences:
        raise ValueError(
            f"pareto_mtl: index must name one of the {num_preferences} rows of preferences, "
            f"0 to {num_preferences - 1}, got {index!r}."
        )

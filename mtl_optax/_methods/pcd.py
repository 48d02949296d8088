"""PCD: a primary task's gradient, bent until it serves the others (Varam and Alhajri 2026)."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting
from mtl_optax._methods._projected import ProjectionReport, no_report, report, unit_gram
from mtl_optax._precision import HIGHEST, root
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.nnqp import nnqp
from mtl_optax._solvers.simplex import uniform


class PCDState(NamedTuple):
    """The usual length of each task's gradient, and how well the last step was solved.

    Attributes:
        lengths: `(T,)` float32, the root of the average of the squared norms, over the steps in
            which the task was present.
        totals: `(T,)` float32, the sum of the powers of `decay` that the average divides by.
        solved: the report of the last step's projection.
    """

    lengths: Float[Array, " T"]
    totals: Float[Array, " T"]
    solved: ProjectionReport


@register(
    "The primary task's gradient, bent to serve the others by a share of their own.",
    "Varam and Alhajri 2026, https://arxiv.org/abs/2606.29521",
    reads=frozenset({"gram"}),
    scale="own",
    properties=GRAM_METHOD | {"deterministic", "one task", "homogeneous", "conic"},
)
def pcd(
    num_tasks: int,
    *,
    main: int | Array = 0,
    tau: Any = 0.02,
    decay: float = 0.999,
    rescale: bool = True,
    combine: bool = True,
) -> Method:
    """Follows the primary task as closely as the others' share of progress allows.

    Each gradient is divided by its usual length: `g̃_t = g_t / l_t`, where `l_t²` is the average of
    `‖g_t‖²` over the steps so far. With `p` the primary task, `d̃` is the nearest point to `g̃_p`
    with `<g̃_t, d̃> >= τ ‖g̃_t‖²` for every other task, and `d = d̃ ‖g_p‖ / ‖d̃‖`. By duality
    `d̃ = g̃_p + Σ_t x_t g̃_t` with `x >= 0`, a quadratic program that is solved exactly, by active
    sets.

    The primary task can rise, and at full length: where the others leave only a short `d̃`, `d` is
    that, drawn out to the length of `g_p`. Of two tasks with `τ = 0.02` it rises where the cosine
    is below -0.99, by 0.37 of `‖g_p‖²` at -0.999, and by all of it where they are opposite: `d` is
    `-g_p`. With `rescale=False` it rises by no more than `τ` of it.

    Args:
        num_tasks: the number T of tasks.
        main: the number of the primary task, from 0.
        tau: τ, at least 0, one number or `(T,)` of which the primary's is not read: the progress
            that is kept for a task, as a share of what its own gradient would make.
        decay: the share of the average of squares that is kept, in [0, 1]; each task's is
            corrected for the steps that it was present.
        rescale: if False, `d = d̃ l_p`, which is `g_p` where no other task asks for more.
        combine: if False, return the rows `α_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Its state reports by how much the conditions of
        optimality are missed, and the iterations. Scale: own, that of the primary gradient. Where
        it is zero, so is `d`. Where no direction serves the others at once, as with two that are
        opposite, `d = g_p`; in float32, also where only one would that is some thousand times
        longer than `g̃_p`. Other gradients that are zero ask for nothing. In a step without the
        primary task `d` is the mean of the others.

    When not to use:
        Where no task comes before the others. Where the primary task may never be hurt.

    References:
        Varam and Alhajri, `Not All Objectives Are Born Equal: Priority-Constrained Descent for
        Hierarchical Multi-Objective Optimization <https://arxiv.org/abs/2606.29521>`_, 2026.
        TorchJD 0.18 takes the first task for the primary one and adds 1e-8 to the average of
        squares, so that gradients below 1e-4 are not brought to length one.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.pcd(2)
        >>> gradients = jnp.array([[1.0, 0.0], [-0.5, 1.0]])
        >>> params = jnp.zeros(2)
        >>> print(tx.update(gradients, tx.init(params), params)[0])
        [0.8842062  0.46709684]
    """
    _checks.check_num_tasks("pcd", num_tasks)
    _checks.check_task("pcd", "main", main, num_tasks)
    _checks.check_number("pcd", "decay", decay, low=0, high=1)
    shares = tau
    if jnp.ndim(tau):
        shares = _checks.check_vector("pcd", "tau", tau, num_tasks)
    else:
        _checks.check_number("pcd", "tau", tau, low=0)

    def init() -> PCDState:
        zeros = jnp.zeros(num_tasks, jnp.float32)
        return PCDState(zeros, jnp.zeros_like(zeros), no_report())

    def update(evidence: Evidence, state: PCDState) -> tuple[Array, PCDState]:
        mask, dtype = evidence.mask, evidence.gram.dtype
        cosines, held = unit_gram(evidence)
        zero = jnp.diagonal(evidence.gram) == 0
        norms = jnp.where(zero, 0, held * evidence.scale)

        totals = 1 + jnp.asarray(decay, jnp.float32) * state.totals
        usual = state.lengths.astype(dtype)
        unit = jnp.maximum(norms, usual)
        unit = jnp.where(unit > 0, unit, 1)
        new = 1 / totals.astype(dtype)
        usual = unit * root((1 - new) * (usual / unit) ** 2 + new * (norms / unit) ** 2)

        first = jnp.arange(num_tasks, dtype=jnp.int32) == jnp.asarray(main).astype(jnp.int32)
        lengths = norms / jnp.where(usual > 0, usual, 1)
        own = jnp.sum(jnp.where(first, lengths, 0))
        others = mask & ~first & ~zero
        wanted = jnp.asarray(shares, dtype) * lengths
        linear = own * jnp.sum(jnp.where(first, cosines, 0), axis=1) - wanted
        solution = nnqp(jnp.expand_dims(linear, 0), cosines, others)
        served = jnp.any(others) & solution.bounded[0] & (own > 0)
        point = jnp.where(served, solution.points[0], 0)

        # In terms of unit rows.
        point = jnp.where(first, own, point)
        square = jnp.dot(point, jnp.matmul(cosines, point, precision=HIGHEST), precision=HIGHEST)
        # Of what cancels to rounding, no direction is left.
        noise = 4 * float(jnp.finfo(dtype).eps) * jnp.sum(point) ** 2
        length = root(jnp.where(square > noise, square, 0)) if rescale else own
        point = jnp.where(length > 0, point / jnp.where(length > 0, length, 1), 0)
        of_main = lambda values: jnp.sum(jnp.where(first, values, 0))
        # A ratio can be infinite, where it counts for nothing.
        ratios = jnp.where(point == 0, 0, of_main(evidence.scale) / evidence.scale)
        weights = point * ratios * (of_main(held) / held)
        weights = jnp.where(jnp.any(first & mask), weights, uniform(mask, dtype))
        after = PCDState(
            jnp.where(mask, usual.astype(jnp.float32), state.lengths),
            jnp.where(mask, totals, state.totals),
            report(solution),
        )
        return weights, after

    weighting = Weighting("pcd", num_tasks, frozenset({"gram"}), init, update)
    return from_weighting(weighting, combine_tasks=combine)

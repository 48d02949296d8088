"""DualProj: the mean gradient, projected to conflict with no task (Lopez-Paz and Ranzato 2017)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, Weighting, from_weighting
from mtl_optax._methods._projected import (
    ProjectionReport,
    no_report,
    preferred,
    report,
    unit_gram,
)
from mtl_optax._precision import HIGHEST
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.nnqp import nnqp


@register(
    "The nearest direction to the mean gradient that conflicts with no task.",
    "Lopez-Paz and Ranzato 2017, https://arxiv.org/abs/1706.08840",
    reads=frozenset({"gram"}),
    scale="mean",
    properties=GRAM_METHOD
    | {"deterministic", "equivariant", "one task", "homogeneous", "non-conflicting", "conic"},
)
def dual_proj(num_tasks: int, *, preference: Any | None = None, combine: bool = True) -> Method:
    """Projects the mean gradient onto the directions that conflict with no task.

    `d` is the nearest point to `g_0 = Σ_t u_t g_t` among all `x` with `<g_s, x> >= 0` for every
    task `s`. By duality `d = g_0 + Σ_s x_s g_s` with `x = argmin_{x >= 0} ½x'Mx + <Mu, x>`, a
    quadratic program that is solved exactly, by active sets, on the cosines of the gradients. Where
    `g_0` conflicts with no task, `d = g_0`.

    Args:
        num_tasks: the number T of tasks.
        preference: `u`, `(T,)`, an array or a sequence of numbers of any sign; one over the number
            of present tasks by default.
        combine: if False, return the rows `α_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Its state reports by how much the conditions of
        optimality are missed, as a share of the longest gradient, and the iterations. Scale: mean;
        equal gradients `g` give `g`. A zero gradient of a present task adds nothing, constrains
        nothing, and counts among the tasks. Opposite gradients, alone, give zero.

    When not to use:
        Where tasks differ in scale: the mean is that of the longest gradients, and the others are
        kept from rising, no more. UPGrad, which projects each gradient by itself, serves them in
        proportion to their own length.

    References:
        Lopez-Paz and Ranzato, `Gradient Episodic Memory for Continual Learning
        <https://arxiv.org/abs/1706.08840>`_, 2017, Eq. 11, there with one new task against past
        ones; as a way to combine tasks it is from Quinton and Rey, `Jacobian Descent for
        Multi-Objective Optimization <https://arxiv.org/abs/2406.16232>`_, 2024. TorchJD 0.18 adds a
        ridge of 1e-4 to the Gram matrix over its trace, and where the trace is below 1e-4 returns
        the mean, conflicts and all.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.dual_proj(2)
        >>> gradients = jnp.array([[1.0, 0.0], [-2.0, 1.0]])
        >>> params = jnp.zeros(2)
        >>> print(tx.update(gradients, tx.init(params), params)[0])
        [0.  0.5]
    """
    _checks.check_num_tasks("dual_proj", num_tasks)
    given = _checks.check_vector("dual_proj", "preference", preference, num_tasks)

    def update(evidence: Evidence, state: ProjectionReport) -> tuple[Array, ProjectionReport]:
        del state
        u = preferred(given, evidence)
        cosines, held = unit_gram(evidence)
        scale, _ = evidence.relative()
        lengths = held * scale
        products = jnp.matmul(cosines, lengths * u, precision=HIGHEST)
        solution = nnqp(jnp.expand_dims(products, 0), cosines)
        return u + solution.points[0] / lengths, report(solution)

    weighting = Weighting("dual_proj", num_tasks, frozenset({"gram"}), no_report, update)
    return from_weighting(weighting, combine_tasks=combine)

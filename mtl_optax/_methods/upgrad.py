"""UPGrad: the mean of the task gradients, each projected to conflict with none (2024)."""

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
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.nnqp import nnqp


@register(
    "The mean of the gradients, each projected onto what conflicts with no task.",
    "Quinton and Rey 2024, https://arxiv.org/abs/2406.16232",
    reads=frozenset({"gram"}),
    scale="mean",
    properties=GRAM_METHOD
    | {"deterministic", "equivariant", "one task", "homogeneous", "non-conflicting", "conic"},
)
def upgrad(num_tasks: int, *, preference: Any | None = None, combine: bool = True) -> Method:
    """Projects each gradient onto the directions that conflict with no task, and takes the mean.

    `d = Σ_t u_t π(g_t)`, where `π(g)` is the nearest point to `g` among all `x` with
    `<g_s, x> >= 0` for every task `s`. By duality `π(g_t) = g_t + Σ_s x_s g_s` with
    `x = argmin_{x >= 0} ½x'Mx + <M_t, x>`; these T quadratic programs are solved exactly, by active
    sets, on the cosines of the gradients, so that no task's scale has a say in how well. A
    projection keeps what a gradient has in common with the others' good, so that `d` grows with the
    length of each task's gradient, in proportion.

    Args:
        num_tasks: the number T of tasks.
        preference: `u`, `(T,)`, an array or a sequence of numbers; one over the number of present
            tasks by default. With a negative `u_t`, `-g_t` is projected.
        combine: if False, return the rows `α_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Its state reports by how much the conditions of
        optimality are missed, and the iterations. Scale: mean; equal gradients `g` give `g`, and
        two tasks half of PCGrad's update. A zero gradient of a present task adds nothing,
        constrains nothing, and counts among the tasks. Opposite gradients, alone, give zero.

    When not to use:
        Where tasks differ in scale: as in the plain mean, the longest gradients lead. Where hardly
        any gradients conflict, it is the plain mean at the price of T backward passes.

    References:
        Quinton and Rey, `Jacobian Descent for Multi-Objective Optimization
        <https://arxiv.org/abs/2406.16232>`_, 2024. The public codes add a ridge to the Gram matrix
        over its trace: in TorchJD 0.18, and LibMTL after it, 1e-4, which moves `d` by up to a fifth
        of the norm of all gradients where they are linearly dependent; and where the trace is
        below 1e-4, they return the mean, conflicts and all.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.upgrad(2)
        >>> gradients = jnp.array([[1.0, 0.0], [-0.5, 1.0]])
        >>> params = jnp.zeros(2)
        >>> print(tx.update(gradients, tx.init(params), params)[0])
        [0.4 0.7]
    """
    _checks.check_num_tasks("upgrad", num_tasks)
    given = _checks.check_vector("upgrad", "preference", preference, num_tasks)

    def update(evidence: Evidence, state: ProjectionReport) -> tuple[Array, ProjectionReport]:
        del state
        u = preferred(given, evidence)
        cosines, held = unit_gram(evidence)
        # Row t: the multipliers of the projection of sign(u_t) g_t / ‖g_t‖.
        solution = nnqp(jnp.expand_dims(jnp.sign(u), 1) * cosines, cosines)
        shares = jnp.expand_dims(jnp.abs(u) * held, 1) / jnp.expand_dims(held, 0)
        added = evidence.for_gradients(solution.points * shares)
        return u + jnp.sum(added, axis=0), report(solution)

    weighting = Weighting("upgrad", num_tasks, frozenset({"gram"}), no_report, update)
    return from_weighting(weighting, combine_tasks=combine)

"""CAGrad: conflict-averse gradient descent (Liu et al. 2021)."""

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
from mtl_optax._precision import HIGHEST, root
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.conic import conic
from mtl_optax._solvers.simplex import uniform

Rescale = Literal["none", "one_plus_c_squared", "one_plus_c"]


@register(
    "The best worst-task improvement within a ball around the mean gradient.",
    "Liu et al. 2021, https://arxiv.org/abs/2110.14048",
    reads=frozenset({"gram"}),
    scale="mean",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "homogeneous", "conic"},
)
def cagrad(
    num_tasks: int, *, c: float = 0.5, rescale: Rescale = "none", combine: bool = True
) -> Method:
    """Raises the worst task's improvement within a ball around the mean gradient.

    With `g_0 = (1/T) Σ_t g_t`, it solves `max_d min_t <g_t, d>` subject to
    `‖d - g_0‖ <= c ‖g_0‖`. By duality `d = g_0 + κ g_w / ‖g_w‖` with `κ = c ‖g_0‖`,
    `g_w = Σ_t w_t g_t` and `w = argmin_Δ <g_w, g_0> + κ ‖g_w‖`, which is solved on the Gram
    matrix to a certified gap.

    Args:
        num_tasks: the number T of tasks.
        c: radius of the ball as a share of `‖g_0‖`, at least 0. With `c = 0` it is `mean_tasks`;
            as `c` grows, the direction tends to MGDA's.
        rescale: divide `d` by nothing, by `1 + c²` or by `1 + c`.
        combine: if False, return the rows `(1/T + κ w_t / ‖g_w‖) g_t`, leaves `(T, *p.shape)`,
            for AdaTask on CAGrad. (AdaTask's Algorithm 3 prints `(1 + κ / ‖g_w‖) w_t g_t`, whose
            sum is not CAGrad's direction.)

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Its state reports the duality gap and the
        iterations. Scale: mean; equal gradients `g` give `(1 + c) g` with rescale="none". Where
        `g_w` vanishes, `d` stays within the ball.

    When not to use:
        Where tasks differ in scale: the mean, around which its ball lies, is that of the longest
        gradients.

    References:
        Liu et al., `Conflict-Averse Gradient Descent for Multi-task Learning
        <https://arxiv.org/abs/2110.14048>`_, 2021, Eq. 4 and Algorithm 1. Public codes differ in
        scale: TorchJD returns `d`; LibMTL divides by `1 + c²` by default; the authors' code does
        so too and multiplies by T. TorchJD returns zero where `‖g_w‖` is below 1e-4.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.cagrad(2, c=0.5)
        >>> gradients = jnp.array([[2.0, 0.0], [0.0, 2.0]])
        >>> params = jnp.zeros(2)
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([1.5, 1.5], dtype=float32)
    """
    _checks.check_number("cagrad", "c", c, low=0)
    _checks.check_choice("cagrad", "rescale", rescale, get_args(Rescale))

    def update(evidence: Evidence, state: SolverReport) -> tuple[Array, SolverReport]:
        del state
        gram = evidence.gram
        mean = uniform(evidence.mask, gram.dtype)
        scale, _ = evidence.relative()
        products = jnp.matmul(gram, scale * mean, precision=HIGHEST)
        length = root(jnp.dot(scale * mean, products, precision=HIGHEST))
        share = jnp.asarray(c, gram.dtype)
        solution = conic(products, gram, share * length, evidence.mask, scale)
        weights = mean + solution.multipliers
        if rescale == "one_plus_c_squared":
            weights = weights / (1 + share**2)
        elif rescale == "one_plus_c":
            weights = weights / (1 + share)
        return weights, report(solution.gap, solution.iterations, gram, scale)

    weighting = Weighting("cagrad", num_tasks, frozenset({"gram"}), no_report, update)
    return from_weighting(weighting, combine_tasks=combine)

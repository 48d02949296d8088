"""GetMTL: gradient trade-off multi-task learning (Chai et al. 2023)."""

from typing import Literal, get_args

import jax.numpy as jnp
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
    softmax_present,
)
from mtl_optax._precision import HIGHEST, root
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.conic import conic
from mtl_optax._solvers.min_norm import min_norm
from mtl_optax._solvers.simplex import lowest, present, uniform

Variant = Literal["paper", "exact", "official"]
Radius = Literal["absolute", "relative"]
# A task that MGDA leaves out would hold the worst improvement at zero, so it sits out stage two.
_SMALLEST_BETA = 1e-6
_SMALLEST_LOSS = 1e-8


@register(
    "CAGrad's trade-off on gradients weighted by MGDA, in a cone around the mean.",
    "Chai et al. 2023, https://aclanthology.org/2023.acl-long.144/",
    reads=frozenset({"gram"}),
    scale="mean",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "conic"},
    ambiguous="linearly dependent",
)
def getmtl(
    num_tasks: int,
    *,
    epsilon: float = 0.025,
    variant: Variant = "paper",
    radius: Radius = "absolute",
    max_radius: float = 0.9,
    combine: bool = True,
) -> Method:
    """Trades the mean direction off against the worst task, weighted by MGDA.

    Stage one takes β from MGDA. Stage two, with `g_0 = (1/T) Σ_t g_t`, asks for
    `max_d min_t β_t <g_t, d>` subject to `‖d - g_0‖ <= ε <g_0, d>`. Write `a = ε‖g_0‖`,
    `κ = a‖g_0‖` and `g_w = Σ_t w_t β_t g_t`.

    - "paper": `d = (g_0 + κ g_w / ‖g_w‖) / (1 - a²)`, `w = argmin_Δ <g_w, g_0> + κ‖g_w‖`. This is
      CAGrad's direction on the rows `β_t g_t`, over `1 - a²`. It can break its own constraint:
      Eq. 22 of the paper differentiates `½<g_0, d>²` as `‖g_0‖² d`.
    - "exact": the solution of the problem as stated, an ellipsoid for `a < 1`:
      `w = argmin_Δ b'w + κ·sqrt(w'Qw)` with `b_t = β_t <g_t, g_0>`,
      `Q = (1 - a²) B M B + ε² b b'`, `B = diag(β)`, and
      `d = [g_0 + κ {(1 - a²) g_w + ε² (b'w) g_0} / sqrt(w'Qw)] / (1 - a²)`.
    - "official": what the authors' code computes, a third method. β are MGDA's weights of the
      gradients over `L_t ‖g_t‖` and never enter an objective: with `x` MGDA's weights of the
      gradients themselves, `w = softmax(x β)`, nearly uniform, `g_w = Σ_t w_t g_t`, and
      `d = T [g_0 + λ g_w] / ((1 - a²) (1 + ε²))` multiplies by `λ = ‖g_w‖ / κ` where the formula
      divides. It grows as the gradients shrink, up to the code's constants of 1e-8.

    Args:
        num_tasks: the number T of tasks.
        epsilon: ε, at least 0. The paper uses 0.0075 and 0.025.
        variant: "paper", "exact" or "official"; the last reads `task_losses`, which count as at
            least 1e-8, and is the same as the code for ε up to one.
        radius: "absolute" takes `a = ε‖g_0‖` as in the paper, so that the result depends on the
            unit of the loss, and for small gradients is the mean to a factor of `1 + a`;
            "relative" takes `a = ε`, like CAGrad's `c`.
        max_radius: `a` is kept at or below this, in (0, 1): at `a = 1` the paper's `d` is
            infinite, and beyond it points uphill.
        combine: if False, return the rows `α_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Its state reports the gap and the iterations of
        stage two (of `x` for "official"). Scale: mean; one task gives `g / (1 - a)`. Where
        `g_0 = 0` the update is zero. "official" is T times that, and not zero there. MGDA's weights
        of tasks 1e6 apart fall to the 1e-6 below which a task sits out stage two, so that in
        float32 rounding can choose who does, and move `d` by some per cent.

    When not to use:
        With the default ε where gradients are short: at a mean gradient of length one it is equal
        weighting to 2.5 %. Raise ε, or set `radius="relative"`.

    References:
        Chai et al., `Improving Gradient Trade-offs between Tasks in Multi-task Text Classification
        <https://aclanthology.org/2023.acl-long.144/>`_, 2023, Eqs. 8 to 24 and Algorithm 1, which
        takes the sum for `g_0`; with `ε/T` that is T times this. The authors' code is
        https://github.com/heany/GetMTL; its min-norm solver clips the weights of two tasks to
        [0.001, 0.999], ours does not.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.getmtl(2, epsilon=0.5, radius="relative")
        >>> gradients = jnp.array([[2.0, 0.0], [0.0, 2.0]])
        >>> params = jnp.zeros(2)
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([2., 2.], dtype=float32)
    """
    _checks.check_number("getmtl", "epsilon", epsilon, low=0)
    _checks.check_number(
        "getmtl", "max_radius", max_radius, low=0, high=1, open_low=True, open_high=True
    )
    _checks.check_choice("getmtl", "variant", variant, get_args(Variant))
    _checks.check_choice("getmtl", "radius", radius, get_args(Radius))

    def update(evidence: Evidence, state: SolverReport) -> tuple[Array, SolverReport]:
        del state
        gram = evidence.gram
        scale, unit = evidence.relative()
        balance = min_norm(gram, evidence.mask, scale)
        beta = balance.weights
        mean = uniform(evidence.mask, gram.dtype)
        products = jnp.matmul(gram, scale * mean, precision=HIGHEST)
        length = root(jnp.dot(scale * mean, products, precision=HIGHEST))
        a = jnp.asarray(epsilon, gram.dtype)
        if radius == "absolute":
            a = a * (length * unit)
        a = jnp.minimum(a, jnp.asarray(max_radius, gram.dtype))
        if variant == "official":
            weights = _official(evidence, beta, length, a, jnp.asarray(epsilon, gram.dtype))
            return weights, report(balance.gap, balance.iterations, gram, scale)

        linear = beta * products
        quadratic = jnp.outer(beta, beta) * gram
        slack = 1 - a**2
        # ε² b, with the ε that belongs to the radius in use.
        along = (a / jnp.where(length > 0, length, 1)) ** 2 * linear
        if variant == "exact":
            quadratic = slack * quadratic + jnp.outer(along, linear)
        active = evidence.mask & (beta > _SMALLEST_BETA)
        solution = conic(linear, quadratic, a * length, active, scale)
        x = solution.multipliers
        if variant == "exact":
            share = jnp.dot(scale * along, x, precision=HIGHEST)
            weights = mean * (1 + share) + slack * beta * x
        else:
            weights = mean + beta * x
        return weights / slack, report(solution.gap, solution.iterations, quadratic, scale)

    reads = {"gram", "losses"} if variant == "official" else {"gram"}
    weighting = Weighting("getmtl", num_tasks, frozenset(reads), no_report, update)
    return from_weighting(weighting, combine_tasks=combine)


def _official(
    evidence: Evidence,
    x: Float[Array, " T"],
    length: Float[Array, ""],
    a: Float[Array, ""],
    epsilon: Float[Array, ""],
) -> Float[Array, " T"]:
    """Computes the weights of the authors' code from MGDA's `x` and `‖g_0‖ = unit length`."""
    gram, mask = evidence.gram, evidence.mask
    scale, unit = evidence.relative()
    norms = root(jnp.diagonal(gram))
    norms = jnp.where(norms > 0, norms, 1)
    losses = jnp.maximum(evidence.losses.astype(gram.dtype), _SMALLEST_LOSS)
    shares = lowest(losses, present(mask, gram)) / losses
    beta = min_norm(gram / jnp.outer(norms, norms), mask, shares).weights
    w = softmax_present(x * beta, mask)
    mixed = scale * w
    square = jnp.dot(mixed, jnp.matmul(gram, mixed, precision=HIGHEST), precision=HIGHEST)
    norm = unit * root(square)
    ratio = (norm + 1e-8) / (a * (unit * length) + 1e-8)
    weights = uniform(mask, gram.dtype) + ratio * w
    number = jnp.sum(mask).astype(gram.dtype)
    return weights * (number / ((1 - a**2) * (1 + epsilon**2)))

"""FERERO: preference-guided descent with a constraint on the losses (Chen et al. 2024)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, SolverReport, Weighting, from_weighting, no_report
from mtl_optax._methods._preference import check_preference, of_present
from mtl_optax._precision import HIGHEST, exponent, power_of_two, root, shift
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.simplex import lowest, present, unit_rows

# A zero gradient counts as one this much shorter than the shortest, at right angles to all.
_NO_LENGTH = 2.0**-60


@register(
    "Descends while the losses keep to a preference's ray, as equations of the direction.",
    "Chen et al. 2024, https://arxiv.org/abs/2412.01773",
    reads=frozenset({"gram", "losses"}),
    scale="own",
    properties=GRAM_METHOD | {"deterministic", "one task"},
    arguments=lambda num_tasks: {"preference": np.ones(num_tasks)},
)
def ferero(
    num_tasks: int, preference: Any, *, h_scale: float = 1.0, combine: bool = True
) -> Method:
    """Descends to the Pareto optimal point on a ray: there **the losses are proportional to `p`**.

    A task of a larger preference `p_t` ends with a larger loss, as for `pmgda` and `pareto_mtl`.
    `epo` takes the opposite convention, losses proportional to one over the preference:
    `ferero(T, 1 / r)` aims at its ray.

    Let the rows of `B` be a basis of what is orthogonal to `p`, and `H = B L`, zero on the ray.
    With the matrix `G` of the gradients, `d` is the dual of
    `max_d min_t <g_t, d> - ½‖d‖²` subject to `B G d = H`: the losses' part off the ray falls in
    proportion to itself, and of what does so the best for the worst task is taken. That is
    `d = G'(λ + B'ν)` for `min ½‖G'(λ + B'ν)‖² - ν'H` over `λ` on the simplex and any `ν`.

    The basis does not matter. `ν` leaves the shortest `d_H` with `B G d_H = H`, and `e`, the
    shortest `G'α` with `p'α = 1`, so that `d = d_H + (p'λ) e`, and `λ` minimises
    `½‖e‖² (p'λ)² + λ'G d_H`, which its best edge of the simplex solves.

    Args:
        num_tasks: the number T of tasks; any will do.
        preference: `p`, `(T,)`, positive; only its direction counts.
        h_scale: takes `h_scale B L` for `H`, at least 0: how fast the losses come to the ray.
        combine: if False, return the rows `α_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params, task_losses=losses)`. Scale: own: `d_H` is a step
        of Newton's method on `B L`, and goes like the losses over the gradients; `e` like the
        gradients. Weights can be negative. The state reports the duality gap, as a share of the
        largest `<g_t, d>`, or what `B G d` falls short of `H` by, as a share of the losses, where
        that is more. Where gradients are linearly dependent, or nearly, `B G d = H` may have no
        solution; then it is met in least squares, of the gradients at unit length, and rounding
        has a say. Gradients below about 1e-18 need weights that float32 does not hold: all of them
        are shortened alike.

    When not to use:
        Where gradients nearly vanish or agree while the losses are off the ray: `d_H` is long.
        Clip it, or lower `h_scale`. Where losses have floors above zero, or different units.

    References:
        Chen et al., `FERERO: A Flexible Framework for Preference-Guided Multi-Objective Learning
        <https://arxiv.org/abs/2412.01773>`_, 2024, with their `A` the identity. The authors' code
        is for two tasks, and weighs `H` three ways: by 1 in the toy problems, .1 in the single
        loop, .5 for MultiMNIST; it takes steps of projected gradient descent from wherever it
        stopped, or from uniform `λ`.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.ferero(2, [1.0, 1.0])
        >>> gradients, losses = jnp.eye(2), jnp.array([2.0, 1.0])
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(gradients, tx.init(params), params, task_losses=losses)
        >>> print(state.weights.round(3) + 0.0)  # The first loss falls by one more than the second.
        [1. 0.]
    """
    chosen = check_preference("ferero", preference, num_tasks)
    _checks.check_number("ferero", "h_scale", h_scale, low=0)

    def update(evidence: Evidence, state: SolverReport) -> tuple[Array, SolverReport]:
        del state
        dtype = evidence.gram.dtype
        mask = present(evidence.mask, evidence.gram)
        ray = of_present(chosen, mask, dtype)
        losses = jnp.asarray(h_scale, dtype) * evidence.losses.astype(dtype)
        return _weigh(evidence, ray, jnp.where(mask, losses, 0))

    weighting = Weighting("ferero", num_tasks, frozenset({"gram", "losses"}), no_report, update)
    return from_weighting(weighting, combine_tasks=combine)


def _weigh(
    evidence: Evidence, ray: Float[Array, " T"], losses: Float[Array, " T"]
) -> tuple[Float[Array, " T"], SolverReport]:
    """Computes the weights in the variables `y_t = α_t ‖g_t‖`, where `M` is that of cosines."""
    mask = present(evidence.mask, evidence.gram)
    cosines, held, active = unit_rows(evidence.gram, mask)
    dtype = cosines.dtype
    shares, unit = evidence.relative()
    lengths = jnp.where(active, held * shares, jnp.inf)
    shortest = jnp.where(jnp.any(active), jnp.min(lengths), 1)
    # One over the lengths, in units of the shortest.
    short = jnp.where(active, shortest / lengths, 1 / _NO_LENGTH)
    short = jnp.where(mask, short, 0)
    size = power_of_two(jnp.max(jnp.abs(losses)))

    line = short * ray
    norm = jnp.where(jnp.any(mask), root(jnp.sum(line**2)), 1)
    line = line / jnp.where(norm > 0, norm, 1)
    off = lambda x: x - line * jnp.dot(line, x, precision=HIGHEST)
    aims = off(off(short * (losses / size)))
    along = jnp.matmul(cosines, line, precision=HIGHEST)
    outer = lambda x: jnp.outer(line, x) + jnp.outer(x, line)
    # `C` between vectors orthogonal to the line, and one on the line.
    level = jnp.dot(line, along, precision=HIGHEST)
    crossed = cosines - outer(along) + (level + 1) * jnp.outer(line, line)
    found = _pseudo_solve(crossed, jnp.stack([aims, off(along)], axis=1))
    fall, keep = off(found[:, 0]), line - off(found[:, 1])

    product = jnp.matmul(cosines, jnp.stack([fall, keep], axis=1), precision=HIGHEST)
    missed = root(jnp.sum(off(product[:, 0] - aims) ** 2))
    missed = missed / jnp.where(missed > 0, root(jnp.sum((short * losses / size) ** 2)), 1)
    square = jnp.dot(keep, product[:, 1], precision=HIGHEST) / jnp.where(norm > 0, norm, 1) ** 2
    gains = jnp.where(mask, product[:, 0] / jnp.where(mask, short, 1), 0)
    digits, power = shift(shortest, -exponent(shortest)), exponent(shortest) + exponent(unit) - 1
    bend = jnp.maximum(square, 0) * digits**2
    step, gap = _worst_first(ray, gains, exponent(size) - 1, bend, 2 * power, mask)

    # The weights of `d_H` go like one over a square, and may not fit the dtype.
    short = jnp.where(active, short, 0)
    falls = short * fall / digits**2
    keeps = step / jnp.where(norm > 0, norm, 1) * short * keep
    power = exponent(size) - 1 - 2 * power
    excess = power + exponent(jnp.max(jnp.abs(falls))) - (jnp.finfo(dtype).maxexp - 4)
    excess = jnp.maximum(excess, 0)
    weights = shift(falls, power - excess) + shift(keeps, -excess)
    gap = jnp.maximum(gap, missed).astype(jnp.float32)
    return weights, SolverReport(gap, jnp.ones((), jnp.int32))


def _worst_first(
    p: Float[Array, " T"],
    gains: Float[Array, " T"],
    gains_power: Int[Array, ""],
    bend: Float[Array, ""],
    bend_power: Int[Array, ""],
    mask: Bool[Array, " T"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Minimises `½ a x² + λ'q` with `x = p'λ` over the simplex; returns `x` and the duality gap.

    `q` is `gains` times a power of two, and `a` is `bend` times another. The points `(p_t, q_t)`
    span a polygon, and the minimum lies on one of its edges: all pairs are tried.
    """
    top = jnp.maximum(exponent(jnp.max(jnp.abs(gains))) + gains_power, exponent(bend) + bend_power)
    q, a = shift(gains, gains_power - top), shift(bend, bend_power - top)
    start, first = jnp.expand_dims(p, 1), jnp.expand_dims(q, 1)
    across, down = jnp.expand_dims(p, 0) - start, jnp.expand_dims(q, 0) - first
    curvature = a * across**2
    share = -(a * start * across + down) / jnp.where(curvature > 0, curvature, 1)
    share = jnp.where(curvature > 0, jnp.clip(share, 0, 1), 0)
    x, linear = start + share * across, first + share * down
    values = jnp.where(jnp.outer(mask, mask), a * x**2 / 2 + linear, jnp.inf)
    best = jnp.argmin(values)
    x, linear = x.ravel()[best], linear.ravel()[best]
    moves = a * x * p + q
    gap = a * x**2 + linear - lowest(moves, mask)
    largest = jnp.max(jnp.where(mask, jnp.abs(moves), 0))
    return x, jnp.maximum(gap, 0) / jnp.where(largest > 0, largest, 1)


@jax.custom_jvp
def _pseudo_solve(matrix: Float[Array, "T T"], wanted: Float[Array, "T 2"]) -> Float[Array, "T 2"]:
    """Solves a symmetric system in least squares; what rounding cannot tell from zero is zero."""
    return _inverse(matrix)(wanted)


def _inverse(
    matrix: Float[Array, "T T"],
) -> Callable[[Float[Array, "T 2"]], Float[Array, "T 2"]]:
    values, vectors = jnp.linalg.eigh(matrix)
    null = values <= 64 * float(jnp.finfo(matrix.dtype).eps) * values[-1]
    inverse = jnp.expand_dims(jnp.where(null, 0, 1 / jnp.where(null, 1, values)), 1)

    def solved(wanted: Float[Array, "T 2"]) -> Float[Array, "T 2"]:
        parts = jnp.matmul(vectors.T, wanted, precision=HIGHEST)
        return jnp.matmul(vectors, inverse * parts, precision=HIGHEST)

    def refined(wanted: Float[Array, "T 2"]) -> Float[Array, "T 2"]:
        found = solved(wanted)
        return found + solved(wanted - jnp.matmul(matrix, found, precision=HIGHEST))

    return refined


@_pseudo_solve.defjvp
def _pseudo_solve_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Differentiates `Ax = b`: the eigenvectors have no derivative where two values are equal."""
    (matrix, wanted), (change, move) = primals, tangents
    solve = _inverse(matrix)
    found = solve(wanted)
    return found, solve(move - jnp.matmul(change, found, precision=HIGHEST))

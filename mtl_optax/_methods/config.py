"""ConFIG: an update at the same angle to every task's gradient (Liu et al. 2024)."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, from_weighting, stateless
from mtl_optax._precision import HIGHEST
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.simplex import unit_rows
from mtl_optax._solvers.spectrum import eigen

Length = Literal["projection", "min", "max", "harmonic", "arithmetic", "geometric"]


@register(
    "Makes the same angle with every gradient, as long as all project on it.",
    "Liu et al. 2024, https://arxiv.org/abs/2408.11104",
    reads=frozenset({"gram"}),
    scale="sum",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous"},
)
def config(
    num_tasks: int,
    *,
    preference: Any | None = None,
    length: Length = "projection",
    combine: bool = True,
) -> Method:
    """Makes the same angle with every gradient: `d = ℓ e`, `e ∝ Û⁺ p` for the unit gradients `Û`.

    `e` is the unit vector whose cosines with the gradients are in proportion to the preference
    `p`, of all such vectors in their span; with `C = ÛÛ'` it is `Û'C⁻¹p / sqrt(p'C⁻¹p)`. It lies on
    the line of IMTL-G, always on the side that descends for every task.

    Args:
        num_tasks: the number T of tasks.
        preference: `p`, `(T,)`, positive, an array or a sequence of numbers; ones by default. Only
            its direction counts.
        length: `ℓ`, by what is summed over the tasks: "projection", `<g_t, e>`; or the cosines
            `<g_t, e> / ‖g_t‖` times one length for all, that of the shortest gradient, "min", of
            the longest, "max", or the "harmonic", "arithmetic" or "geometric" mean of all.
        combine: if False, return the rows `α_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Scale: sum. Weights can be negative. A zero
        gradient takes no part. Of linearly dependent gradients it takes the pseudo-inverse, and so
        the least-squares solution: equal gradients give their sum, opposite ones zero. An
        eigenvalue of `C` below 64 units of rounding of the largest counts as zero.

    When not to use:
        With more tasks than directions: where the angles cannot be equal, `d` conflicted with a
        task in 57 % of draws of four in two dimensions. Where gradients nearly oppose each other:
        `d` is short, but for "min" to "geometric" too it is the sum of small cosines.

    References:
        Liu et al., `ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks
        <https://arxiv.org/abs/2408.11104>`_, 2024. TorchJD 0.18 is "projection" with the
        pseudo-inverse. conflictfree 0.1.8 has all of the lengths, solves for `e` by least squares
        and, by default for two tasks, in a closed form that gives NaN for parallel, opposite and
        zero gradients.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.config(2)
        >>> gradients = jnp.array([[3.0, 0.0], [0.0, 1.0]])
        >>> params = jnp.zeros(2)
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([2., 2.], dtype=float32)
    """
    _checks.check_num_tasks("config", num_tasks)
    given = _checks.check_vector("config", "preference", preference, num_tasks, positive=True)
    _checks.check_choice("config", "length", length, get_args(Length))

    def weigh(evidence: Evidence) -> Float[Array, " T"]:
        cosines, held, active = unit_rows(evidence.gram, evidence.mask)
        wanted = jnp.ones_like(held) if given is None else given.astype(held.dtype)
        wanted = jnp.where(active, wanted, 0)
        largest = jnp.max(jnp.abs(wanted))
        wanted = wanted / jnp.where(largest > 0, largest, 1)
        point = _nearest(cosines, wanted)
        reached = jnp.matmul(cosines, point, precision=HIGHEST)
        square = jnp.dot(point, reached, precision=HIGHEST)
        # Of gradients that oppose each other, rounding is all that is left, and has no direction.
        noise = 64 * float(jnp.finfo(held.dtype).eps)
        known = jnp.sum(reached**2) > noise**2 * jnp.sum(wanted**2)
        lengths = held * evidence.relative()[0]
        counted = reached * _counted(length, lengths, active)
        total = jnp.sum(jnp.where(active, counted, 0))
        known &= square > 0
        return jnp.where(known, point / lengths * (total / jnp.where(known, square, 1)), 0)

    weighting = stateless("config", num_tasks, frozenset({"gram"}), weigh)
    return from_weighting(weighting, combine_tasks=combine)


def _counted(
    length: Length, lengths: Float[Array, " T"], active: Bool[Array, " T"]
) -> Float[Array, " T"]:
    """Returns the length that each task's cosine is multiplied with."""
    if length == "projection":
        return lengths
    if length == "max":
        return jnp.full_like(lengths, jnp.max(jnp.where(active, lengths, 0)))
    number = jnp.maximum(jnp.sum(active), 1).astype(lengths.dtype)
    if length == "arithmetic":
        return jnp.full_like(lengths, jnp.sum(jnp.where(active, lengths, 0)) / number)
    if length == "geometric":
        logs = jnp.where(active, jnp.log(lengths), 0)
        return jnp.full_like(lengths, jnp.exp(jnp.sum(logs) / number))
    shortest = jnp.min(jnp.where(active, lengths, jnp.inf))
    shortest = jnp.where(shortest < jnp.inf, shortest, 1)
    if length == "harmonic":
        shares = jnp.where(active, shortest / lengths, 0)
        shortest = shortest * number / jnp.where(jnp.any(active), jnp.sum(shares), 1)
    return jnp.full_like(lengths, shortest)


@jax.custom_jvp
def _nearest(cosines: Float[Array, "T T"], wanted: Float[Array, " T"]) -> Float[Array, " T"]:
    """Computes `C⁺ wanted`, the solution of `Cx = wanted` in the sense of least squares."""
    return _solver(cosines)(wanted)


def _solver(cosines: Float[Array, "T T"]) -> Any:
    """Returns the function that multiplies with the pseudo-inverse, `power` times."""
    values, vectors, null = eigen(cosines)

    def solve(x: Float[Array, " T"], power: int = 1) -> Float[Array, " T"]:
        parts = jnp.matmul(x, vectors, precision=HIGHEST)
        shares = jnp.where(null, 0, parts / jnp.where(null, 1, values) ** power)
        return jnp.matmul(vectors, shares, precision=HIGHEST)

    return solve


@_nearest.defjvp
def _nearest_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Differentiates the pseudo-inverse of a matrix whose rank does not change."""
    (cosines, wanted), (change, turn) = primals, tangents
    solve = _solver(cosines)
    times = lambda matrix, x: jnp.matmul(matrix, x, precision=HIGHEST)
    point = solve(wanted)
    missed = wanted - times(cosines, point)
    twice = times(change, solve(point))
    moved = solve(turn - times(change, point)) + solve(times(change, missed), 2)
    return point, moved + twice - times(cosines, solve(twice))

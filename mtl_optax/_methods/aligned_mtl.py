"""Aligned-MTL: the gradients' principal components, all of one length (Senushkin et al. 2023)."""

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._frame import Evidence, Method, from_weighting, stateless
from mtl_optax._precision import HIGHEST
from mtl_optax._registry import GRAM_METHOD, register
from mtl_optax._solvers.simplex import uniform
from mtl_optax._solvers.spectrum import Spectrum, spectrum

Scale = Literal["min", "median", "mean"]


@register(
    "Gives the principal components of the gradients one length.",
    "Senushkin et al. 2023, https://arxiv.org/abs/2305.19000",
    reads=frozenset({"gram"}),
    scale="mean",
    properties=GRAM_METHOD | {"deterministic", "equivariant", "one task", "homogeneous"},
)
def aligned_mtl(
    num_tasks: int,
    *,
    scale: Scale = "min",
    preference: Any | None = None,
    combine: bool = True,
) -> Method:
    """Aligns the gradients' principal components: `d = Σ_t α_t g_t` with `α = √s M^(-1/2) u`.

    With the singular values `σ` of the matrix `G` of the gradients, whose rows they are, and
    `M = GG'`, the rows of `√s M^(-1/2) G` are the nearest to those of `G`, up to their length, that
    are at right angles to each other and equally long: no task dominates, and none conflicts. `d`
    is their sum weighted by the preference `u`. The length is that of one of the `σ`, or of them
    all. Of linearly dependent gradients, `M^(-1/2)` is that of the pseudo-inverse.

    Args:
        num_tasks: the number T of tasks.
        scale: `√s`: "min", the smallest of the `σ` that are not zero; "median", of an even number
            the lower of the two in the middle; or "mean", the root of the mean of their squares.
        preference: `u`, `(T,)`, positive, an array or a sequence of numbers, used as given;
            `1 / (number of present tasks)` by default.
        combine: if False, return the rows `α_t g_t`, leaves `(T, *p.shape)`.

    Returns:
        A `GradientTransformationExtraArgs` from leaves `(T, *p.shape)` to leaves `p.shape`, called
        as `update(task_gradients, state, params)`. Scale: mean (ones as preference make it a sum).
        Weights can be negative, and `d` can conflict with a task: of gradients with norms
        `e^N(0,1)`, in 24 % of draws of three tasks in three dimensions and in 1 % of three in ten.
        A zero gradient takes no part. Which `σ` count as zero is decided on the cosines of the
        gradients, where eigenvalues below 64 units of rounding of the largest do, so that a
        gradient is not taken for a dependent one because it is short.

    When not to use:
        With "min" where a task has converged, or where gradients are nearly dependent: the update
        is as short as the smallest `σ`. With "mean" there, `d` moves far along a direction that is
        mostly noise.

    References:
        Senushkin et al., `Independent Component Alignment for Multi-Task Learning
        <https://arxiv.org/abs/2305.19000>`_, 2023. Public codes differ in scale: TorchJD 0.18 has
        `u = 1/T` by default; LibMTL (main of May 2025, "min" alone) and the authors' code have
        ones, T times as much; they call "mean" "rmse". All decide the rank on the eigenvalues of
        `M` in its own dtype, below T units of rounding of the largest: in float32 a gradient
        2000 times shorter than another is dropped.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.aligned_mtl(2)
        >>> gradients = jnp.array([[3.0, 0.0], [0.0, 1.0]])
        >>> params = jnp.zeros(2)
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([0.5, 0.5], dtype=float32)
    """
    _checks.check_num_tasks("aligned_mtl", num_tasks)
    _checks.check_choice("aligned_mtl", "scale", scale, get_args(Scale))
    given = _checks.check_vector("aligned_mtl", "preference", preference, num_tasks, positive=True)

    def weigh(evidence: Evidence) -> Float[Array, " T"]:
        gram, mask = evidence.gram, evidence.mask
        u = uniform(mask, gram.dtype) if given is None else jnp.where(mask, given, 0)
        return _aligned(scale, gram, u.astype(gram.dtype), evidence.relative()[0], mask)

    weighting = stateless("aligned_mtl", num_tasks, frozenset({"gram"}), weigh)
    return from_weighting(weighting, combine_tasks=combine)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _aligned(
    mode: Scale,
    gram: Float[Array, "T T"],
    u: Float[Array, " T"],
    scale: Float[Array, " T"],
    mask: Bool[Array, " T"],
) -> Float[Array, " T"]:
    """Computes `√s M^(-1/2) u` for `M = DAD`, with `A` in `gram` and `D` in `scale`."""
    found = spectrum(gram, scale, mask)
    return _inverse_root(found, _length(mode, found)[0], u)


@_aligned.defjvp
def _aligned_jvp(mode: Scale, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """By divided differences of `λ^(-1/2)`, which exist where eigenvalues are equal."""
    (gram, u, scale, mask), (change, turn, *_) = primals, tangents  # Scales are constants.
    found = spectrum(gram, scale, mask)
    length, shares = _length(mode, found)
    result = _inverse_root(found, length, u)
    column, row = jnp.expand_dims(found.sizes, 1), jnp.expand_dims(found.sizes, 0)
    left, right = jnp.expand_dims(found.kept, 1), jnp.expand_dims(found.kept, 0)
    # Each component in the unit of its own size, lest their squares underflow.
    sides = found.basis * jnp.expand_dims(scale, 0) / column
    move = _product(_product(sides, jnp.where(jnp.outer(mask, mask), change, 0)), sides.T)
    # A task that depends on the others turns with them.
    turns = jnp.where(left, 1 / column**2, 0) + jnp.where(right, 1 / row**2, 0)
    slopes = jnp.where(left & right, -1 / (column + row), turns)
    moved = _product(_product(slopes * move, _product(found.basis, u)), found.basis)
    longer = jnp.dot(shares, jnp.diagonal(move), precision=HIGHEST) / 2
    return result, length * moved + longer * result + _inverse_root(found, length, turn)


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=HIGHEST)


def _inverse_root(
    found: Spectrum, length: Float[Array, ""], u: Float[Array, " T"]
) -> Float[Array, " T"]:
    parts = jnp.where(found.kept, _product(found.basis, u) * (length / found.sizes), 0)
    return _product(parts, found.basis)


def _length(mode: Scale, found: Spectrum) -> tuple[Float[Array, ""], Float[Array, " T"]]:
    """Returns `√s`, and how far it follows each of the `σ`, in shares."""
    sizes, kept = found.sizes, found.kept
    number = jnp.sum(kept)
    if mode == "mean":
        squares = jnp.where(kept, sizes**2, 0)
        total = jnp.sum(squares)
        mean = total / jnp.maximum(number, 1).astype(sizes.dtype)
        total = jnp.where(total > 0, total, 1)
        return jnp.sqrt(jnp.where(number > 0, mean, 1)), squares / total
    rank = jnp.argsort(jnp.where(kept, sizes, jnp.inf))
    chosen = rank[jnp.maximum(number - 1, 0) // 2 if mode == "median" else 0]
    return sizes[chosen], (jnp.arange(len(sizes)) == chosen).astype(sizes.dtype)

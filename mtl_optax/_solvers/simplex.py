"""What the solvers over the simplex of task weights share."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from mtl_optax._precision import root


class Solution(NamedTuple):
    """What a solver returns.

    Attributes:
        weights: `(T,)`, on the simplex, zero for absent tasks.
        gap: `()`, an upper bound on objective minus optimum, in the units of the objective.
        iterations: `()` int32, how many iterations it took.
    """

    weights: Float[Array, " T"]
    gap: Float[Array, ""]
    iterations: Int[Array, ""]


def present(mask: Bool[Array, " T"] | None, like: Float[Array, "T T"]) -> Bool[Array, " T"]:
    """Returns the mask of the tasks to solve for: all where `mask` is None, or has none.

    Whoever has no tasks ignores the solution, and so it need not be a division by zero.
    """
    return jnp.ones(like.shape[0], bool) if mask is None else mask | ~jnp.any(mask)


def lowest(values: Float[Array, " T"], mask: Bool[Array, " T"]) -> Float[Array, ""]:
    """Returns the smallest of `values` over `mask`; NaN if one of them is NaN."""
    return jnp.min(jnp.where(mask, values, jnp.inf))


def unit_rows(
    gram: Float[Array, "T T"], mask: Bool[Array, " T"]
) -> tuple[Float[Array, "T T"], Float[Array, " T"], Bool[Array, " T"]]:
    """Divides the rows behind a Gram matrix by their lengths.

    Returns:
        The cosines `(T, T)`, the lengths `(T,)` and which tasks are present with a length. The
        others form an identity block, and their lengths are one.
    """
    lengths = root(jnp.where(mask, jnp.diagonal(gram), 0))
    active = mask & (lengths > 0)
    lengths = jnp.where(active, lengths, 1)
    cosines = jnp.where(jnp.outer(active, active), gram / jnp.outer(lengths, lengths), 0)
    return cosines + jnp.diag(jnp.where(active, 0, 1).astype(gram.dtype)), lengths, active


def uniform(mask: Bool[Array, " T"], dtype: Any = jnp.float32) -> Float[Array, " T"]:
    """Returns `1 / (number of present tasks)` for each present task, zero for the others."""
    return mask.astype(dtype) / jnp.maximum(jnp.sum(mask), 1).astype(dtype)


def project(values: Float[Array, " T"], total: Any = 1.0) -> Float[Array, " T"]:
    """Returns the nearest non-negative values that sum to `total`, in the dtype of `values`."""
    # Optax's projection promotes dtypes: strict JAX forbids it, and x64 mode makes it float64.
    with jax.numpy_dtype_promotion("standard"):
        return optax.projections.projection_simplex(values, total).astype(values.dtype)


def project_present(
    values: Float[Array, " T"], mask: Bool[Array, " T"], total: Any = 1.0
) -> Float[Array, " T"]:
    """Projects the present tasks' values on those that are not negative and sum to `total`.

    Values of minus infinity are as good as far ones.

    Returns:
        `(T,)`, zero for absent tasks.
    """
    total = jnp.asarray(total, values.dtype)
    # The projection takes no notice of what lies `total` below the largest value.
    depths = jnp.where(mask, values - jnp.max(jnp.where(mask, values, -jnp.inf)), -jnp.inf)
    return jnp.where(mask, project(jnp.maximum(depths, -total), total), 0)

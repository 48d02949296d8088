"""Logarithms of losses, and of weights that losses move."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_LARGEST_SCORE = 1e30  # No step could bring it back, and sums of such stay finite.
_LARGEST = 80.0  # exp of it is far within float32, in which weights are kept.


def logs_of_positive(
    losses: Float[Array, " T"], mask: Bool[Array, " T"]
) -> tuple[Float[Array, " T"], Bool[Array, " T"]]:
    """Returns the logarithms of the present losses above zero, zero for the others; and of which.

    A NaN stays one.
    """
    counted = mask & ~(losses <= 0)
    return jnp.log(jnp.where(counted, losses, 1)), counted


def times_exp(
    factor: Float[Array, "..."], exponents: Float[Array, " T"], counted: Bool[Array, " T"]
) -> Float[Array, " T"]:
    """Returns `factor exp(exponents)` for those counted, never infinite, and zero for others."""
    return jnp.where(counted, factor * jnp.exp(jnp.clip(exponents, -_LARGEST, _LARGEST)), 0)


def add_losses(
    scores: Float[Array, " T"], rate: Any, losses: Float[Array, " T"], mask: Bool[Array, " T"]
) -> Float[Array, " T"]:
    """Returns `scores + rate losses`, float32, for the present tasks, never infinite."""
    moved = scores + jnp.asarray(rate, jnp.float32) * losses.astype(jnp.float32)
    return jnp.where(mask, jnp.clip(moved, -_LARGEST_SCORE, _LARGEST_SCORE), scores)

"""Logarithms of losses, for methods that descend them."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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

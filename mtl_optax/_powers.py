"""Powers of two, by which numbers are scaled without rounding."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Where numbers are scaled, the largest is brought below two to this: sums of them do not overflow,
# and those that are 1e60 times smaller do not vanish.
HELD = 100


def exponent(x: Float[Array, "..."]) -> Int[Array, "..."]:
    """Returns the least `n` with `|x| < 2^n`, for zero that of the dtype; zero if not finite."""
    powers = jnp.frexp(jax.lax.stop_gradient(x))[1].astype(jnp.int32)
    return jnp.where(x == 0, jnp.finfo(x.dtype).minexp, powers)


def shift(x: Float[Array, "..."], n: Int[Array, "..."] | int) -> Float[Array, "..."]:
    """Returns `x 2^n`, in two steps, lest the power overflow where the product does not."""
    # Twice as far, any number is zero or infinite.
    widest = 2 * jnp.finfo(x.dtype).maxexp - 4
    n = jnp.clip(jnp.asarray(n, jnp.int32), -widest, widest)
    half = n // 2
    one = jnp.ones((), x.dtype)
    return x * jnp.ldexp(one, half) * jnp.ldexp(one, n - half)


def common_unit(powers: Int[Array, " T"], counts: Bool[Array, " T"]) -> Int[Array, ""]:
    """Returns the power of two to count numbers below `2^powers` in; zero where none counts."""
    largest = jnp.max(jnp.where(counts, powers, jnp.iinfo(powers.dtype).min + HELD))
    return jnp.where(jnp.any(counts), largest - HELD, 0)

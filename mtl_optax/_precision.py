"""The dtypes to compute in, and powers of two, by which numbers are scaled without rounding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

HIGHEST = jax.lax.Precision.HIGHEST


def at_least_float32(*arrays: Any) -> jnp.dtype[Any]:
    """Returns the real dtype to compute in: float64 if any array has its digits, else float32."""
    double = (jnp.float64, jnp.complex128)
    wide = any(jnp.result_type(array) in double for array in arrays)
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


def root(x: Float[Array, " *n"]) -> Float[Array, " *n"]:
    """Returns the square root; zero, and with a derivative of zero, where `x` is not positive."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0 * x)


def power_of_two(x: Float[Array, " *n"]) -> Float[Array, " *n"]:
    """Returns the largest power of two not above `x`, and one for zero and non-finite `x`.

    And for subnormal ones, which many devices take for zero. It counts as a constant where
    derivatives are taken.
    """
    x = jax.lax.stop_gradient(x)
    # The bits of the exponent alone, which are those of infinity.
    bits = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    exponents = np.array(np.inf, x.dtype).view(bits)
    power = jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(x, bits) & exponents, x.dtype)
    return jnp.where((x > 0) & (power > 0) & jnp.isfinite(x), power, 1)


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

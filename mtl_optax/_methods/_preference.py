"""What the methods that aim at one ray of losses share."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._precision import HIGHEST, power_of_two, root


def check_preference(method: str, preference: Any, num_tasks: int) -> Float[Array, " T"]:
    """Returns a preference as an array; raises unless it is one positive number per task."""
    _checks.check_num_tasks(method, num_tasks)
    array = _checks.check_vector(method, "preference", preference, num_tasks, positive=True)
    if array is None:
        raise TypeError(f"{method}: preference must hold {num_tasks} real numbers, got None.")
    return array


def of_present(
    preference: Float[Array, " T"], mask: Bool[Array, " T"], dtype: Any
) -> Float[Array, " T"]:
    """Returns the preference of the present tasks, the largest one, and zeros."""
    kept = jnp.where(mask, preference.astype(dtype), 0)
    largest = jnp.max(kept)
    return kept / jnp.where(largest > 0, largest, 1)


def off_ray(
    losses: Float[Array, " T"], preference: Float[Array, " T"], mask: Bool[Array, " T"], dtype: Any
) -> tuple[Float[Array, " T"], Float[Array, ""]]:
    """Returns the unit vector from the ray of a preference to the losses, and the distance.

    On the ray the vector is zero.
    """
    ray = of_present(preference, mask, dtype)
    ray = ray / jnp.where(jnp.any(mask), root(jnp.sum(ray**2)), 1)
    losses = jnp.where(mask, losses.astype(dtype), 0)
    unit = power_of_two(jnp.max(jnp.abs(losses)))
    losses = losses / unit
    off = losses - ray * jnp.dot(ray, losses, precision=HIGHEST)
    # What is left of the part along the ray is rounding.
    off = off - ray * jnp.dot(ray, off, precision=HIGHEST)
    length = root(jnp.sum(off**2))
    return off / jnp.where(length > 0, length, 1), length * unit

"""How the learning rate goes on during a training: factors for `Problem.schedule`."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float


def warm_up_and_cosine(warm_up: float) -> Callable[[Float[Array, "*s"]], Float[Array, "*s"]]:
    """Up in a straight line for this part of the training, then half a cosine down to zero."""

    def factor(done: Float[Array, "*s"]) -> Float[Array, "*s"]:
        falling = 0.5 * (1 + jnp.cos(jnp.pi * (done - warm_up) / (1 - warm_up)))
        return jnp.where(done < warm_up, done / max(warm_up, 1e-6), falling)

    return factor


def halved_halfway(done: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """One for the first half of the training, then a half: 100 of 200 epochs in MTAN's code."""
    return jnp.where(done < 0.5, 1.0, 0.5)

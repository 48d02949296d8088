"""Scalars, one per task, that a method learns with an optax optimiser of their own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from mtl_optax._trees import select_tasks

# Beyond it an optimiser's squares overflow for good, and the scalar would never move again.
_LARGEST_GRADIENT = 1e18


def default_adam(learning_rate: float) -> optax.GradientTransformation:
    """Returns Adam, whose square root has a derivative where a scalar has never had a gradient."""
    return optax.adam(learning_rate, eps_root=1e-20)


class LearnedScalars(NamedTuple):
    """Per-task scalars and the state of their optimiser, each leaf with a leading task axis.

    Each task has an optimiser state of its own, so that a task that is absent stands still while
    the others go on.
    """

    values: Float[Array, " T"]
    optimizer: Any

    @classmethod
    def create(
        cls, optimizer: optax.GradientTransformation, initial: Float[Array, " T"]
    ) -> "LearnedScalars":
        """Starts at `initial`."""
        return cls(initial, jax.vmap(optimizer.init)(initial))

    def descend(
        self,
        optimizer: optax.GradientTransformation,
        gradients: Float[Array, " T"],
        mask: Bool[Array, " T"],
    ) -> "LearnedScalars":
        """Takes one optimiser step for the tasks in `mask`."""
        gradients = jnp.asarray(gradients, self.values.dtype)
        gradients = jnp.clip(gradients, -_LARGEST_GRADIENT, _LARGEST_GRADIENT)
        with jax.numpy_dtype_promotion("standard"):  # The bias correction of Optax's Adam needs it.
            updates, state = jax.vmap(optimizer.update)(gradients, self.optimizer, self.values)
        stepped = LearnedScalars(self.values + updates, state)
        return LearnedScalars(*select_tasks(mask, tuple(stepped), tuple(self)))

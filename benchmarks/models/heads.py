"""One linear head for each task, on features that the tasks share."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Heads(nnx.Module):
    """One linear head for each task, all in two leaves whose leading axis is the task.

    Where every task has inputs of its own, as under `mtl_optax.per_task_value_and_grad`, the loss
    of one task sees that task's slice of the leaves, and the same call applies that one head.
    """

    def __init__(self, num_tasks: int, features: int, classes: int, *, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.lecun_normal(batch_axis=0)
        self.kernel = nnx.Param(init(rngs.params(), (num_tasks, features, classes)))
        self.bias = nnx.Param(jnp.zeros((num_tasks, classes)))

    def __call__(self, features: Float[Array, "n d"]) -> Float[Array, "n *t c"]:
        """Features to the logits of every task, or of one.

        The kernel decides: ``(t, d, c)``, as initialised, gives ``(n, t, c)``; one task's slice
        ``(d, c)`` gives ``(n, c)``.
        """
        return jnp.einsum("nd,...dc->n...c", features, self.kernel[...]) + self.bias[...][None]

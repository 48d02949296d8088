"""Dense layers that several tasks share, with one linear head for each of them."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from benchmarks.models.heads import Heads

Activation = Callable[[Array], Array]


class MLP(nnx.Module):
    """Dense layers, each followed by the activation."""

    def __init__(
        self, inputs: int, widths: Sequence[int], activation: Activation, *, rngs: nnx.Rngs
    ) -> None:
        self.layers = nnx.data(
            [nnx.Linear(*ends, rngs=rngs) for ends in pairwise((inputs, *widths))]
        )
        self.activation = activation

    def __call__(self, inputs: Float[Array, "n p"]) -> Float[Array, "n d"]:
        """Inputs to features."""
        for layer in self.layers:
            inputs = self.activation(layer(inputs))
        return inputs


class MultiTaskMLP(nnx.Module):
    """The leaves under ``trunk`` are shared, those under ``heads`` belong to the tasks."""

    def __init__(
        self,
        *,
        inputs: int,
        widths: Sequence[int],
        num_tasks: int,
        outputs: int,
        activation: Activation = nnx.elu,
        linear: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        """``linear``: whether heads see the inputs, too, beside what the layers make of them."""
        self.trunk = MLP(inputs, widths, activation, rngs=rngs)
        seen = (inputs, *widths)[-1] + (inputs if linear else 0)
        self.heads = Heads(num_tasks, seen, outputs, rngs=rngs)
        self.linear = linear

    def __call__(self, inputs: Float[Array, "n p"]) -> Float[Array, "n *t c"]:
        """Inputs to the outputs of every task, or of one (see `Heads`)."""
        features = self.trunk(inputs)
        return self.heads(jnp.concatenate([features, inputs], -1) if self.linear else features)

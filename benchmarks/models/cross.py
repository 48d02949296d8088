"""Crosses of features beside dense layers, with a tower for each task.

The networks have one output; for several tasks, a tower for each takes the place of the last layer.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from benchmarks.models.experts import Parallel, TabularInput
from benchmarks.models.mlp import MLP


class Cross(nnx.Module):
    """Layers that multiply the input with what they have made of it.

    `x_{l+1} = x_0 (w_l'x_l) + b_l + x_l`, with a vector for each layer (Deep & Cross Network, Wang
    et al. 2017), or `x_{l+1} = x_0 * (W_l x_l + b_l) + x_l`, with a matrix (DCN-V2, 2021).
    """

    def __init__(self, features: int, layers: int, *, matrix: bool, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.lecun_normal()
        width = features if matrix else 1
        self.kernels = nnx.data(
            [nnx.Param(init(rngs.params(), (features, width))) for _ in range(layers)]
        )
        self.biases = nnx.data([nnx.Param(jnp.zeros(features)) for _ in range(layers)])
        self.matrix = matrix

    def __call__(self, inputs: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Features to as many features."""
        x = inputs
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            shift = bias[...][None]
            along = x @ kernel[...]
            x = (inputs * (along + shift) if self.matrix else inputs * along + shift) + x
        return x


class DCN(nnx.Module):
    """Cross layers beside dense ones, which all tasks share, and a tower for each task."""

    matrix = False

    def __init__(
        self,
        *,
        num_tasks: int,
        numeric: int,
        cardinalities: Sequence[int],
        embedding: int,
        layers: int,
        widths: Sequence[int],
        tower: Sequence[int],
        rngs: nnx.Rngs,
    ) -> None:
        columns = TabularInput(numeric, cardinalities, embedding, rngs=rngs)
        self.trunk: Any = nnx.Dict(
            input=columns,
            cross=Cross(columns.features, layers, matrix=self.matrix, rngs=rngs),
            deep=MLP(columns.features, widths, nnx.relu, rngs=rngs),
        )
        features = columns.features + (columns.features, *widths)[-1]
        self.heads: Any = nnx.Dict(towers=Parallel((num_tasks,), features, (*tower, 1), rngs=rngs))

    def __call__(
        self, numeric: Float[Array, "n p"], categories: Int[Array, "n q"]
    ) -> Float[Array, "n t"]:
        """Columns to the logit of every task."""
        x = self.trunk.input(numeric, categories)
        features = jnp.concatenate([self.trunk.cross(x), self.trunk.deep(x)], axis=1)
        return self.heads.towers(features[:, None])[..., 0]


class DCNV2(DCN):
    """With a matrix in each cross layer."""

    matrix = True

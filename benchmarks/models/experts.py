"""Backbones for tables, from one shared bottom to experts mixed by a gate for each task.

A leaf is under ``heads``, with a leading task axis, exactly where a task's slice of it moves no
loss but that task's; every other leaf is under ``trunk``.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from benchmarks.models.mlp import MLP


class TabularInput(nnx.Module):
    """Numeric columns as they are, beside one embedding for each column of categories.

    The embeddings lie in one table, which is read by one gather.
    """

    def __init__(
        self, numeric: int, cardinalities: Sequence[int], embedding: int, *, rngs: nnx.Rngs
    ) -> None:
        ends = np.cumsum([0, *cardinalities]).tolist()
        self.offsets = tuple(ends[:-1])
        init = nnx.initializers.normal(0.1)
        self.table = nnx.Param(init(rngs.params(), (ends[-1], embedding)))
        self.features = numeric + len(cardinalities) * embedding

    def __call__(
        self, numeric: Float[Array, "n p"], categories: Int[Array, "n q"]
    ) -> Float[Array, "n d"]:
        """Columns to features; each category counts from 0 to its column's cardinality."""
        rows = categories + jnp.array(self.offsets, jnp.int32)[None]
        embedded = self.table[...][rows].reshape(len(numeric), self.features - numeric.shape[1])
        return jnp.concatenate([numeric, embedded], axis=-1)


class Parallel(nnx.Module):
    """Dense layers with ReLU between them, one copy for each index of the ``leading`` axes."""

    def __init__(
        self,
        leading: tuple[int, ...],
        inputs: int,
        widths: Sequence[int],
        *,
        bias: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        init = nnx.initializers.lecun_normal(batch_axis=tuple(range(len(leading))))
        shapes = [(*leading, *ends) for ends in pairwise((inputs, *widths))]
        self.kernels = nnx.data([nnx.Param(init(rngs.params(), shape)) for shape in shapes])
        self.biases = nnx.data(
            [nnx.Param(jnp.zeros((*leading, shape[-1]))) for shape in shapes] if bias else []
        )

    def __call__(self, inputs: Float[Array, "n *#k d"]) -> Float[Array, "n *k h"]:
        """Inputs to outputs; along a leading axis of length 1 all copies see the same."""
        for layer, kernel in enumerate(self.kernels):
            inputs = nnx.relu(inputs) if layer else inputs
            inputs = jnp.einsum("n...d,...dh->n...h", inputs, kernel[...])
            if self.biases:
                inputs = inputs + self.biases[layer][...][None]
        return inputs


class SharedBottom(nnx.Module):
    """Dense layers that all tasks share, and a tower for each task."""

    def __init__(
        self,
        *,
        num_tasks: int,
        numeric: int,
        cardinalities: Sequence[int],
        embedding: int,
        widths: Sequence[int],
        tower: Sequence[int],
        rngs: nnx.Rngs,
    ) -> None:
        columns = TabularInput(numeric, cardinalities, embedding, rngs=rngs)
        self.trunk: Any = nnx.Dict(
            input=columns, bottom=MLP(columns.features, widths, nnx.relu, rngs=rngs)
        )
        features = (columns.features, *widths)[-1]
        self.heads: Any = nnx.Dict(towers=Parallel((num_tasks,), features, (*tower, 1), rngs=rngs))

    def __call__(
        self, numeric: Float[Array, "n p"], categories: Int[Array, "n q"]
    ) -> Float[Array, "n t"]:
        """Columns to the logit of every task."""
        features = self.trunk.bottom(self.trunk.input(numeric, categories))
        return self.heads.towers(features[:, None])[..., 0]


class MMoE(nnx.Module):
    """Experts that all tasks share, mixed by a gate for each task (Ma et al., 2018)."""

    def __init__(
        self,
        *,
        num_tasks: int,
        numeric: int,
        cardinalities: Sequence[int],
        embedding: int,
        experts: int,
        widths: Sequence[int],
        tower: Sequence[int],
        rngs: nnx.Rngs,
    ) -> None:
        columns = TabularInput(numeric, cardinalities, embedding, rngs=rngs)
        self.trunk: Any = nnx.Dict(
            input=columns, experts=Parallel((experts,), columns.features, widths, rngs=rngs)
        )
        self.heads: Any = nnx.Dict(
            gates=Parallel((num_tasks,), columns.features, (experts,), bias=False, rngs=rngs),
            towers=Parallel((num_tasks,), widths[-1], (*tower, 1), rngs=rngs),
        )

    def __call__(
        self, numeric: Float[Array, "n p"], categories: Int[Array, "n q"]
    ) -> Float[Array, "n t"]:
        """Columns to the logit of every task."""
        inputs = self.trunk.input(numeric, categories)[:, None]
        experts = nnx.relu(self.trunk.experts(inputs))
        gates = nnx.softmax(self.heads.gates(inputs))
        return self.heads.towers(jnp.einsum("nte,neh->nth", gates, experts))[..., 0]


class PLE(nnx.Module):
    """Experts of the tasks beside shared ones, in levels (Tang et al., 2020).

    At each level a task's gate mixes its own and the shared experts into the task's input of the
    next level, and a shared gate mixes all experts into that of the next shared experts. Through
    the shared gate the task experts of every level but the last reach all tasks, and so do the
    task gates two levels or more before the last: those are shared leaves.
    """

    def __init__(
        self,
        *,
        num_tasks: int,
        numeric: int,
        cardinalities: Sequence[int],
        embedding: int,
        shared_experts: int,
        task_experts: int,
        levels: int,
        widths: Sequence[int],
        tower: Sequence[int],
        rngs: nnx.Rngs,
    ) -> None:
        columns = TabularInput(numeric, cardinalities, embedding, rngs=rngs)
        inputs = [columns.features] + [widths[-1]] * (levels - 1)
        everyone = num_tasks * task_experts + shared_experts
        experts = [Parallel((num_tasks, task_experts), d, widths, rngs=rngs) for d in inputs]
        gates = [
            Parallel((num_tasks,), d, [task_experts + shared_experts], bias=False, rngs=rngs)
            for d in inputs
        ]
        self.trunk: Any = nnx.Dict(
            input=columns,
            shared_experts=nnx.data(
                [Parallel((shared_experts,), d, widths, rngs=rngs) for d in inputs]
            ),
            shared_gates=nnx.data(
                [Parallel((), d, [everyone], bias=False, rngs=rngs) for d in inputs[:-1]]
            ),
            task_experts=nnx.data(experts[:-1]),
            task_gates=nnx.data(gates[:-2]),
        )
        self.heads: Any = nnx.Dict(
            task_experts=nnx.data(experts[-1:]),
            task_gates=nnx.data(gates[-2:]),
            towers=Parallel((num_tasks,), widths[-1], (*tower, 1), rngs=rngs),
        )

    def __call__(
        self, numeric: Float[Array, "n p"], categories: Int[Array, "n q"]
    ) -> Float[Array, "n t"]:
        """Columns to the logit of every task."""
        trunk, heads = self.trunk, self.heads
        task_experts = [*trunk.task_experts, *heads.task_experts]
        task_gates = [*trunk.task_gates, *heads.task_gates]
        shared = trunk.input(numeric, categories)
        tasks = shared[:, None]
        for level, shared_experts in enumerate(trunk.shared_experts):
            of_shared = nnx.relu(shared_experts(shared[:, None]))
            of_tasks = nnx.relu(task_experts[level](tasks[:, :, None]))
            gates = nnx.softmax(task_gates[level](tasks))
            own, common = jnp.split(gates, [of_tasks.shape[2]], axis=-1)
            tasks = (own[..., None] * of_tasks).sum(axis=2)
            tasks = tasks + jnp.einsum("nte,neh->nth", common, of_shared)
            if level < len(trunk.shared_gates):
                of_tasks = of_tasks.reshape(len(shared), -1, of_tasks.shape[-1])
                gate = nnx.softmax(trunk.shared_gates[level](shared))
                shared = (gate[..., None] * jnp.concatenate([of_tasks, of_shared], 1)).sum(axis=1)
        return heads.towers(tasks)[..., 0]

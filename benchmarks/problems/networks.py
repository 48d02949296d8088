"""What suites do alike: Flax networks as functions of their parameters, and common scores."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree
from sklearn.metrics import roc_auc_score

from benchmarks.compiler import QUICK
from benchmarks.problems.options import Precision


class Network(NamedTuple):
    """A Flax NNX module as a pair of functions."""

    init: Callable[[PRNGKeyArray], PyTree]
    apply: Callable[..., Array]
    """Parameters and inputs to outputs."""


def network(make: Callable[[nnx.Rngs], Any]) -> Network:
    """The module that ``make`` builds, all of whose state is parameters."""
    module = merged(make)
    return Network(
        init=jax.jit(lambda key: nnx.state(make(nnx.Rngs(key))), compiler_options=QUICK),
        apply=lambda params, *inputs: module(params)(*inputs),
    )


def merged(make: Callable[[nnx.Rngs], Any]) -> Callable[[PyTree], Any]:
    """Parameters to the module that ``make`` builds, for what else it can do."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    return lambda params: nnx.merge(graph, params)


class NormalisedNetwork(NamedTuple):
    """A Flax NNX module with batch normalisation, as functions of all that it holds."""

    init: Callable[[PRNGKeyArray], PyTree]
    """Key to parameters."""
    statistics: PyTree
    """Running ones, to start from."""
    apply: Callable[..., tuple[PyTree, PyTree]]
    """Parameters, statistics, whether this is a step of a training, and inputs to outputs and the
    next statistics: the last arguments and results of `Problem.forward`."""


def normalised_network(
    make: Callable[[nnx.Rngs], Any], precision: Precision = "float32"
) -> NormalisedNetwork:
    """The module that ``make`` builds, whose state is parameters and running statistics.

    It computes in ``precision``, of copies of parameters and inputs; what is kept and what it says
    are float32.
    """
    graph = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def state(key: PRNGKeyArray, kind: Any) -> PyTree:
        return nnx.state(make(nnx.Rngs(key)), kind)

    def apply(params: PyTree, statistics: PyTree, training: bool, *inputs: Any) -> Any:
        params, inputs = _in_precision(precision, (params, inputs))
        # Flax changes statistics in place: copies, made where the differentiation is traced.
        model = nnx.merge(graph, params, jax.tree.map(lambda kept: kept, statistics))
        model.set_attributes(use_running_average=not training)
        return _in_precision("float32", model(*inputs)), nnx.state(model, nnx.BatchStat)

    compiled = jax.jit(state, static_argnums=1, compiler_options=QUICK)
    return NormalisedNetwork(
        init=lambda key: compiled(key, nnx.Param),
        statistics=compiled(jax.random.key(0), nnx.BatchStat),
        apply=apply,
    )


def _in_precision(precision: Precision, tree: PyTree) -> PyTree:
    """Real numbers alone: the others stay as they are."""
    return jax.tree.map(
        lambda x: jnp.asarray(x, precision) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def side_by_side(made: Network, members: int) -> Network:
    """As many such networks, each with a draw of its own; their outputs lie along a last axis.

    Leaves of ``heads`` keep the tasks as their first axis; the members are the next.
    """

    def axis(path: Any, _: Any = None) -> int:
        return 0 if in_trunk(path) else 1

    def init(key: PRNGKeyArray) -> PyTree:
        drawn = [made.init(one) for one in jax.random.split(key, members)]
        return jax.tree_util.tree_map_with_path(
            lambda path, *leaves: jnp.stack(leaves, axis(path)), *drawn
        )

    def apply(params: PyTree, *inputs: Any) -> Array:
        axes = jax.tree_util.tree_map_with_path(axis, params)
        return jax.vmap(made.apply, (axes, *[None] * len(inputs)), -1)(params, *inputs)

    return Network(init, apply)


def in_trunk(path: Any) -> bool:
    """Whether all tasks share the parameter: those of ``heads`` belong to one task each."""
    return "trunk" in jax.tree_util.keystr(path[:1])


def head_of(tasks: Sequence[str]) -> Callable[[Any], int]:
    """For `Problem.task_of`: the leaves under ``heads`` and a task's name are that task's."""
    return lambda path: tasks.index(path[1].key)


def accuracy(
    logits: Float[np.ndarray, "t n c"],
    labels: Int[np.ndarray, "t n"],
    rows: Bool[np.ndarray, "t n"],
) -> Float[np.ndarray, " t"]:
    """Percentage of the chosen rows that are classified right; NaN where none is chosen."""
    right = (logits.argmax(axis=-1) == labels) & rows
    count = rows.sum(axis=1)
    return 100 * np.where(count > 0, right.sum(axis=1) / np.maximum(count, 1), np.nan)


def auc(
    logits: Float[np.ndarray, "n t"], labels: Float[np.ndarray, "n t"]
) -> Float[np.ndarray, " t"]:
    """Area under the ROC curve in percent; NaN where a task has one class only."""
    return 100 * np.array(
        [
            roc_auc_score(of_task, score) if 0 < of_task.mean() < 1 else np.nan
            for of_task, score in zip(labels.T, logits.T, strict=True)
        ]
    )

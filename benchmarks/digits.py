"""The suite ``digits``: two scanned digits overlaid on one canvas, one task for each.

The learning rate was chosen once, for all methods together, by the validation accuracy that the
table's caption gives (mean of baselines, methods and seeds), from

    for rate in 1e-3 2e-3 5e-3 1e-2 2e-2; do
        python -m benchmarks digits --learning-rate $rate --out results/rate-$rate
    done

which gave 85.7, 87.8, 89.4, 89.1 and 84.2 %. (These runs print test scores too, which had no say.)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from benchmarks.data import CANVAS, Canvases, multi_digits
from benchmarks.models.conv import MultiTaskConvNet
from benchmarks.suite import Suite
from benchmarks.training import Problem

TASKS = ("upper left", "lower right")
DATA: dict[str, Any] = {"train": 4000, "validation": 1000, "test": 1000, "seed": 0}
MODEL: dict[str, Any] = {
    "size": CANVAS,
    "num_tasks": 2,
    "classes": 10,
    "channels": (8, 16),
    "features": 24,
}


@dataclass(frozen=True, kw_only=True)
class Digits(Suite):
    """Read two overlaid scanned digits: MultiMNIST from scikit-learn's 8 x 8 scans.

    Both tasks share a convolutional trunk that is narrow on purpose, so that they compete.
    Needs no download.
    """

    name: ClassVar[str] = "digits"
    learning_rate: float = 5e-3
    """Of Adam, the same for every method."""
    out: Path = Path("results/digits")
    """Folder for the JSON files and pictures."""

    def problem(self) -> Problem:
        """The canvases, the network and their losses."""
        return digits_problem(batch_size=self.batch_size)


def digits_problem(*, batch_size: int) -> Problem:
    """The data, the network and the cross-entropy of each task."""
    data = multi_digits(**DATA)

    def network(key: PRNGKeyArray) -> MultiTaskConvNet:
        return MultiTaskConvNet(**MODEL, rngs=nnx.Rngs(key))

    graph = nnx.graphdef(network(jax.random.key(0)))

    def logits(params: PyTree, batch: Canvases) -> Float[Array, "n 2 10"]:
        return nnx.merge(graph, params)(batch.images)

    def sample(key: PRNGKeyArray, train: Canvases) -> Canvases:
        rows = jax.random.randint(key, (batch_size,), 0, len(train.images))
        return jax.tree.map(lambda x: x[rows], train)

    def losses(params: PyTree, batch: Canvases) -> Float[Array, " 2"]:
        return optax.softmax_cross_entropy_with_integer_labels(
            logits(params, batch), batch.labels
        ).mean(axis=0)

    def accuracy(params: PyTree, canvases: Canvases) -> Float[Array, " 2"]:
        return jnp.mean(logits(params, canvases).argmax(axis=-1) == canvases.labels, axis=0)

    return Problem(
        tasks=TASKS,
        score="accuracy",
        init=lambda key: nnx.state(network(key)),
        shared=lambda path: "trunk" in jax.tree_util.keystr(path),
        sample=sample,
        losses=losses,
        scores=accuracy,
        train=data.train,
        validation=data.validation,
        test=data.test,
        probe=jax.tree.map(lambda x: x[:500], data.train),
        config={"suite": Digits.name, "data": DATA, "model": MODEL, "batch_size": batch_size},
    )

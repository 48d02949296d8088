"""The suite ``digits``: two scanned digits overlaid on one canvas, one task for each."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from benchmarks.data import CANVAS, Canvases, multi_digits
from benchmarks.models.conv import MultiTaskConvNet
from benchmarks.problem import Metric, Problem
from benchmarks.suite import Preset, Suite

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
    presets: ClassVar = {
        "quick": Preset(epochs=12, batch_size=64, learning_rates=(2e-3, 5e-3, 1e-2)),
        "paper": Preset(epochs=50, batch_size=64, learning_rates=(1e-3, 2e-3, 5e-3, 1e-2)),
    }

    def problem(self) -> Problem:
        """The canvases, the network and their losses."""
        return digits_problem(batch_size=self.rows_per_batch, query_fraction=self.query_fraction)


def digits_problem(*, batch_size: int, query_fraction: float = 0.1) -> Problem:
    """The data, the network and the cross-entropy of each task."""
    data = multi_digits(**DATA)

    def network(key: PRNGKeyArray) -> MultiTaskConvNet:
        return MultiTaskConvNet(**MODEL, rngs=nnx.Rngs(key))

    graph = nnx.graphdef(network(jax.random.key(0)))

    def logits(params: PyTree, batch: Canvases) -> Float[Array, "n 2 10"]:
        return nnx.merge(graph, params)(batch.images)

    def losses(logits: Float[Array, "n 2 10"], batch: Canvases) -> Float[Array, " 2"]:
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean(axis=0)

    def accuracy(logits: np.ndarray, canvases: Canvases) -> Float[np.ndarray, " 2"]:
        return 100 * np.mean(logits.argmax(axis=-1) == canvases.labels, axis=0)

    return Problem(
        tasks=TASKS,
        metrics=tuple(Metric(f"{task} accuracy", i) for i, task in enumerate(TASKS)),
        init=lambda key: nnx.state(network(key)),
        shared=lambda path: "trunk" in jax.tree_util.keystr(path),
        forward=logits,
        losses=losses,
        scores=accuracy,
        train=data.train,
        validation=data.validation,
        test=data.test,
        batch_size=batch_size,
        query_fraction=query_fraction,
        config={"suite": Digits.name, "data": DATA, "model": MODEL},
    )

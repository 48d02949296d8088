"""Two overlaid digits, one task for each: ``multimnist``, and part of ``digits``."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import optax
from jaxtyping import Array, Float

from benchmarks.data.splits import Splits
from benchmarks.problems.baselines import support_vectors
from benchmarks.problems.networks import Network, accuracy, in_trunk
from benchmarks.train.problem import Metric, Problem

TASKS = ("upper left", "lower right")
ENOUGH = 10_000  # Canvases for the baseline, which takes seconds with these and hours with all.


METRICS = tuple(Metric(f"{task} %", number) for number, task in enumerate(TASKS))


def reading_losses(logits: Float[Array, "n 2 10"], batch: Any) -> Float[Array, " 2"]:
    """The mean cross-entropy of each digit."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean(axis=0)


def readings(logits: Float[np.ndarray, "n 2 10"], canvases: Any) -> Float[np.ndarray, " 2"]:
    """How many of each digit are read right, in percent."""
    labels = canvases.labels.T
    return accuracy(logits.swapaxes(0, 1), labels, np.ones(labels.shape, bool))


def canvas_problem(
    data: Splits, model: Network, config: Mapping[str, Any], **options: Any
) -> Problem:
    """Both digits of each canvas, by cross-entropy; ``options`` are further ones of `Problem`."""
    return Problem(
        tasks=TASKS,
        metrics=METRICS,
        init=model.init,
        shared=in_trunk,
        forward=lambda params, batch: model.apply(params, batch.images),
        losses=reading_losses,
        scores=readings,
        train=data.train,
        validation=data.validation,
        test=data.test,
        config=config,
        baseline=support_vectors(data, 10, rows=ENOUGH),
        **options,
    )

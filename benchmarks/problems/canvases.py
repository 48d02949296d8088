"""Two overlaid digits, one task for each: what ``digits`` and ``multimnist`` have in common."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import optax
from jaxtyping import Array, Float

from benchmarks.data.digits import Canvases
from benchmarks.data.splits import Splits
from benchmarks.problems.networks import Network, accuracy, in_trunk
from benchmarks.train.problem import Metric, Problem

TASKS = ("upper left", "lower right")


def canvas_problem(
    data: Splits, model: Network, config: Mapping[str, Any], **options: Any
) -> Problem:
    """Both digits of each canvas, by cross-entropy; ``options`` are further ones of `Problem`."""

    def losses(logits: Float[Array, "n 2 10"], batch: Canvases) -> Float[Array, " 2"]:
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean(axis=0)

    def scores(logits: np.ndarray, canvases: Canvases) -> Float[np.ndarray, " 2"]:
        labels = canvases.labels.T
        return accuracy(logits.swapaxes(0, 1), labels, np.ones(labels.shape, bool))

    return Problem(
        tasks=TASKS,
        metrics=tuple(Metric(f"{task} %", number) for number, task in enumerate(TASKS)),
        init=model.init,
        shared=in_trunk,
        forward=lambda params, batch: model.apply(params, batch.images),
        losses=losses,
        scores=scores,
        train=data.train,
        validation=data.validation,
        test=data.test,
        config=config,
        **options,
    )

"""What the claims of the papers are about, worked out from cells."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from benchmarks.results.cells import Cell
from benchmarks.results.summary import Cells, counted, first_cell, networks, test_metrics
from mtl_optax.metrics import task_variance


class Losses(NamedTuple):
    """Losses at the epoch reported, mean of the tasks, of each seed."""

    training: Float[np.ndarray, " s"]
    """As it was descended, with dropout where there is any: the mean over the epoch's steps."""
    query: Float[np.ndarray, " s"] | None
    """On rows held out of the training data, of methods that read some."""
    test: Float[np.ndarray, " s"]


def best_on(cells: Cells) -> dict[str, int]:
    """On how many metrics that count a network's mean over the seeds is the best; ties for all."""
    trained = networks(cells)
    metrics = first_cell(cells).metrics
    means = {method: test_metrics(group).mean(axis=0) for method, group in trained.items()}
    times = dict.fromkeys(trained, 0)
    for column in counted(cells):
        sign = 1 if metrics[column].higher_is_better else -1
        reached = {method: sign * mean[column] for method, mean in means.items()}
        most = max((value for value in reached.values() if np.isfinite(value)), default=None)
        for method, value in reached.items():
            times[method] += int(value == most)
    return times


def losses(group: Sequence[Cell]) -> Losses:
    """Those of one method."""
    queried = all(cell.curves.query_loss is not None for cell in group)
    return Losses(
        _of_tasks(group, "loss").mean(axis=1),
        _of_tasks(group, "query_loss").mean(axis=1) if queried else None,
        np.stack([cell.test_loss for cell in group]).mean(axis=1),
    )


def variances(group: Sequence[Cell]) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
    """Of the training and of the test losses over the tasks, at the epoch reported."""
    test = np.stack([cell.test_loss for cell in group])
    training = _of_tasks(group, "loss")
    return np.asarray(task_variance(training)), np.asarray(task_variance(test))


def _of_tasks(group: Sequence[Cell], name: str) -> Float[np.ndarray, "s t"]:
    """One of the `Curves` at the epoch reported; NaN where a training had no finite result."""
    return np.stack(
        [
            getattr(cell.curves, name)[cell.epoch - 1]
            if cell.epoch
            else np.full(len(cell.tasks), np.nan)
            for cell in group
        ]
    )

"""The figures that tables, pictures and the report show, worked out from cells."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from benchmarks.cells import Cell
from benchmarks.recipes import SINGLE_TASK
from mtl_optax.metrics import delta_m

Cells = Mapping[str, Sequence[Cell]]


class Difference(NamedTuple):
    """A method against another, seed by seed."""

    mean: float
    """Of the differences over seeds; positive where the method is better."""
    margin: float
    """Half the width of the 95 % confidence interval by Student's t, for one comparison alone."""

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves out zero."""
        return abs(self.mean) > self.margin


def first_cell(cells: Cells) -> Cell:
    """Any cell: they agree in suite, tasks and metrics."""
    return next(iter(cells.values()))[0]


def counted(cells: Cells) -> list[int]:
    """Which metrics enter means, ranks and Δm."""
    return [i for i, metric in enumerate(first_cell(cells).metrics) if metric.counts]


def test_metrics(group: Sequence[Cell]) -> Float[np.ndarray, "s m"]:
    """The metrics on the test split, one row for each seed."""
    return np.stack([cell.test for cell in group])


def mean_metric(cells: Cells, method: str) -> Float[np.ndarray, " s"]:
    """The mean of the metrics that count."""
    return test_metrics(cells[method])[:, counted(cells)].mean(axis=1)


def higher_is_better(cells: Cells) -> bool:
    """Whether more is better in the mean of the metrics."""
    metrics = first_cell(cells).metrics
    return all(metrics[i].higher_is_better for i in counted(cells))


def change(cells: Cells, method: str) -> Float[np.ndarray, " s"] | None:
    """Δm in percent against the single-task networks, seed against the same seed; less is better.

    None where these are not among the cells.
    """
    if SINGLE_TASK not in cells:
        return None
    columns, metrics = counted(cells), first_cell(cells).metrics
    seeds = min(len(cells[method]), len(cells[SINGLE_TASK]))
    ours, theirs = (test_metrics(cells[m])[:seeds, columns] for m in (method, SINGLE_TASK))
    return np.asarray(delta_m(ours, theirs, [metrics[i].higher_is_better for i in columns]))


def mean_ranks(cells: Cells) -> dict[str, float]:
    """The place of each method among all, 1 is best, mean over metrics that count and seeds."""
    metrics, columns = first_cell(cells).metrics, counted(cells)
    seeds = min(len(group) for group in cells.values())
    values = np.stack([test_metrics(group)[:seeds][:, columns] for group in cells.values()])
    signs = np.array([-1.0 if metrics[i].higher_is_better else 1.0 for i in columns])
    badness = np.where(np.isfinite(values), signs * values, np.inf)
    ranks = stats.rankdata(badness, axis=0).mean(axis=(1, 2))
    return dict(zip(cells, ranks.tolist(), strict=True))


def difference(cells: Cells, method: str, reference: str) -> Difference | None:
    """The mean metric against another method's; None with fewer than two seeds in common."""
    ours, theirs = mean_metric(cells, method), mean_metric(cells, reference)
    seeds = min(len(ours), len(theirs))
    if seeds < 2:
        return None
    differences = (ours[:seeds] - theirs[:seeds]) * (1 if higher_is_better(cells) else -1)
    width = stats.t.ppf(0.975, seeds - 1) * differences.std(ddof=1) / np.sqrt(seeds)
    return Difference(float(differences.mean()), float(width))


def step_time(group: Sequence[Cell], reference: Sequence[Cell]) -> float | None:
    """Time per step as a multiple of ``reference``'s; None where they cannot be compared."""
    ours, theirs = (
        {
            cell.timing.at_once: cell.timing.seconds_per_step
            for cell in cells
            if cell.timing.seconds_per_step is not None
        }
        for cells in (group, reference)
    )
    alike = max(ours.keys() & theirs.keys(), default=None)
    return None if alike is None else ours[alike] / theirs[alike]


def spread(values: Float[np.ndarray, " s"], sign: str = "") -> str:
    """Mean and standard deviation over seeds, in a few digits."""
    mean = values.mean()
    digits = 1 if not np.isfinite(mean) or abs(mean) >= 10 or sign else 3
    text = f"{mean:{sign}.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {values.std(ddof=1):.{digits}f}"

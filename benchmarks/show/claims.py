"""What cells say to the claims of the papers: one table for each suite, and the methods' places."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from benchmarks.methods import SINGLE_TASK
from benchmarks.results.claims import best_on, losses, variances
from benchmarks.results.gather import Lines
from benchmarks.results.summary import (
    Cells,
    compare,
    counted,
    higher_is_better,
    mean_metric,
    networks,
    spread,
)

NOTE = (
    "Best on: the metrics on which the mean over the seeds is the best of all networks. Losses and "
    "variances over the tasks are those at the epoch reported; the training loss is that of the "
    "steps, with dropout. Gap: test less training loss."
)


def claims_table(cells: Cells) -> Lines:
    """One row for each network."""
    most, best = len(counted(cells)), best_on(cells)
    heading = ["method", "mean", f"best on, of {most}"]
    heading += ["variance, training", "variance, test"]
    heading += ["loss, training", "query", "test", "gap"]
    rows = []
    for method, group in networks(cells).items():
        found = losses(group)
        row = [method, spread(mean_metric(cells, method)), str(best[method])]
        row += [_fine(values) for values in (*variances(group), found.training)]
        row.append("–" if found.query is None else _fine(found.query))
        row += [_fine(found.test), _fine(found.test - found.training)]
        rows.append(row)
    return Lines(heading, rows)


def place(cells: Cells, method: str) -> str:
    """Where a method stands by its mean metric, and from whom it can be told."""
    trained = networks(cells)
    sign = 1 if higher_is_better(cells) else -1
    reached = {name: sign * mean_metric(cells, name).mean() for name in trained}
    order = sorted(trained, key=lambda name: -np.nan_to_num(reached[name], nan=-np.inf))
    number = order.index(method)
    beside = f", after {order[number - 1]}" if number else ""
    beside += f", before {order[number + 1]}" if number + 1 < len(order) else ""
    told = compare(cells, method)
    above = [name for name, one in told.items() if one.certain and one.mean > 0]
    below = [name for name, one in told.items() if one.certain and one.mean < 0]
    return (
        f"{method}: {spread(mean_metric(cells, method))}, number {number + 1} of {len(order)} by "
        f"the mean{beside}. By paired t-tests at 5 % with Holm's correction, {SINGLE_TASK} and "
        f"equal weighting left out: better than {_names(below)}; worse than {_names(above)}."
    )


def _fine(values: Float[np.ndarray, " s"]) -> str:
    """Mean and standard deviation in three digits that count."""
    mean = float(np.mean(values))
    text = f"{mean:.3g}"
    return text if len(values) == 1 else f"{text} ± {float(np.std(values, ddof=1)):.2g}"


def _names(methods: Sequence[str]) -> str:
    return ", ".join(methods) or "none"

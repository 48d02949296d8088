"""The table and the picture of a sweep."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from benchmarks.methods import EQUAL_WEIGHTING
from benchmarks.results.cells import Cell
from benchmarks.results.summary import mean_metric, spread
from benchmarks.show.pictures import STYLE, TASK_COLOURS, save
from benchmarks.writing import spread_over

Groups = Mapping[Any, list[Cell]]


def _means(groups: Groups) -> list[Any]:
    return [mean_metric({"": group}, "") for group in groups.values()]


def lines(method: str, name: str, ours: Groups, plain: Groups) -> list[list[str]]:
    """A heading, and one row for each value."""
    rows = [[name, method, EQUAL_WEIGHTING, "rate"]]
    for value, mine, theirs in zip(ours, _means(ours), _means(plain), strict=True):
        rate = f"{ours[value][0].learning_rate:g}"
        rows.append([f"{value:g}", spread(mine), spread(theirs), rate])
    return rows


def table(name: str, rows: list[list[str]], seeds: int) -> Table:
    """What `lines` says, to print."""
    result = Table(
        title=f"mean metric on the test split, by {name}",
        caption=spread_over(seeds),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for column in rows[0]:
        result.add_column(column, justify="right", no_wrap=True)
    for row in rows[1:]:
        result.add_row(*row)
    return result


def draw(method: str, name: str, ours: Groups, plain: Groups, path: Path) -> None:
    """Write the picture."""
    with mpl.rc_context(STYLE):
        save(_picture(method, name, ours, plain), path)


def _picture(method: str, name: str, ours: Groups, plain: Groups) -> Figure:
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    values = list(ours)
    for groups, colour, label in (
        (plain, "black", EQUAL_WEIGHTING),
        (ours, TASK_COLOURS[0], method),
    ):
        means = _means(groups)
        axes.errorbar(
            values,
            [mean.mean() for mean in means],
            yerr=[mean.std(ddof=1) if len(mean) > 1 else 0 for mean in means],
            fmt="o-",
            ms=4,
            capsize=2,
            color=colour,
            label=label,
        )
    positive = np.array(values) > 0
    if positive.all() and max(values) > 20 * min(values):
        axes.set_xscale("log")
    axes.set_xlabel(name)
    axes.set_ylabel("mean metric, test split")
    axes.legend()
    return figure

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
from benchmarks.show.pictures import STYLE, TASK_COLOURS, boxes, save
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
    places = np.arange(len(ours))
    for groups, colour, label, aside in (
        (plain, "black", EQUAL_WEIGHTING, -0.15),
        (ours, TASK_COLOURS[0], method, 0.15),
    ):
        means = _means(groups)
        boxes(axes, means, (places + aside).tolist(), colour)
        axes.plot(places + aside, [np.median(m) for m in means], color=colour, label=label, lw=0.8)
    axes.set_xticks(places, [f"{value:g}" for value in ours])
    axes.set_xlabel(name)
    axes.set_ylabel("mean metric, test split")
    figure.legend(loc="outside upper center", ncols=2, title="a point for each seed")
    return figure

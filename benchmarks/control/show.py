"""The tables and the picture of the suite ``control``."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.control.agent import NAMES
from benchmarks.control.environment import STEPS
from benchmarks.methods import EQUAL_WEIGHTING, SINGLE_TASK
from benchmarks.results.cells import Cell
from benchmarks.results.gather import Lines
from benchmarks.results.summary import Cells, first_cell, networks, spread
from benchmarks.show import tell
from benchmarks.show.pictures import GREY, STYLE, TASK_COLOURS, band, save
from benchmarks.show.render import markdown_table
from benchmarks.writing import spread_over


def markdown(cells: Cells) -> str:
    """Success and return of each task on the test episodes, and what can be told apart."""
    seeds = max(map(len, cells.values()))
    parts = [
        "Success in percent of the test episodes:",
        *_table(cells, lambda cell: cell.test[: len(NAMES)], 0),
        "Return of a test episode, over the task's reward scale:",
        *_table(cells, lambda cell: -cell.test_loss, 1),
        f"{spread_over(seeds)} {tell.verdict(cells)}",
    ]
    return "\n".join(parts + [f"- {caveat}" for caveat in tell.caveats(cells)]) + "\n"


def _table(
    cells: Cells, of_tasks: Callable[[Cell], Float[np.ndarray, " t"]], digits: int
) -> list[str]:
    rows = []
    for method, group in cells.items():
        values = np.stack([of_tasks(cell) for cell in group])
        values = np.concatenate([values.mean(axis=1, keepdims=True), values], axis=1)
        rows.append([method, *(spread(column, digits=digits) for column in values.T)])
    heading = ["method", "mean", *(name.removeprefix("task ") for name in NAMES)]
    return ["", *markdown_table(Lines(heading, rows)), ""]


def draw(cells: Cells, folder: Path) -> None:
    """Write ``control.png``: success while learning, the conflict, success task by task."""
    trained = networks(cells)
    colours = dict(zip([m for m in trained if m not in LINES], _CYCLE * len(trained), strict=False))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
        config = first_cell(trained).config
        played = config["steps_per_epoch"] * config["batch_size"] * STEPS / 1000
        for method, group in trained.items():
            colour, dashes = LINES.get(method) or (colours[method], "-")
            success = np.stack([c.curves.validation[:, : len(NAMES)].mean(axis=1) for c in group])
            places = played * np.arange(1, success.shape[1] + 1)
            band(left, places, success, colour, method, dashes)
            if all(cell.curves.cosine is not None for cell in group):
                cosine = np.stack([np.asarray(cell.curves.cosine) for cell in group])
                band(middle, places, cosine, colour, method, dashes)
        left.set(ylabel="success on validation episodes (%)", ylim=(-3, 103))
        middle.axhline(0, color="black", lw=0.8)
        middle.set(ylabel="mean cosine of the task gradients")
        for axes in (left, middle):
            axes.set(xlabel="thousand steps of each task")
        _by_task(right, cells)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels))
        save(figure, folder / "control.png")


LINES = {SINGLE_TASK: (GREY, "--"), EQUAL_WEIGHTING: ("black", "-")}
_CYCLE = list(TASK_COLOURS)


def _by_task(axes: Axes, cells: Cells) -> None:
    """Success of every method in every task."""
    values = np.stack(
        [np.mean([cell.test[: len(NAMES)] for cell in group], axis=0) for group in cells.values()]
    )
    axes.imshow(values, vmin=0, vmax=100, cmap="Blues", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value > 60 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, size=7)
    axes.set_xticks(range(len(NAMES)), [name.removeprefix("task ") for name in NAMES])
    axes.set_yticks(range(len(values)), [*cells])
    axes.grid(False)
    axes.set(xlabel="task", title="success on test episodes (%)")

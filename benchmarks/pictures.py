"""Pictures of a finished suite: every line a mean over seeds, every band one deviation."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.cells import Cell
from benchmarks.errors import UserError
from benchmarks.report import test_scores
from benchmarks.training import BASELINES, EQUAL_WEIGHTING, SINGLE_TASK, Problem

Cells = Mapping[str, Sequence[Cell]]

# Okabe and Ito's colours, told apart by colour-blind readers too.
TASK_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#777777"
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.dpi": 150,
    "font.size": 9,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def draw(problem: Problem, cells: Cells, folder: Path) -> None:
    """Write ``accuracy.png``, ``curves.png``, ``weights.png`` and ``cosine.png``."""
    with mpl.rc_context(STYLE):
        pictures = {
            f"{problem.score}.png": _summary(problem, cells),
            "curves.png": _curves(problem, cells),
            "weights.png": _weights(problem, cells),
            "cosine.png": _cosine(cells),
        }
        for name, figure in pictures.items():
            if figure is None:
                continue
            try:
                figure.savefig(folder / name)
            except OSError as error:
                raise UserError(f"{folder / name}: cannot be written ({error})") from error


def _summary(problem: Problem, cells: Cells) -> Figure:
    """How the methods learn (left), and what they reach on the test split (right)."""
    figure = Figure(figsize=(10, 2 + 0.2 * len(cells)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))

    means = {
        method: 100 * _recorded(group, "validation").mean(axis=-1)
        for method, group in cells.items()
    }
    ranked = sorted(
        means.keys() - BASELINES.keys(), key=lambda m: means[m][:, -1].mean(), reverse=True
    )
    for method in ranked[1:]:
        label = "other methods" if method == ranked[1] else None
        mean = means[method].mean(axis=0)
        left.plot(cells[method][0].step, mean, color="#9ecae1", lw=1, label=label)
    for method, colour, dashes, label in (
        (SINGLE_TASK, GREY, "--", SINGLE_TASK),
        (EQUAL_WEIGHTING, "black", "-", EQUAL_WEIGHTING),
        *((m, TASK_COLOURS[0], "-", f"{m}, the best method here") for m in ranked[:1]),
    ):
        _band(left, cells[method][0].step, means[method], colour, label, dashes)
    _skip_the_rise(left, list(means.values()))
    left.set_title("Learning curves", loc="left")
    left.set_xlabel("training step")
    left.set_ylabel(f"validation {problem.score}, mean of tasks (%)")
    left.legend(loc="lower right")

    order = sorted(cells, key=lambda m: test_scores(cells[m]).mean())
    rows = np.arange(len(order))
    for task, (name, colour) in enumerate(zip(problem.tasks, _colours(problem), strict=True)):
        scores = np.stack([test_scores(cells[method])[:, task] for method in order])
        right.errorbar(
            scores.mean(axis=1),
            rows - 0.12 * (2 * task - problem.num_tasks + 1),
            xerr=_deviation(scores.T),
            fmt="o",
            ms=4,
            color=colour,
            elinewidth=1,
            capsize=1.5,
            label=name,
        )
        right.axvline(test_scores(cells[SINGLE_TASK])[:, task].mean(), color=colour, ls=":", lw=1)
    right.set_yticks(rows, order)
    for label in right.get_yticklabels():
        if label.get_text() in BASELINES:
            label.set_fontstyle("italic")
    right.set_title("After the last step", loc="left")
    right.set_xlabel(f"test {problem.score} (%); dotted: {SINGLE_TASK}")
    right.legend(loc="upper left")
    return figure


def _curves(problem: Problem, cells: Cells) -> Figure:
    """Validation score of each task, a panel for each method."""
    shown = [method for method in cells if method != SINGLE_TASK]
    figure, panels = _panels(shown, "training step", f"validation {problem.score} (%)")
    drawn = []
    for method, axes in panels:
        for task, colour in enumerate(_colours(problem)):
            single = 100 * _recorded(cells[SINGLE_TASK], "validation")[..., task]
            ours = 100 * _recorded(cells[method], "validation")[..., task]
            steps = cells[method][0].step
            axes.plot(steps, single.mean(axis=0), color=colour, ls=":", lw=1)
            _band(axes, steps, ours, colour, problem.tasks[task])
            drawn += [single, ours]
    _skip_the_rise(axes, drawn)
    _legend(figure, axes, note=f"dotted: {SINGLE_TASK}")
    return figure


def _weights(problem: Problem, cells: Cells) -> Figure | None:
    """Share of each task in the weights applied, a panel for each method that moves them."""
    weights = {
        method: _recorded(group, "weights")
        for method, group in cells.items()
        if group[0].curves.weights is not None
    }
    shown = [method for method, values in weights.items() if np.ptp(values, axis=1).any()]
    if not shown:
        return None
    figure, panels = _panels(shown, "training step", "share of the weights (%)")
    for method, axes in panels:
        total = np.abs(weights[method]).sum(axis=-1, keepdims=True)
        shares = 100 * weights[method] / np.maximum(total, 1e-30)
        for task, colour in enumerate(_colours(problem)):
            steps = cells[method][0].step
            _band(axes, steps, shares[..., task], colour, problem.tasks[task])
        axes.axhline(100 / problem.num_tasks, color=GREY, ls=":", lw=1)
    _legend(figure, axes, note="dotted: equal shares")
    return figure


def _cosine(cells: Cells) -> Figure | None:
    """Cosine between the task gradients, a panel for each method."""
    shown = [method for method, group in cells.items() if group[0].curves.cosine is not None]
    if not shown:
        return None
    figure, panels = _panels(shown, "training step", "cosine of the task gradients")
    for method, axes in panels:
        steps = cells[method][0].step
        if method != EQUAL_WEIGHTING:
            plain = _recorded(cells[EQUAL_WEIGHTING], "cosine")
            axes.plot(steps, plain.mean(axis=0), color=GREY, lw=1, label=EQUAL_WEIGHTING)
        _band(
            axes, steps, _recorded(cells[method], "cosine"), TASK_COLOURS[0], "the panel's method"
        )
        axes.axhline(0, color="black", lw=0.8)
    _legend(figure, axes, note="below 0 the tasks conflict")
    return figure


def _panels(
    methods: Sequence[str], xlabel: str, ylabel: str
) -> tuple[Figure, Iterator[tuple[str, Axes]]]:
    """A grid of panels with common axes and few gaps, and each method with its panel."""
    columns = min((4, 3, 5), key=lambda count: -len(methods) % count)
    columns = min(columns, len(methods))
    rows = math.ceil(len(methods) / columns)
    figure = Figure(figsize=(1.2 + 2.5 * columns, 1.1 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(methods) :]:
        axes.remove()
    for column in range(columns):
        last = grid[(len(methods) - 1 - column) // columns, column]
        last.tick_params(labelbottom=True)
        last.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    for method, axes in zip(methods, grid.flat, strict=False):
        axes.set_title(method, loc="left")
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    return figure, zip(methods, grid.flat, strict=False)


def _band(
    axes: Axes,
    steps: Sequence[int],
    values: Float[np.ndarray, "s p"],
    colour: str,
    label: str,
    dashes: str = "-",
) -> None:
    mean, deviation = values.mean(axis=0), _deviation(values)
    axes.plot(steps, mean, color=colour, ls=dashes, lw=1.6, label=label)
    axes.fill_between(
        steps, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0
    )


def _recorded(group: Sequence[Cell], name: str) -> Float[np.ndarray, "s p ..."]:
    """One of the `Curves` of all seeds of a method."""
    return np.stack([getattr(cell.curves, name) for cell in group])


def _deviation(values: Float[np.ndarray, "s ..."]) -> Float[np.ndarray, "..."]:
    """Standard deviation over the first axis; nothing to tell where that is one seed."""
    return values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])


def _skip_the_rise(axes: Axes, curves: Sequence[Float[np.ndarray, "s p"]]) -> None:
    """Leave out most of the steep beginning, where no difference can be seen."""
    means = np.stack([curve.mean(axis=0) for curve in curves])
    low, high = min(np.median(means[:, means.shape[1] // 10]), means[:, -1].min()), means.max()
    margin = max(0.15 * (high - low), 1.0)
    axes.set_ylim(low - margin, high + margin)


def _legend(figure: Figure, axes: Axes, note: str) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels) + 1, title=note)


def _colours(problem: Problem) -> list[str]:
    return [TASK_COLOURS[task % len(TASK_COLOURS)] for task in range(problem.num_tasks)]

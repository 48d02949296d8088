"""Pictures of a finished suite: every line a mean over seeds, every band one deviation."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.errors import UserError
from benchmarks.methods import BASELINES, EQUAL_WEIGHTING, SINGLE_TASK, UNTRAINED
from benchmarks.results.cells import Cell
from benchmarks.results.summary import (
    Cells,
    counted,
    first_cell,
    higher_is_better,
    mean_metric,
    mean_of,
    networks,
    test_metrics,
)
from benchmarks.show.table import named
from mtl_optax.metrics import task_variance

# Okabe and Ito's colours, told apart by colour-blind readers too.
TASK_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#777777"
LOSSES = (
    ("loss", "black", "training"),
    ("query_loss", TASK_COLOURS[2], "query"),
    ("validation_loss", TASK_COLOURS[0], "validation"),
)
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


def draw(cells: Cells, folder: Path) -> None:
    """Write the pictures of a suite as PNG files."""
    trained = networks(cells)
    with mpl.rc_context(STYLE):
        pictures = {
            "summary.png": _summary(cells),
            "tasks.png": _tasks(cells),
            "curves.png": _curves(trained),
            "losses.png": _losses(trained),
            "gaps.png": _gaps(trained),
            "variance.png": _variance(trained),
            "weights.png": _weights(trained),
            "cosine.png": _cosine(trained),
            "searched.png": _searched(trained),
        }
        for name, figure in pictures.items():
            if figure is not None:
                save(figure, folder / name)


def save(figure: Figure, path: Path) -> None:
    """Write a picture, or say why not."""
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error


def _summary(cells: Cells) -> Figure:
    """How the methods learn (left), and what they reach on the test split (right)."""
    figure = Figure(figsize=(10, 2 + 0.2 * len(cells)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    columns, more = counted(cells), higher_is_better(cells)
    curves = {
        method: mean_of(cells, _recorded(group, "validation"))
        for method, group in networks(cells).items()
    }
    order = sorted(cells, key=lambda m: mean_metric(cells, m).mean() * (1 if more else -1))
    alone = (*UNTRAINED, *BASELINES)
    methods = [method for method in reversed(order) if method not in alone]
    for method in methods[1:]:
        label = "other methods" if method == methods[1] else None
        mean = curves[method].mean(axis=0)
        _line(left, _epochs(cells[method]), mean, color="#9ecae1", lw=1, label=label)
    for method, colour, dashes, label in (
        (SINGLE_TASK, GREY, "--", SINGLE_TASK),
        (EQUAL_WEIGHTING, "black", "-", EQUAL_WEIGHTING),
        *(
            (m, TASK_COLOURS[0], "-", f"{m}, first of the methods on the right")
            for m in methods[:1]
        ),
    ):
        if method in cells:
            band(left, _epochs(cells[method]), curves[method], colour, label, dashes)
    _skip_the_beginning(left, list(curves.values()), more)
    left.set_title("Learning curves", loc="left")
    left.set_xlabel("epoch")
    left.set_ylabel("mean metric on the validation split")
    left.legend(loc="lower right" if more else "upper right")

    rows = np.arange(len(order))
    names = [first_cell(cells).metrics[i].name for i in columns]
    if len(columns) > len(TASK_COLOURS):
        names, values = ["mean metric"], {m: mean_metric(cells, m)[:, None] for m in order}
    else:
        values = {m: test_metrics(cells[m])[:, columns] for m in order}
    for number, (name, colour) in enumerate(zip(names, _colours(len(names)), strict=True)):
        scores = [values[method][:, number] for method in order]
        right.errorbar(
            [score.mean() for score in scores],
            rows - 0.12 * (2 * number - len(names) + 1),
            xerr=[_deviation(score) for score in scores],
            fmt="o",
            ms=4,
            color=colour,
            elinewidth=1,
            capsize=1.5,
            label=name,
        )
        if SINGLE_TASK in cells:
            right.axvline(values[SINGLE_TASK][:, number].mean(), color=colour, ls=":", lw=1)
    right.set_yticks(rows, order)
    for tick in right.get_yticklabels():
        if tick.get_text() in alone:
            tick.set_fontstyle("italic")
    right.set_title("At the epoch chosen on the validation split", loc="left")
    right.set_xlabel(f"test split; dotted: {SINGLE_TASK}")
    right.legend(loc="upper left" if more else "upper right")
    return figure


def boxes(
    axes: Axes,
    values: Sequence[Float[np.ndarray, " s"]],
    positions: Sequence[float],
    colour: str,
) -> None:
    """Quartiles, median and ends of some values over seeds, and the values themselves.

    What is not finite is left out.
    """
    finite = [value[np.isfinite(value)] for value in values]
    style = {"color": colour, "linewidth": 1}
    axes.boxplot(
        finite,
        positions=positions,
        widths=0.25,
        whis=(0, 100),
        manage_ticks=False,
        showcaps=False,
        showfliers=False,
        boxprops=style,
        medianprops=style,
        whiskerprops=style,
    )
    for value, position in zip(finite, positions, strict=True):
        axes.plot(np.full(len(value), position), value, "o", ms=2.5, color=colour, alpha=0.6)


def _tasks(cells: Cells) -> Figure:
    """What each method reaches on the test split, over the seeds: a panel for each metric."""
    metrics = first_cell(cells).metrics
    order = list(cells)[::-1]
    names = {metrics[i].name: i for i in counted(cells)}
    panels: Mapping[str, Mapping[str, Float[np.ndarray, " s"]]] = {
        "mean": {method: mean_metric(cells, method) for method in order},
        **{name: {m: test_metrics(cells[m])[:, i] for m in order} for name, i in names.items()},
    }
    figure, grid = _panels(list(panels), "test split, a point for each seed", "", epochs=False)
    figure.set_figheight(figure.get_figheight() * max(1.0, len(cells) / 10))
    rows = np.arange(len(order))
    for name, axes in grid:
        reached = panels[name]
        for row, (method, values) in zip(rows, reached.items(), strict=True):
            colour = GREY if method in (*UNTRAINED, *BASELINES) else TASK_COLOURS[0]
            axes.plot(values, np.full(len(values), row), "o-", ms=2.5, lw=0.8, color=colour)
            axes.plot(np.median(values), row, "|", ms=9, color=colour)
        if EQUAL_WEIGHTING in cells:
            axes.axvline(float(np.median(reached[EQUAL_WEIGHTING])), color=GREY, ls=":", lw=1)
        axes.set_yticks(rows, order)
    return figure


def _gaps(cells: Cells) -> Figure | None:
    """The losses of each task, of a method that reads a query split."""
    queried = [m for m, group in cells.items() if group[0].curves.query_loss is not None]
    if not queried:
        return None
    group = cells[queried[0]]
    tasks = first_cell(cells).tasks
    figure, panels = _panels(tasks, "epoch", f"loss, {queried[0]}")
    drawn = []
    for number, (_, axes) in enumerate(panels):
        for name, colour, label in LOSSES:
            values = _recorded(group, name)[..., number]
            band(axes, _epochs(group), values, colour, label)
            drawn.append(values)
        _test_loss(axes, group, [float(cell.test_loss[number]) for cell in group])
    _skip_the_beginning(axes, drawn, more=False)
    _legend(figure, axes, note="the test split is read once")
    return figure


def _searched(cells: Cells) -> Figure | None:
    """The validation split by what was tried, a panel for each method that searched."""
    searched = [method for method, group in cells.items() if group[0].chosen]
    if not searched:
        return None
    sign = 1 if higher_is_better(cells) else -1  # Trials hold errors negated.
    label = "mean metric on the validation split, first seed"
    figure, panels = _panels(searched, "tried", label, epochs=False)
    for method, axes in panels:
        first = cells[method][0]
        rows = np.arange(len(first.trials))
        for row, trial in zip(rows, first.trials, strict=True):
            chosen = trial.hyperparameters == first.chosen
            style = TASK_COLOURS[0] if chosen else "white"
            axes.plot(row, sign * trial.validation, "o", mec=TASK_COLOURS[0], mfc=style)
        tried = [named(trial.hyperparameters) for trial in first.trials]
        axes.set_xticks(rows, tried, rotation=20, ha="right")
        if EQUAL_WEIGHTING in cells:
            plain = max(trial.validation for trial in cells[EQUAL_WEIGHTING][0].trials)
            axes.axhline(sign * plain, color=GREY, ls=":", lw=1)
    figure.suptitle(f"filled: chosen; dotted: {EQUAL_WEIGHTING}", fontsize=9)
    return figure


def _curves(cells: Cells) -> Figure:
    """Metrics on the validation split, a panel for each method."""
    shown = [method for method in cells if method != SINGLE_TASK]
    columns, metrics = counted(cells), first_cell(cells).metrics
    figure, panels = _panels(shown, "epoch", "validation split")
    drawn = []
    for method, axes in panels:
        for column, colour in zip(columns, _colours(len(columns)), strict=True):
            if SINGLE_TASK in cells:
                single = _recorded(cells[SINGLE_TASK], "validation")[..., column]
                epochs = _epochs(cells[SINGLE_TASK])
                _line(axes, epochs, single.mean(axis=0), color=colour, ls=":", lw=1)
                drawn.append(single)
            ours = _recorded(cells[method], "validation")[..., column]
            band(axes, _epochs(cells[method]), ours, colour, metrics[column].name)
            drawn.append(ours)
    _skip_the_beginning(axes, drawn, higher_is_better(cells))
    _legend(figure, axes, note=f"dotted: {SINGLE_TASK}")
    return figure


def _losses(cells: Cells) -> Figure:
    """Training, query, validation and test loss side by side, mean of tasks, for each method."""
    figure, panels = _panels(list(cells), "epoch", "loss, mean of tasks")
    drawn = []
    for method, axes in panels:
        group = cells[method]
        for name, colour, label in LOSSES:
            if getattr(group[0].curves, name) is None:
                axes.plot([], [], color=colour, label=label)
                continue
            values = _recorded(group, name).mean(axis=-1)
            band(axes, _epochs(group), values, colour, label)
            drawn.append(values)
        _test_loss(axes, group, [float(cell.test_loss.mean()) for cell in group])
    _skip_the_beginning(axes, drawn, more=False)
    _legend(figure, axes, note="the test split is read once")
    return figure


def _test_loss(axes: Axes, group: Sequence[Cell], values: Sequence[float]) -> None:
    epochs = [cell.epoch for cell in group]
    label = "test, at the epoch reported"
    axes.plot(epochs, values, "x", color=TASK_COLOURS[1], label=label)


def _variance(cells: Cells) -> Figure:
    """Variance of the training losses over tasks, a panel for each method."""
    variance = {
        method: np.asarray(task_variance(_recorded(group, "loss")))
        for method, group in cells.items()
    }
    return _against_equal_weighting(cells, variance, "variance of the training losses over tasks")


def _weights(cells: Cells) -> Figure | None:
    """Share of each task in the weights applied, a panel for each method that moves them."""
    weights = {
        method: _recorded(group, "weights")
        for method, group in cells.items()
        if group[0].curves.weights is not None
    }
    shown = [method for method, values in weights.items() if np.ptp(values, axis=1).any()]
    if not shown:
        return None
    tasks = first_cell(cells).tasks
    figure, panels = _panels(shown, "epoch", "share of the weights (%)")
    for method, axes in panels:
        total = np.abs(weights[method]).sum(axis=-1, keepdims=True)
        shares = 100 * weights[method] / np.maximum(total, 1e-30)
        for task, colour in enumerate(_colours(len(tasks))):
            band(axes, _epochs(cells[method]), shares[..., task], colour, tasks[task])
        axes.axhline(100 / len(tasks), color=GREY, ls=":", lw=1)
    _legend(figure, axes, note="dotted: equal shares")
    return figure


def _cosine(cells: Cells) -> Figure | None:
    """Cosine between the task gradients, a panel for each method."""
    cosines = {
        method: _recorded(group, "cosine")
        for method, group in cells.items()
        if group[0].curves.cosine is not None
    }
    if not cosines:
        return None
    figure = _against_equal_weighting(cells, cosines, "cosine of the task gradients")
    for axes in figure.axes:
        axes.axhline(0, color="black", lw=0.8)
    return figure


def _against_equal_weighting(
    cells: Cells, curves: Mapping[str, Float[np.ndarray, "s p"]], ylabel: str
) -> Figure:
    """A panel for each method, with equal weighting in grey in each."""
    figure, panels = _panels(list(curves), "epoch", ylabel)
    for method, axes in panels:
        if EQUAL_WEIGHTING in curves:
            epochs = _epochs(cells[EQUAL_WEIGHTING])
            plain = curves[EQUAL_WEIGHTING].mean(axis=0)
            _line(axes, epochs, plain, color=GREY, lw=1, label=EQUAL_WEIGHTING)
        band(axes, _epochs(cells[method]), curves[method], TASK_COLOURS[0], "the panel's method")
    _skip_the_beginning(axes, list(curves.values()), more=False)
    _legend(figure, axes, note=None)
    return figure


def _panels(
    methods: Sequence[str], xlabel: str, ylabel: str, *, epochs: bool = True
) -> tuple[Figure, Iterator[tuple[str, Axes]]]:
    """A grid of panels with few gaps, and each method with its panel.

    The panels have a common vertical axis, and where they are over epochs a horizontal one.
    """
    columns = min((4, 3, 5), key=lambda count: -len(methods) % count)
    columns = min(columns, len(methods))
    rows = math.ceil(len(methods) / columns)
    figure = Figure(figsize=(1.2 + 2.5 * columns, 1.1 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=epochs, sharey=True, squeeze=False)
    for axes in grid.flat[len(methods) :]:
        axes.remove()
    for column in range(columns):
        last = grid[(len(methods) - 1 - column) // columns, column]
        last.tick_params(labelbottom=True)
        if epochs:
            last.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    for method, axes in zip(methods, grid.flat, strict=False):
        axes.set_title(method, loc="left")
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    return figure, zip(methods, grid.flat, strict=False)


def _line(
    axes: Axes, epochs: Int[np.ndarray, " p"], values: Float[np.ndarray, " p"], **style: Any
) -> None:
    """A curve over epochs; so few of them that a line hardly shows get marks."""
    axes.plot(epochs, values, marker="o" if len(epochs) < 4 else "", ms=3, **style)


def band(
    axes: Axes,
    epochs: Int[np.ndarray, " p"],
    values: Float[np.ndarray, "s p"],
    colour: str,
    label: str,
    dashes: str = "-",
) -> None:
    """A mean over seeds, and one deviation around it."""
    mean, deviation = values.mean(axis=0), _deviation(values)
    _line(axes, epochs, mean, color=colour, ls=dashes, lw=1.6, label=label)
    axes.fill_between(
        epochs, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0
    )


def _recorded(group: Sequence[Cell], name: str) -> Float[np.ndarray, "s p ..."]:
    """One of the `Curves` of all seeds of a method."""
    return np.stack([getattr(cell.curves, name) for cell in group])


def _deviation(values: Float[np.ndarray, "s ..."]) -> Float[np.ndarray, "..."]:
    """Standard deviation over the first axis; nothing to tell where that is one seed."""
    return values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])


def _skip_the_beginning(axes: Axes, curves: Sequence[Float[np.ndarray, "s p"]], more: bool) -> None:
    """Leave out most of the steep beginning, where no difference can be seen."""
    means = np.stack([curve.mean(axis=0) for curve in curves])
    means = means[np.isfinite(means).all(axis=1)]
    if not len(means):
        return
    early, late, best = means[:, means.shape[1] // 10], means[:, -1], means
    if more:
        low, high = min(np.median(early), late.min()), best.max()
    else:
        low, high = best.min(), max(np.median(early), np.quantile(late, 0.9))
    margin = max(0.1 * (high - low), 1e-3 * abs(high), 1e-9)
    axes.set_ylim(low - margin, high + margin)


def _epochs(group: Sequence[Cell]) -> Int[np.ndarray, " p"]:
    return np.arange(1, len(group[0].curves.loss) + 1)


def _legend(figure: Figure, axes: Axes, note: str | None) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(labels), 7)
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, title=note)


def _colours(count: int) -> Sequence[str]:
    """As many colours, told apart as well as may be."""
    if count <= len(TASK_COLOURS):
        return TASK_COLOURS[:count]
    return [to_hex(colormaps["turbo"](i / (count - 1))) for i in range(count)]

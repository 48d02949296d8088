"""Two regressions, one of which dominates the other, and which of them moves which layer."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.data.splits import Splits
from benchmarks.data.synthetic import INPUTS, OUTPUTS, TASKS, Regression
from benchmarks.methods import EQUAL_WEIGHTING
from benchmarks.models.mlp import MultiTaskMLP
from benchmarks.problems.baselines import ridge
from benchmarks.problems.dominance import BUCKETS, DECAY, PARTS, VARIANCES, Watched, watch
from benchmarks.problems.networks import in_trunk, network
from benchmarks.results.cells import Cell, as_read, plain, read_arrays
from benchmarks.show.pictures import STYLE, TASK_COLOURS, save
from benchmarks.suites.synthetic import Synthetic
from benchmarks.train.problem import Metric, Problem
from benchmarks.train.training import Member
from benchmarks.writing import write

MODEL: dict[str, Any] = {
    "inputs": INPUTS,
    "widths": (100, 100, 100, 100),
    "num_tasks": len(TASKS),
    "outputs": OUTPUTS,
}
LAYERS = ("all", *(f"layer {i + 1}" for i in range(len(MODEL["widths"]))))
WATCHED = (
    EQUAL_WEIGHTING,
    "pcgrad",
    "uw",
    "cagrad",
    "gradnorm",
    "layerwise_adatask",
    "adatask",
)
CONTRASTED = (EQUAL_WEIGHTING, "adatask")  # In the pictures of step sizes and of noise.
SHARES = ("#0072B2", "#8ec1de", "#dddddd", "#efb08a", "#D55E00")  # From the first task to the last.


def problem(suite: Synthetic) -> Problem:
    """The regressions, the network and their losses."""
    splits: Splits = suite.data
    made = network(lambda rngs: MultiTaskMLP(**MODEL, rngs=rngs))
    first = np.mean(splits.train.y.astype(float) ** 2, axis=(0, 2))

    def losses(outputs: Float[Array, "n t d"], batch: Regression) -> Float[Array, " t"]:
        return jnp.mean((outputs - batch.y) ** 2, axis=(0, 2))

    def scores(outputs: Float[np.ndarray, "n t d"], rows: Regression) -> Any:
        return 100 * np.mean((outputs - rows.y) ** 2, axis=(0, 2)) / first

    return Problem(
        tasks=TASKS,
        # Of that of the answer zero, which is nearly the untrained network's.
        metrics=tuple(
            Metric(f"{task} loss %", number, higher_is_better=False)
            for number, task in enumerate(TASKS)
        ),
        init=made.init,
        shared=in_trunk,
        forward=lambda params, batch: made.apply(params, batch.x),
        losses=losses,
        scores=scores,
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        batch_size=suite.rows_per_batch,
        query_fraction=suite.query_fraction,
        optimizer=lambda rate: optax.rmsprop(rate, decay=DECAY),
        config={
            "suite": suite.name,
            "data": suite.drawn,
            "model": MODEL,
            "optimizer": f"rmsprop, decay {DECAY}",
        },
        baseline=ridge(Splits(*(part.x for part in splits)), Splits(*(part.y for part in splits))),
    )


def draw_dominance(suite: Synthetic, cells: Mapping[str, Sequence[Cell]]) -> None:
    """Train each watched method once more, with the tasks' parts of each update recorded."""
    problem = suite.problem()
    found = {}
    for method in filter(cells.get, WATCHED):
        first = cells[method][0]
        rate = first.learning_rate
        path = suite.folder / f"dominance-{method}.json"
        config = as_read({"config": first.config, "learning_rate": rate})
        arrays = None if suite.fresh else read_arrays(path, Watched._fields, config)
        if arrays is not None:
            kept = Watched(**arrays)
        else:
            member, epochs = Member(0, rate), suite.protocol.epochs
            kept = watch(method, problem, member, epochs, first.chosen)
            told = {name: plain(value.tolist()) for name, value in kept._asdict().items()}
            write(path, json.dumps({**config, **told}) + "\n")
        found[method] = kept
    two = {method: found[method] for method in CONTRASTED if method in found}
    with mpl.rc_context(STYLE):
        for name, figure in (
            ("dominance.png", _dominance(found)),
            ("steps.png", _steps(two)),
            ("noise.png", _noise(two)),
        ):
            save(figure, suite.folder / name)


def _panels(
    rows: Sequence[str], columns: Sequence[str], width: float = 2.1, **shared: Any
) -> tuple[Figure, Any]:
    """A row of panels for each method."""
    size = (1 + width * len(columns), 0.9 + 1.4 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False, **shared)
    for name, row in zip(rows, grid, strict=True):
        row[0].set_ylabel(name)
    for name, axes in zip(columns, grid[0], strict=True):
        axes.set_title(name, loc="left")
    return figure, grid


def _legend(figure: Figure, axes: Axes, title: str) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), title=title)


def _dominance(found: Mapping[str, Watched]) -> Figure:
    """How many parameters fall in each bucket of B's share of their squared updates."""
    figure, grid = _panels(list(found), LAYERS, sharex=True, sharey=True)
    for row, watched in zip(grid, found.values(), strict=True):
        for axes, shares in zip(row, np.moveaxis(100 * watched.shares, 1, 0), strict=True):
            epochs = np.arange(1, len(shares) + 1)
            tops = shares.cumsum(axis=1)
            for bucket, colour in enumerate(SHARES):
                low, high = (100 * i // BUCKETS for i in (bucket, bucket + 1))
                bottom = tops[:, bucket] - shares[:, bucket]
                label = f"{low} to {high} %"
                axes.bar(epochs, shares[:, bucket], 1, bottom, color=colour, label=label)
            axes.set_ylim(0, 100)
            axes.grid(visible=False)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("parameters (%)", fontsize=9)
    _legend(figure, grid[0, 0], f"{TASKS[-1]}'s share of a parameter's squared updates (rAU)")
    return figure


def _steps(found: Mapping[str, Watched]) -> Figure:
    """By whose gradients the step sizes go."""
    figure, grid = _panels(list(found), LAYERS[1:], sharex=True)
    for row, watched in zip(grid, found.values(), strict=True):
        for axes, sizes in zip(row, np.moveaxis(watched.sizes, 1, 0), strict=True):
            epochs = np.arange(1, len(sizes) + 1)
            for name, colour, style, values in zip(
                (*TASKS, "both"),
                (*TASK_COLOURS[:2], "black"),
                ("-", "-", ":"),
                sizes.T,
                strict=True,
            ):
                axes.plot(epochs, values, color=colour, ls=style, label=name)
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("mean of 1 / √G over ten parameters", fontsize=9)
    _legend(figure, grid[0, 0], "G, the averaged squares, of the gradients of")
    return figure


def _noise(found: Mapping[str, Watched]) -> Figure:
    """How much noise in what B moves most harms A and B."""
    ways = (
        (f"variance of noise in {PARTS[0]} %", VARIANCES),
        (f"parameters (%) with noise of {VARIANCES[0]:g}", PARTS),
    )
    figure, grid = _panels(list(found), [name for name, _ in ways], width=3)
    for row, watched in zip(grid, found.values(), strict=True):
        rises = np.split(watched.noise, [len(VARIANCES)])
        for axes, (_, labels), rise in zip(row, ways, rises, strict=True):
            for task, (name, colour) in enumerate(zip(TASKS, TASK_COLOURS, strict=False)):
                places = np.arange(len(labels)) + 0.4 * task - 0.2
                axes.bar(places, rise[:, task], 0.4, color=colour, label=name)
            axes.set_xticks(np.arange(len(labels)), [f"{label:g}" for label in labels])
    figure.supylabel("rise of the loss (%)", fontsize=9)
    _legend(figure, grid[0, 0], "task")
    return figure

"""Two regressions of different scale, and which of them moves which layer."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree
from matplotlib.figure import Figure

import mtl_optax as mtl
from benchmarks.data.splits import Splits
from benchmarks.data.synthetic import SCALES, Regression
from benchmarks.errors import UserError
from benchmarks.methods import EQUAL_WEIGHTING
from benchmarks.models.mlp import MultiTaskMLP
from benchmarks.problems.baselines import ridge
from benchmarks.problems.networks import in_trunk, network
from benchmarks.results.cells import Cell, as_read
from benchmarks.show.pictures import STYLE, TASK_COLOURS, save
from benchmarks.suites.synthetic import DATA, Synthetic
from benchmarks.train.problem import Metric, Problem
from benchmarks.train.recipes import Recipe
from benchmarks.train.training import Member, train
from benchmarks.writing import write

TASKS = tuple(f"scale {scale:g}" for scale in SCALES)
MODEL: dict[str, Any] = {
    "inputs": 250,
    "widths": (100, 100, 100, 100),
    "num_tasks": len(SCALES),
    "outputs": 100,
}
WATCHED = (EQUAL_WEIGHTING, "adatask", "layerwise_adatask")


def problem(suite: Synthetic) -> Problem:
    """The regressions, the network and their losses."""
    data = DATA[suite.preset]
    splits: Splits = suite.data
    made = network(lambda rngs: MultiTaskMLP(**MODEL, rngs=rngs))

    def losses(outputs: Float[Array, "n t d"], batch: Regression) -> Float[Array, " t"]:
        return jnp.mean((outputs - batch.y) ** 2, axis=(0, 2))

    def scores(outputs: Float[np.ndarray, "n t d"], rows: Regression) -> Any:
        return np.sqrt(np.mean((outputs - rows.y) ** 2, axis=(0, 2))) / np.array(SCALES)

    return Problem(
        tasks=TASKS,
        metrics=tuple(
            Metric(f"{task} RMSE/scale", number, higher_is_better=False)
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
        optimizer=optax.rmsprop,
        config={"suite": suite.name, "data": data, "model": MODEL, "optimizer": "rmsprop"},
        baseline=ridge(Splits(*(part.x for part in splits)), Splits(*(part.y for part in splits))),
    )


def draw_dominance(suite: Synthetic, cells: Mapping[str, Sequence[Cell]]) -> None:
    """Train each watched method once more, with the tasks' parts of each update recorded."""
    problem = suite.problem()
    found = {}
    for method in filter(cells.get, WATCHED):
        rate = cells[method][0].learning_rate
        path = suite.folder / f"dominance-{method}.json"
        config = as_read({"config": cells[method][0].config, "learning_rate": rate})
        kept = None if suite.fresh else _kept(path, config)
        if kept is None:
            kept = dominance(method, problem, Member(0, rate), suite.protocol.epochs)
            write(path, json.dumps({**config, "histograms": kept}) + "\n")
        found[method] = kept
    with mpl.rc_context(STYLE):
        save(_picture(found), suite.folder / "dominance.png")


def dominance(
    method: str, problem: Problem, member: Member, epochs: int
) -> dict[str, list[list[float]]]:
    """Histograms of the tasks' shares of the squared updates, by layer: ``(t, 5)`` each."""
    tasks = problem.num_tasks

    def optimizer(rate: Any) -> optax.GradientTransformation:
        parts = {
            EQUAL_WEIGHTING: lambda: mtl.split_step(tasks, problem.optimizer(rate)),
            "adatask": lambda: mtl.adatask(tasks, problem.optimizer(rate), combine=False),
            "layerwise_adatask": lambda: mtl.layerwise_adatask(
                tasks, learning_rate=rate, combine=False
            ),
        }[method]
        watched = optax.chain(parts(), mtl.track_dominance(tasks), mtl.sum_tasks(tasks))
        return mtl.on_shared(watched, problem.shared, heads=problem.optimizer(rate))

    def update(rate: Any, params: PyTree, state: PyTree, batch: PyTree, query: Any) -> Any:
        losses, grads = problem.value_and_task_grads(params, batch)
        step = optax.with_extra_args_support(optimizer(rate)).update
        return losses, *step(grads, state, params, task_losses=losses)

    run = train(Recipe(problem, optimizer(1.0).init, update), [member], epochs=epochs)
    squares = optax.tree_utils.tree_get(run.states[0], "squares")
    return {
        layer: np.asarray(histogram, float).round(6).tolist()
        for layer, histogram in mtl.dominance_by_layer(squares, group=_layer).items()
    }


def _layer(path: Any) -> str:
    """The number of the layer, whose kernel and bias belong together."""
    return f"layer {path[2].key + 1}"


def _kept(path: Any, config: dict[str, Any]) -> dict[str, list[list[float]]] | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        histograms = content.pop("histograms")
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path}: not a finished file; remove it or pass --fresh") from error
    return histograms if content == config else None


def _picture(found: dict[str, dict[str, list[list[float]]]]) -> Figure:
    """A row of panels for each method, a panel for each layer, a bar for each task and bucket."""
    layers = list(next(iter(found.values())))
    figure = Figure(figsize=(1 + 2.1 * len(layers), 0.9 + 1.7 * len(found)), layout="constrained")
    grid = figure.subplots(len(found), len(layers), sharex=True, sharey=True, squeeze=False)
    centres = np.arange(5) * 20 + 10
    for row, (method, histograms) in zip(grid, found.items(), strict=True):
        row[0].set_ylabel(method)
        for axes, layer in zip(row, layers, strict=True):
            for number, (task, colour) in enumerate(zip(TASKS, TASK_COLOURS, strict=False)):
                shares = 100 * np.array(histograms[layer][number])
                axes.bar(centres + 8 * number - 4, shares, 8, color=colour, label=task)
    for axes, layer in zip(grid[0], layers, strict=True):
        axes.set_title(layer, loc="left")
    figure.supxlabel("a task's share of a parameter's squared updates (%)", fontsize=9)
    figure.supylabel("parameters (%)", fontsize=9)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(TASKS))
    return figure

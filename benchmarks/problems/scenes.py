"""Rendered rooms, MTAN in small, and pictures of what it says of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.figure import Figure

from benchmarks.data.scenes import CLASSES
from benchmarks.data.scenes import Scenes as Pictures
from benchmarks.methods import EQUAL_WEIGHTING, SIMPLE_MODEL
from benchmarks.models.mtan import MTAN
from benchmarks.models.patches import into_patches, out_of_patches
from benchmarks.problems import pixels
from benchmarks.problems.baselines import boosted_pixels
from benchmarks.problems.networks import head_of, in_trunk, normalised_network
from benchmarks.results.cells import Cell, as_read, read_arrays
from benchmarks.show.pictures import STYLE, save
from benchmarks.suites.scenes import DATA, MODEL, TRAINING, Scenes
from benchmarks.train.problem import Problem
from benchmarks.train.recipes import recipe
from benchmarks.train.schedules import warm_up_and_cosine
from benchmarks.train.training import Member, answers, train
from benchmarks.writing import write

FEW = 20_000  # Pixels for the baseline, so that it takes seconds.
SHOWN = 2  # Test pictures.
PREFERRED = (EQUAL_WEIGHTING, "mgda", "nash_mtl")  # What is shown of them, if it is there.


def problem(suite: Scenes) -> Problem:
    """The pictures, the network and their losses."""
    data, sizes = suite.data, MODEL[suite.preset]
    sizes = {**sizes, "inputs": 3 * sizes["patch"] ** 2}
    patch, outputs = sizes["patch"], pixels.outputs_of(len(CLASSES))
    made = normalised_network(
        lambda rngs: MTAN(
            outputs={task: number * patch**2 for task, number in outputs.items()},
            channels=sizes["channels"],
            inputs=sizes["inputs"],
            rngs=rngs,
        ),
        suite.precision,
    )

    def forward(params: Any, batch: Pictures, statistics: Any, training: bool) -> Any:
        squares = into_patches(jnp.asarray(batch.images), patch)
        said, statistics = made.apply(params, statistics, training, squares)
        return jax.tree.map(lambda x: out_of_patches(x, patch), said), statistics

    return Problem(
        tasks=pixels.TASKS,
        metrics=pixels.METRICS,
        init=made.init,
        statistics=made.statistics,
        shared=in_trunk,
        task_of=head_of(pixels.TASKS),
        forward=forward,
        losses=pixels.losses,
        answers=pixels.answers,
        scores=pixels.scores(len(CLASSES)),
        train=data.train,
        validation=data.validation,
        test=data.test,
        batch_size=suite.rows_per_batch,
        query_fraction=suite.query_fraction,
        schedule=warm_up_and_cosine(TRAINING["warm_up"]),
        on_host=True,
        chunk=20,
        at_once=2,
        config={
            "suite": suite.name,
            "data": DATA[suite.preset],
            "model": sizes,
            "training": TRAINING,
            **suite.told,
        },
        baseline=boosted_pixels(data, rows=FEW),
    )


def draw_answers(suite: Scenes, cells: Mapping[str, Sequence[Cell]]) -> None:
    """Draw what three methods say of the first test pictures, trained once more with seed 0."""
    asked = suite.problem()
    few = jax.tree.map(lambda x: x[:SHOWN], suite.data.test)
    targets = dict(zip(pixels.TASKS, (few.labels, few.depths[..., None], few.normals), strict=True))
    found = {"target": targets}
    others = [method for method in cells if method not in (SIMPLE_MODEL, *PREFERRED)]
    for method in [*filter(cells.get, PREFERRED), *others][:3]:
        first = cells[method][0]
        rate = first.learning_rate
        path = suite.folder / f"answers-{method}.json"
        config = as_read({"config": first.config, "learning_rate": rate})
        cents = None if suite.fresh else read_arrays(path, pixels.TASKS, config)
        if cents is None:
            made = recipe(method, asked, first.chosen)
            run = train(made, [Member(0, rate)], epochs=suite.protocol.epochs)
            params, statistics = jax.tree.map(lambda x: x[0], (run.params, run.statistics))
            told = answers(made.problem, params, statistics, few)[1]
            cents = {task: np.rint(100 * np.asarray(told[task], float)) for task in pixels.TASKS}
            plain = {task: x.astype(int).tolist() for task, x in cents.items()}
            write(path, json.dumps({**config, **plain}) + "\n")
        found[method] = {task: x / 100 for task, x in cents.items()}
    with mpl.rc_context(STYLE):
        save(_picture(few.images, found), suite.folder / "answers.png")


def _picture(
    images: Float[np.ndarray, "n h w 3"], found: Mapping[str, Mapping[str, np.ndarray]]
) -> Figure:
    """A row of panels for each task of each picture; white is what has no target."""
    figure = Figure(figsize=(2.3 * (1 + len(found)), 4.6 * len(images)), layout="constrained")
    grid = figure.subplots(len(pixels.TASKS) * len(images), 1 + len(found), squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
    for name, axes in zip(("picture", *found), grid[0], strict=True):
        axes.set_title(name, loc="left")
    for number, image in enumerate(images):
        farthest = found["target"][pixels.DEPTH][number].max()
        grid[3 * number, 0].imshow(image)
        for task, row in zip(pixels.TASKS, grid[3 * number : 3 * number + 3], strict=True):
            row[1].set_ylabel(task)
            for axes, told in zip(row[1:], found.values(), strict=True):
                axes.imshow(_colours(task, told[task][number], farthest))
    return figure


def _colours(
    task: str, told: Float[np.ndarray, "h w ..."], farthest: float
) -> Float[np.ndarray, "h w 3"]:
    if task == pixels.SEGMENTATION:
        palette = np.array([*colormaps["tab10"](range(len(CLASSES)))[:, :3], (1, 1, 1)])
        return palette[told.astype(int)]  # The last is that of -1.
    if task == pixels.DEPTH:
        depth = told[..., 0]
        shades = colormaps["viridis"](depth / farthest)[..., :3]
        return np.where((depth != 0)[..., None], shades, 1)
    lengths = np.linalg.norm(told, axis=-1, keepdims=True)
    return np.where(lengths > 0, 0.5 + 0.5 * told / np.maximum(lengths, 1e-9), 1)

"""What is to be told of each pixel of a photograph: NYUv2's three tasks, CityScapes' first two."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.data.scenes import Scenes
from benchmarks.data.splits import Splits
from benchmarks.data.zoomed import Depth, zoomed
from benchmarks.models.mtan import MTAN
from benchmarks.models.segnet import SegNet
from benchmarks.problems import pixels
from benchmarks.problems.networks import head_of, in_trunk, normalised_network
from benchmarks.problems.options import PhotographSuite
from benchmarks.problems.pixels import DEPTH, NORMALS, SEGMENTATION
from benchmarks.train.problem import Baseline, Metric, Problem
from benchmarks.train.schedules import halved_halfway
from mtl_optax import metrics

MODELS = {"segnet": SegNet, "mtan": MTAN}
STREETS = pixels.TASKS[:2]
OF_STREETS = (
    *pixels.METRICS[:2],
    Metric("disparity off ‰", 1, higher_is_better=False),
    Metric("disparity off relative", 1, higher_is_better=False),
)
"""In units of which one is worth about as much as one of another; the second error is no percentage
in the papers either: disparities close to zero make it large."""


def photograph_problem(suite: PhotographSuite, classes: int, depth: Depth) -> Problem:
    """The pictures, zoomed and mirrored to train on, the network and its losses."""
    data: Splits = suite.data
    streets = data.train.normals is None
    tasks = STREETS if streets else pixels.TASKS
    outputs = {task: pixels.outputs_of(classes)[task] for task in tasks}
    channels = suite.channels[suite.preset]
    made = normalised_network(
        lambda rngs: MODELS[suite.model](outputs=outputs, channels=channels, rngs=rngs),
        suite.precision,
    )
    return Problem(
        tasks=tasks,
        metrics=OF_STREETS if streets else pixels.METRICS,
        init=made.init,
        statistics=made.statistics,
        shared=in_trunk,
        task_of=head_of(tasks),
        forward=lambda params, batch, statistics, training: made.apply(
            params, statistics, training, batch.images
        ),
        losses=pixels.losses,
        answers=pixels.answers,
        scores=street_scores(classes) if streets else pixels.scores(classes),
        train=data.train,
        validation=data.validation,
        test=data.test,
        batch_size=suite.rows_per_batch,
        query_fraction=suite.query_fraction,
        schedule=halved_halfway,
        noise=partial(zoomed, depth=depth),
        on_host=True,
        chunk=8,
        at_once=1,
        config={
            "suite": suite.name,
            "data": {"pictures": [len(part.images) for part in data]},
            "model": {"name": suite.model, "channels": channels},
            "training": {"zoomed": True, "depth": depth},
            **suite.told,
        },
        baseline=same_everywhere(data, classes),
    )


def street_scores(
    classes: int,
) -> Callable[[Mapping[str, np.ndarray], Scenes], Float[np.ndarray, " 4"]]:
    """The figures of a split, over all its pixels together, of `OF_STREETS`."""

    def figures(answers: Mapping[str, np.ndarray], data: Scenes) -> Float[np.ndarray, " 4"]:
        depth = metrics.depth_errors(answers[DEPTH][..., 0], data.depths)
        return np.array(
            [
                *pixels.shares(answers, data, classes),
                1000 * float(depth.absolute),
                float(depth.relative),
            ]
        )

    return figures


def same_everywhere(data: Splits, classes: int) -> Baseline:
    """One answer for all pictures: what is most frequent, or the mean, at each pixel's place."""

    def answers() -> tuple[Any, Any]:
        train: Scenes = data.train
        counts = [(train.labels == label).sum(axis=0) for label in range(classes)]
        known = train.depths != 0
        depths = np.where(known, train.depths, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        one = {SEGMENTATION: np.argmax(counts, axis=0).astype(np.int8), DEPTH: depths[..., None]}
        if train.normals is not None:
            one[NORMALS] = train.normals.mean(axis=0)

        def told(split: Scenes) -> dict[str, np.ndarray]:
            number = len(split.images)
            return {task: np.broadcast_to(x, (number, *x.shape)) for task, x in one.items()}

        return told(data.validation), told(data.test)

    return Baseline("the most frequent class and the means at each pixel's place", answers)

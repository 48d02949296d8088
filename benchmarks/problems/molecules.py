"""Descriptors to properties, by squared errors."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.data.molecules import Molecules as Rows
from benchmarks.data.splits import Splits
from benchmarks.models.mlp import MultiTaskMLP
from benchmarks.problems.baselines import boosted_regressions
from benchmarks.problems.networks import in_trunk, network
from benchmarks.suites.molecules import Molecules
from benchmarks.train.problem import Metric, Problem
from benchmarks.train.schedules import warm_up_and_cosine

MODEL: dict[str, dict[str, Any]] = {
    "quick": {"widths": (128, 64)},
    "standard": {"widths": (512, 512)},
    "paper": {"widths": (512, 512, 256)},
}
# Energies are nearly linear in the descriptors: heads see these, too.
TRAINING: dict[str, float] = {"warm_up": 0.05, "weight_decay": 0.3}


def problem(suite: Molecules) -> Problem:
    """The descriptors, the network and their losses."""
    splits, tasks = suite.data.splits, suite.data.tasks
    model = {
        **MODEL[suite.preset],
        "inputs": splits.train.descriptors.shape[1],
        "num_tasks": len(tasks),
        "outputs": 1,
        "linear": True,
    }
    made = network(lambda rngs: MultiTaskMLP(**model, rngs=rngs))

    def losses(outputs: Float[Array, "n t"], batch: Rows) -> Float[Array, " t"]:
        return jnp.mean((outputs - batch.targets) ** 2, axis=0)

    def scores(outputs: Float[np.ndarray, "n t"], rows: Rows) -> Float[np.ndarray, " t"]:
        return np.abs(outputs - rows.targets).mean(axis=0)

    return Problem(
        tasks=tuple(tasks),
        metrics=tuple(
            Metric(f"{task} MAE/sd", number, higher_is_better=False)
            for number, task in enumerate(tasks)
        ),
        init=made.init,
        shared=in_trunk,
        forward=lambda params, batch: made.apply(params, batch.descriptors)[..., 0],
        losses=losses,
        scores=scores,
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        batch_size=suite.rows_per_batch,
        query_fraction=suite.query_fraction,
        schedule=warm_up_and_cosine(TRAINING["warm_up"]),
        weight_decay=TRAINING["weight_decay"],
        config={"suite": suite.name, "data": {}, "model": model, "training": TRAINING},
        baseline=boosted_regressions(
            Splits(*(part.descriptors for part in splits)),
            Splits(*(part.targets for part in splits)),
        ),
    )

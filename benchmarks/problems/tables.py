"""Tables with several yes-or-no questions: ``census`` and ``aliexpress``."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from benchmarks.data.splits import Splits
from benchmarks.data.tables import Table
from benchmarks.models.experts import BACKBONES
from benchmarks.problems.baselines import boosted_tables
from benchmarks.problems.networks import auc, in_trunk, network
from benchmarks.problems.options import Backbone
from benchmarks.train.problem import Metric, Problem
from benchmarks.train.schedules import warm_up_and_cosine

EXPERTS: dict[Backbone, dict[str, int]] = {
    "shared_bottom": {},
    "mmoe": {"experts": 4},
    "ple": {"shared_experts": 2, "task_experts": 1, "levels": 2},
}


def table_problem(
    suite: str,
    tasks: Sequence[str],
    data: Splits,
    cardinalities: Sequence[int],
    backbone: Backbone,
    model: dict[str, Any],
    given: dict[str, Any],
    training: Mapping[str, float],
    **options: Any,
) -> Problem:
    """All questions about each row, by binary cross-entropy; scored by AUC."""
    sizes = {
        **model,
        **EXPERTS[backbone],
        "numeric": data.train.numeric.shape[1],
        "cardinalities": tuple(cardinalities),
        "num_tasks": len(tasks),
    }
    made = network(lambda rngs: BACKBONES[backbone](**sizes, rngs=rngs))

    def losses(logits: Float[Array, "n t"], batch: Table) -> Float[Array, " t"]:
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, batch.labels), axis=0)

    def scores(logits: Float[np.ndarray, "n t"], table: Table) -> Float[np.ndarray, " t"]:
        return auc(logits, table.labels)

    return Problem(
        tasks=tuple(tasks),
        metrics=tuple(Metric(f"{task} AUC %", number) for number, task in enumerate(tasks)),
        init=made.init,
        shared=in_trunk,
        forward=lambda params, batch: made.apply(params, batch.numeric, batch.categories),
        losses=losses,
        scores=scores,
        train=data.train,
        validation=data.validation,
        test=data.test,
        schedule=warm_up_and_cosine(training["warm_up"]),
        weight_decay=training["weight_decay"],
        config={
            "suite": suite,
            "data": given,
            "backbone": backbone,
            "model": sizes,
            "training": training,
        },
        baseline=boosted_tables(data, cardinalities),
        **options,
    )

"""Tables with several questions about each row: most of them yes or no, some a number."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import mtl_optax as mtl
from benchmarks.data.splits import Splits
from benchmarks.data.tables import Table
from benchmarks.models.backbones import BACKBONES
from benchmarks.problems.baselines import boosted_tables
from benchmarks.problems.networks import auc, in_trunk, network
from benchmarks.problems.options import Backbone
from benchmarks.train.problem import Metric, Problem
from benchmarks.train.schedules import warm_up_and_cosine

EXPERTS: dict[Backbone, dict[str, int]] = {
    "shared_bottom": {},
    "mmoe": {"experts": 4},
    "ple": {"shared_experts": 2, "task_experts": 1, "levels": 2},
    "dcn": {"layers": 3},
    "dcn_v2": {"layers": 3},
}


def table_problem(
    suite: str,
    tasks: Sequence[str],
    data: Splits,
    cardinalities: Sequence[int],
    backbone: Backbone,
    model: dict[str, Any],
    given: dict[str, Any],
    *,
    numbers: Sequence[str] = (),
    weights: str | Mapping[str, float] | None = None,
    training: Mapping[str, float] | None = None,
    **options: Any,
) -> Problem:
    """All questions about each row, by binary cross-entropy; scored by AUC.

    Of the tasks in ``numbers`` the answer is a number: by squared error, scored by the part of the
    variance that it explains, and the absolute error stands beside it.
    Where ``weights`` has one for each task, or is a name in `mtl_optax.metrics.AUC_WEIGHTS`, the
    weighted mean of the AUCs stands beside them, and where the rows have users, that of the AUCs
    user by user. ``training`` has a warm-up, which a cosine follows, and a weight decay.
    """
    sizes = {
        **model,
        **EXPERTS[backbone],
        "numeric": data.train.numeric.shape[1],
        "cardinalities": tuple(cardinalities),
        "num_tasks": len(tasks),
    }
    made = network(lambda rngs: BACKBONES[backbone](**sizes, rngs=rngs))

    is_number = np.isin(tasks, numbers)

    def losses(outputs: Float[Array, "n t"], batch: Table) -> Float[Array, " t"]:
        answers = optax.sigmoid_binary_cross_entropy(outputs, batch.labels)
        squares = (outputs - batch.labels) ** 2
        return jnp.mean(jnp.where(is_number[None], squares, answers), axis=0)

    how: dict[str, Any] = {}
    if training is not None:
        how["schedule"] = warm_up_and_cosine(training["warm_up"])
        how["weight_decay"] = training["weight_decay"]
    by_user = weights is not None and data.train.users is not None
    others = ["weighted AUC %"] * (weights is not None) + ["weighted uAUC %"] * by_user

    def scores(logits: Float[np.ndarray, "n t"], table: Table) -> Float[np.ndarray, " m"]:
        areas = [auc(logits, np.where(is_number, 0, table.labels))]
        off = (logits - table.labels)[:, is_number]
        areas[0][is_number] = 100 * (1 - np.mean(off**2, 0) / table.labels[:, is_number].var(0))
        areas.append(np.abs(off).mean(axis=0))
        if weights is not None:
            kinds = [areas[0], *([_by_user(logits, table)] if by_user else [])]
            areas += [
                np.atleast_1d(
                    mtl.metrics.weighted_auc(dict(zip(tasks, each, strict=True)), weights)
                )
                for each in kinds
            ]
        return np.concatenate(areas)

    return Problem(
        tasks=tuple(tasks),
        metrics=(
            *(
                Metric(f"{task} R² %" if task in numbers else f"{task} AUC %", place)
                for place, task in enumerate(tasks)
            ),
            *(
                Metric(f"{task} off", place, higher_is_better=False, counts=False)
                for place, task in enumerate(tasks)
                if task in numbers
            ),
            # Of all tasks: they stand beside the first and enter no choice.
            *(Metric(name, 0, counts=False) for name in others),
        ),
        init=made.init,
        shared=in_trunk,
        forward=lambda params, batch: made.apply(params, batch.numeric, batch.categories),
        losses=losses,
        scores=scores,
        train=data.train,
        validation=data.validation,
        test=data.test,
        config={
            "suite": suite,
            "data": given,
            "backbone": backbone,
            "model": sizes,
            **({} if training is None else {"training": training}),
        },
        baseline=boosted_tables(data, cardinalities, is_number.tolist()),
        **how,
        **options,
    )


def _by_user(logits: Float[np.ndarray, "n t"], table: Table) -> Float[np.ndarray, " t"]:
    """Each task's uAUC in percent."""
    return 100 * np.array(
        [
            mtl.metrics.user_auc(score, of_task, table.users, digits=6)
            for score, of_task in zip(logits.T, table.labels.T, strict=True)
        ]
    )

"""Tables with several questions about each row: most of them yes or no, some a number."""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

import mtl_optax as mtl
from benchmarks.data.splits import Splits
from benchmarks.data.tables import Table, binned
from benchmarks.models.backbones import BACKBONES
from benchmarks.problems.baselines import boosted_tables
from benchmarks.problems.networks import auc, in_trunk, network, side_by_side
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
    weights: Mapping[str, str] = MappingProxyType({}),
    bins: int = 0,
    members: int = 1,
    training: Mapping[str, float] | None = None,
    **options: Any,
) -> Problem:
    """All questions about each row, by binary cross-entropy; scored by AUC.

    Of the tasks in ``numbers`` the answer is a number: by squared error, scored by the part of the
    variance that it explains, and the absolute error stands beside it.
    Beside them stand weighted means of the AUCs, and where the rows have users, of the AUCs user by
    user: for each of ``weights`` one, whose name begins with the key and whose weights are those of
    that name in `mtl_optax.metrics.AUC_WEIGHTS`.
    With ``bins`` the networks also read in which of at most so many bins each number lies. Several
    ``members`` are networks side by side, each with its own loss, whose mean output is scored.
    ``training`` has a warm-up, which a cosine follows, a weight decay, and the part of the
    categories that are made unknown.
    """
    is_number = np.isin(tasks, numbers)
    simple = boosted_tables(data, cardinalities, is_number.tolist())
    if bins:
        data, more = binned(data, bins)
        cardinalities = (*cardinalities, *more)
    sizes = {
        **model,
        **EXPERTS[backbone],
        "numeric": data.train.numeric.shape[1],
        "cardinalities": tuple(cardinalities),
        "num_tasks": len(tasks),
    }
    made = network(lambda rngs: BACKBONES[backbone](**sizes, rngs=rngs))
    if members > 1:
        made = side_by_side(made, members)

    def losses(outputs: Float[Array, "n t *m"], batch: Table) -> Float[Array, " t"]:
        of_each = outputs.reshape(*batch.labels.shape, -1)
        labels = batch.labels[..., None]
        answers = optax.sigmoid_binary_cross_entropy(of_each, labels)
        squares = (of_each - labels) ** 2
        return jnp.mean(jnp.where(is_number[None, :, None], squares, answers), axis=(0, 2))

    how: dict[str, Any] = {}
    if training is not None:
        how["schedule"] = warm_up_and_cosine(training["warm_up"])
        how["weight_decay"] = training["weight_decay"]
        how["noise"] = partial(_some_unknown, part=training["unknown"])
    kinds = ["AUC %", "uAUC %"] if data.train.users is not None else ["AUC %"]
    others = [f"{name} {kind}" for kind in kinds for name in weights]

    def scores(outputs: Float[np.ndarray, "n t *m"], table: Table) -> Float[np.ndarray, " s"]:
        logits = outputs.reshape(*table.labels.shape, -1).mean(axis=-1)
        areas = [auc(logits, np.where(is_number, 0, table.labels))]
        off = (logits - table.labels)[:, is_number]
        areas[0][is_number] = 100 * (1 - np.mean(off**2, 0) / table.labels[:, is_number].var(0))
        areas.append(np.abs(off).mean(axis=0))
        if weights:
            found = [areas[0], *([_by_user(logits, table)] if len(kinds) > 1 else [])]
            areas += [
                np.atleast_1d(mtl.metrics.weighted_auc(dict(zip(tasks, each, strict=True)), name))
                for each in found
                for name in weights.values()
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
            **({"bins": bins} if bins else {}),
            **({"members": members} if members > 1 else {}),
            **({} if training is None else {"training": training}),
        },
        baseline=simple,
        **how,
        **options,
    )


def _some_unknown(key: PRNGKeyArray, batch: Table, *, part: float) -> Table:
    """A part of the categories made such as no training row has."""
    kept = jax.random.bernoulli(key, 1 - part, batch.categories.shape)
    known: Any = jnp.where(kept, batch.categories, 0)
    return batch._replace(categories=known)


def _by_user(logits: Float[np.ndarray, "n t"], table: Table) -> Float[np.ndarray, " t"]:
    """Each task's uAUC in percent."""
    return 100 * np.array(
        [
            mtl.metrics.user_auc(score, of_task, table.users, digits=6)
            for score, of_task in zip(logits.T, table.labels.T, strict=True)
        ]
    )

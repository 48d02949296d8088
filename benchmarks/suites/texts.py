"""Texts to classify, of a different kind for each task: what ``topic`` and ``reviews`` share."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, Float

from benchmarks.data.splits import Splits
from benchmarks.problem import Metric, Problem, mean_present
from benchmarks.suites.networks import Network, accuracy, in_trunk


def text_problem(
    tasks: Sequence[str], data: Splits, model: Network, config: Mapping[str, Any], **options: Any
) -> Problem:
    """A label for each text, by cross-entropy; ``options`` are further ones of `Problem`.

    Where the test split marks rows that repeat a training text, the mean accuracy without them is
    one more metric, which does not count.
    """
    repeats = hasattr(data.test, "repeated")
    metrics = [Metric(f"{task} %", number) for number, task in enumerate(tasks)]
    if repeats:
        metrics.append(Metric("mean % without repeats", 0, counts=False))

    def losses(logits: Float[Array, "n c"], batch: Any) -> Float[Array, ""]:
        labels = batch.labels
        return mean_present(optax.softmax_cross_entropy_with_integer_labels(logits, labels), batch)

    def scores(logits: np.ndarray, texts: Any) -> Float[np.ndarray, " m"]:
        found = accuracy(logits, texts.labels, texts.present)
        if not repeats:
            return found
        fresh = accuracy(logits, texts.labels, texts.present & ~texts.repeated)
        return np.append(found, fresh.mean())

    return Problem(
        tasks=tuple(tasks),
        metrics=tuple(metrics),
        init=model.init,
        shared=in_trunk,
        forward=lambda params, batch: model.apply(params, batch.tokens),
        losses=losses,
        scores=scores,
        train=data.train,
        validation=data.validation,
        test=data.test,
        sizes=tuple(int(n) for n in np.sum(jax.device_get(data.train.present), axis=1)),
        config=config,
        **options,
    )

"""Texts to classify, of a different kind for each task: what ``topic`` and ``reviews`` share."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from benchmarks.data.splits import Splits
from benchmarks.data.texts import glove, prepared
from benchmarks.models.text_cnn import MultiTaskTextCNN
from benchmarks.problems.baselines import linear_texts, of_each_task
from benchmarks.problems.networks import Network, accuracy, in_trunk, network
from benchmarks.problems.options import TextSuite
from benchmarks.problems.shared_private import shared_private
from benchmarks.train.problem import Metric, Problem, mean_present
from benchmarks.train.schedules import warm_up_and_cosine

MODEL: dict[str, dict[str, Any]] = {
    "quick": {"given": 32, "embedding": 8, "channels": 16, "widths": (3, 5, 7)},
    "standard": {"given": 64, "embedding": 16, "channels": 64, "widths": (3, 5, 7)},
    "paper": {"given": 300, "embedding": 16, "channels": 100, "widths": (3, 5, 7)},
}


def text_problem(suite: TextSuite, tasks: tuple[str, ...]) -> Problem:
    """A label for each text, by cross-entropy.

    Where the test split marks rows that repeat a training text, the mean accuracy without them is
    one more metric, which does not count.
    """
    options, training = suite.sizes[suite.preset], suite.training
    model = MODEL[suite.preset] | suite.model.get(suite.preset, {})
    splits, vocabulary, raw = suite.data
    if suite.embeddings is not None:
        table = glove(suite.embeddings, vocabulary)
        model |= {"given": table.shape[1]}
    else:
        rows = splits.train.tokens.reshape(-1, splits.train.tokens.shape[-1])
        table = prepared(rows, len(vocabulary), model["given"], window=training["window"])
    given = jnp.asarray(table)
    sizes = {
        **model,
        "vocabulary": len(vocabulary),
        "num_tasks": len(tasks),
        "classes": suite.classes,
    }
    made = network(lambda rngs: MultiTaskTextCNN(**sizes, rngs=rngs))
    repeats = hasattr(splits.test, "repeated")
    metrics = [Metric(f"{task} %", number) for number, task in enumerate(tasks)]
    if repeats:
        metrics.append(Metric("mean % without repeats", 0, counts=False))

    def noise_of(made: Network) -> Callable[[PRNGKeyArray, Any], Any]:
        params = jax.eval_shape(made.init, jax.random.key(0))
        features = params["heads"]["kernel"].shape[-2]

        def noise(key: PRNGKeyArray, batch: Any) -> Any:
            of_words, of_features = jax.random.split(key)
            dropped = jax.random.bernoulli(of_words, training["words"], batch.tokens.shape)
            rate = 1 - training["features"]
            shape = (*batch.labels.shape, features)
            return batch._replace(
                tokens=jnp.where(dropped & (batch.tokens > 0), 1, batch.tokens),
                kept=jax.random.bernoulli(of_features, rate, shape) / rate,
            )

        return noise

    def losses(logits: Float[Array, "n c"], batch: Any) -> Float[Array, ""]:
        wanted = optax.smooth_labels(
            jax.nn.one_hot(batch.labels, suite.classes), training["smoothing"]
        )
        return mean_present(optax.softmax_cross_entropy(logits, wanted), batch)

    def scores(logits: np.ndarray, texts: Any) -> Float[np.ndarray, " m"]:
        found = accuracy(logits, texts.labels, texts.present)
        if not repeats:
            return found
        fresh = accuracy(logits, texts.labels, texts.present & ~texts.repeated)
        return np.append(found, fresh.mean())

    problem = Problem(
        tasks=tasks,
        metrics=tuple(metrics),
        init=made.init,
        shared=in_trunk,
        forward=lambda params, batch: made.apply(params, batch.tokens, given, batch.kept),
        losses=losses,
        scores=scores,
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        sizes=tuple(int(n) for n in splits.train.present.sum(axis=1)),
        batch_size=suite.rows_per_batch,
        query_fraction=suite.query_fraction,
        schedule=warm_up_and_cosine(training["warm_up"]),
        weight_decay=training["weight_decay"],
        noise=noise_of(made),
        at_once=1,
        config={
            "suite": suite.name,
            "data": {**options, "embeddings": suite.embeddings and suite.embeddings.name},
            "model": sizes,
            "training": training,
        },
        baseline=linear_texts(
            raw,
            Splits(*(of_each_task(part.labels, part.present) for part in splits)),
            suite.classes,
        ),
    )
    adversarial = cache(lambda: shared_private(problem, sizes, given, noise_of))
    return replace(problem, adversarial=adversarial)

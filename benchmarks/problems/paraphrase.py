"""Paraphrases by binary cross-entropy, similarities by squared errors."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from scipy.stats import pearsonr

from benchmarks.data.pairs import TASKS, Pairs
from benchmarks.data.splits import Splits
from benchmarks.models.transformer import MultiTaskPairTransformer
from benchmarks.problems.baselines import of_each_task, pairs_of_texts
from benchmarks.problems.networks import in_trunk, network
from benchmarks.suites.paraphrase import DATA, Paraphrase
from benchmarks.train.problem import Metric, Problem, mean_present

MODEL: dict[str, dict[str, Any]] = {
    "quick": {"width": 32, "layers": 1, "attention_heads": 4, "hidden": 64},
    "standard": {"width": 128, "layers": 2, "attention_heads": 4, "hidden": 256},
    "paper": {"width": 128, "layers": 4, "attention_heads": 8, "hidden": 512},
}
NEAR = 0.5  # How far a similarity may be off to be counted as right.


class PairsOfKinds(NamedTuple):
    """`Pairs`, each with the kind of its task."""

    first: Any
    second: Any
    targets: Any
    present: Any
    binary: Any
    """Whether the target is yes or no, rather than a similarity from 0 to 5."""


def problem(suite: Paraphrase) -> Problem:
    """The pairs, the Transformer and their losses."""
    data, model = DATA[suite.preset], MODEL[suite.preset]
    splits, vocabulary, raw = suite.data
    sizes = {
        **model,
        "vocabulary": len(vocabulary),
        "length": data["length"],
        "num_tasks": len(TASKS),
    }
    encoder = network(lambda rngs: MultiTaskPairTransformer(**sizes, rngs=rngs))
    splits = Splits(*(_of_kinds(split) for split in splits))
    return Problem(
        tasks=TASKS,
        metrics=(
            Metric("quora accuracy %", 0),
            Metric("sts within 0.5 %", 1),
            Metric("sts 100 r", 1),
        ),
        init=encoder.init,
        shared=in_trunk,
        forward=lambda params, batch: encoder.apply(params, batch.first, batch.second)[:, 0],
        losses=_losses,
        scores=_scores,
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        sizes=tuple(int(n) for n in splits.train.present.sum(axis=1)),
        batch_size=suite.rows_per_batch,
        query_fraction=suite.query_fraction,
        at_once=1,
        config={"suite": suite.name, "data": data, "model": sizes},
        baseline=pairs_of_texts(
            raw,
            Splits(*(of_each_task(part.targets, part.present) for part in splits)),
            [task == "quora" for task in TASKS],
        ),
    )


def _of_kinds(split: Pairs) -> PairsOfKinds:
    kinds = np.array([[task == "quora"] for task in TASKS])
    return PairsOfKinds(*split, binary=np.broadcast_to(kinds, split.present.shape))


def _losses(outputs: Float[Array, " n"], batch: PairsOfKinds) -> Float[Array, ""]:
    entropy = optax.sigmoid_binary_cross_entropy(outputs, jnp.clip(batch.targets, 0, 1))
    error = (outputs - batch.targets) ** 2
    return mean_present(jnp.where(batch.binary, entropy, error), batch)


def _scores(outputs: Float[np.ndarray, "2 n"], data: PairsOfKinds) -> Float[np.ndarray, " 3"]:
    (logits, asked), (found, similarity) = (
        (outputs[t, data.present[t]], data.targets[t, data.present[t]]) for t in (0, 1)
    )
    # No correlation can be told of a network that says the same of every pair.
    varies = found.std() > 1e-6 and similarity.std() > 0
    return 100 * np.array(
        [
            np.mean((logits > 0) == (asked > 0.5)),
            np.mean(np.abs(found - similarity) <= NEAR),
            pearsonr(found, similarity).statistic if varies else 0.0,
        ]
    )

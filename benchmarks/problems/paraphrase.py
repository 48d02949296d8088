"""Paraphrases by binary cross-entropy, similarities by a loss that aims at being near."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32
from scipy.stats import pearsonr

from benchmarks.data.alike import Overlap, aligned
from benchmarks.data.pairs import TASKS, Pairs
from benchmarks.data.splits import Splits
from benchmarks.data.texts import padded, prepared
from benchmarks.models.transformer import MultiTaskPairTransformer
from benchmarks.problems.baselines import of_each_task, pairs_of_texts
from benchmarks.problems.networks import in_trunk, network
from benchmarks.suites.paraphrase import DATA, Paraphrase
from benchmarks.train.problem import Metric, Problem, mean_present
from benchmarks.train.schedules import warm_up_and_cosine

MODEL: dict[str, dict[str, Any]] = {
    "quick": {
        "given": 32,
        "embedding": 8,
        "width": 32,
        "layers": 1,
        "attention_heads": 4,
        "hidden": 64,
        "side": 16,
    },
    "standard": {
        "given": 64,
        "embedding": 16,
        "width": 64,
        "layers": 1,
        "attention_heads": 4,
        "hidden": 128,
        "side": 32,
    },
    "paper": {
        "given": 300,
        "embedding": 16,
        "width": 128,
        "layers": 4,
        "attention_heads": 8,
        "hidden": 512,
        "side": 32,
    },
}
TRAINING: dict[str, Any] = {
    "words": 0.1,
    "features": (0.3, 0.7),
    "weight_decay": 0.1,
    "warm_up": 0.1,
    "window": 5,
}
"""The parts of words and of each task's features dropped, the decay of the weights, the part of the
training in which the learning rate rises, and how far apart words are near each other."""
FARTHEST = 4.0  # Deviations of a number that tells how alike two sentences are.
NEAR = 0.5  # How far a similarity may be off to be counted as right.


class PairsOfKinds(NamedTuple):
    """`Pairs`, each with the kind of its task."""

    first: Any
    second: Any
    targets: Any
    present: Any
    binary: Any
    """Whether the target is yes or no, rather than a similarity from 0 to 5."""
    alike: Any
    """Standardised numbers that tell how alike the sentences are."""
    kept: Any
    """Factors of each pair's features, of which dropout makes many: one that is 1."""


def problem(suite: Paraphrase) -> Problem:
    """The pairs, the Transformer and their losses."""
    data, model = DATA[suite.preset], MODEL[suite.preset]
    splits, vocabulary, raw, others = suite.data
    known = len(vocabulary) - data["buckets"]
    pairs = np.concatenate([splits.train.first, splits.train.second]).reshape(-1, data["length"])
    rows = np.concatenate([pairs, others])
    given = prepared(
        np.where(rows < known, rows, 0), len(vocabulary), model["given"], window=TRAINING["window"]
    )
    overlap = Overlap([text for task in raw.train for pair in task for text in pair])
    overlaps = Splits(*([overlap(task) for task in part] for part in raw))
    counts = np.bincount(pairs.ravel(), minlength=len(vocabulary))
    splits = _standardised(
        Splits(
            *(
                _of_kinds(split, padded(part)[0], given, counts)
                for split, part in zip(splits, overlaps, strict=True)
            )
        )
    )
    sizes = {
        **model,
        "vocabulary": len(vocabulary),
        "length": data["length"],
        "num_tasks": len(TASKS),
        "alike": splits.train.alike.shape[-1],
    }
    encoder = network(lambda rngs: MultiTaskPairTransformer(**sizes, rngs=rngs))
    vectors = jnp.asarray(given)

    rate = 1 - jnp.array(TRAINING["features"])[:, None, None]

    def noise(key: PRNGKeyArray, batch: Any) -> Any:
        words, features = jax.random.split(key)
        shape = (*batch.targets.shape, 6 * model["width"])
        salt = jax.random.bits(words, (*batch.targets.shape, 1))
        drop = partial(_without, salt=salt, part=TRAINING["words"])
        return batch._replace(
            first=drop(batch.first),
            second=drop(batch.second),
            kept=jax.random.bernoulli(features, rate, shape) / rate,
        )

    return Problem(
        tasks=TASKS,
        metrics=(
            Metric("quora accuracy %", 0),
            Metric("sts within 0.5 %", 1),
            Metric("sts 100 r", 1),
        ),
        init=encoder.init,
        shared=in_trunk,
        forward=lambda params, batch: encoder.apply(
            params, batch.first, batch.second, batch.alike, vectors, batch.kept
        )[:, 0],
        losses=_losses,
        scores=_scores,
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        sizes=tuple(int(n) for n in splits.train.present.sum(axis=1)),
        batch_size=suite.rows_per_batch,
        query_fraction=suite.query_fraction,
        schedule=warm_up_and_cosine(TRAINING["warm_up"]),
        weight_decay=TRAINING["weight_decay"],
        noise=noise,
        at_once=1,
        config={"suite": suite.name, "data": data, "model": sizes, "training": TRAINING},
        baseline=pairs_of_texts(
            overlaps,
            Splits(*(of_each_task(part.targets, part.present) for part in splits)),
            [task == "quora" for task in TASKS],
        ),
    )


def _without(
    tokens: Int[Array, "... l"], *, salt: UInt32[Array, "... 1"], part: float
) -> Int[Array, "... l"]:
    """A part of the words made unknown: those of one pair alike in both sentences."""
    mixed = tokens.astype(jnp.uint32) * jnp.uint32(2654435761) ^ salt
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x45D9F3B)
    dropped = (mixed ^ (mixed >> 16)) < jnp.uint32(int(part * 2**32))
    return jnp.where(dropped & (tokens > 0), 1, tokens)


def _of_kinds(
    split: Pairs,
    overlap: Float[np.ndarray, "t n f"],
    vectors: Float[np.ndarray, "v g"],
    counts: Int[np.ndarray, " v"],
) -> PairsOfKinds:
    kinds = np.array([[task == "quora"] for task in TASKS])
    close = [
        aligned(*sides, vectors, counts) for sides in zip(split.first, split.second, strict=True)
    ]
    return PairsOfKinds(
        *split,
        binary=np.broadcast_to(kinds, split.present.shape),
        alike=np.concatenate([overlap, np.stack(close)], axis=-1),
        kept=np.ones((*split.present.shape, 1), np.float32),
    )


def _standardised(splits: Splits) -> Splits:
    """`alike` by the training pairs."""
    train = splits.train.alike[splits.train.present]
    mean, deviation = train.mean(axis=0), np.maximum(train.std(axis=0), 1e-6)

    def standardised(split: PairsOfKinds) -> PairsOfKinds:
        alike = np.clip((split.alike - mean) / deviation, -FARTHEST, FARTHEST)
        return split._replace(alike=alike.astype(np.float32))

    return Splits(*map(standardised, splits))


def _losses(outputs: Float[Array, " n"], batch: PairsOfKinds) -> Float[Array, ""]:
    """Cross-entropy, or of similarities a logarithm that looks at those within reach of `NEAR`."""
    entropy = optax.sigmoid_binary_cross_entropy(outputs, jnp.clip(batch.targets, 0, 1))
    error = jnp.log1p(((outputs - batch.targets) / NEAR) ** 2)
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

"""The suite ``paraphrase``: GradNorm, PCGrad and CAGrad on paraphrases and similarity."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from scipy.stats import pearsonr

from benchmarks.data.pairs import TASKS, Pairs, pairs
from benchmarks.data.splits import Splits
from benchmarks.models.transformer import MultiTaskPairTransformer
from benchmarks.problem import Metric, Problem, mean_present
from benchmarks.suite import Preset, Suite
from benchmarks.suites.networks import in_trunk, network

DATA: dict[str, dict[str, Any]] = {
    "quick": {"vocabulary": 5000, "length": 24, "limit": 3000},
    "paper": {"vocabulary": 20_000, "length": 48, "limit": None},
}
MODEL: dict[str, dict[str, Any]] = {
    "quick": {"width": 32, "layers": 1, "attention_heads": 4, "hidden": 64},
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


@dataclass(frozen=True, kw_only=True)
class Paraphrase(Suite):
    """Paraphrases among Quora's questions, and the similarity of STS sentences.

    A Transformer encoder that both tasks share; binary cross-entropy for one, mean squared error
    for the other, whose scales differ. Needs sst_quora_sts.jsonl.gz.
    """

    name: ClassVar[str] = "paraphrase"
    presets: ClassVar = {
        "quick": Preset(epochs=6, batch_size=32, learning_rates=(3e-4, 1e-3, 3e-3)),
        "paper": Preset(epochs=30, batch_size=64, learning_rates=(1e-4, 3e-4, 1e-3)),
    }

    def problem(self) -> Problem:
        """The pairs, the Transformer and their losses."""
        data, model = DATA[self.preset], MODEL[self.preset]
        splits, vocabulary = pairs(self.data_dir, **data)
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
            batch_size=self.rows_per_batch,
            query_fraction=self.query_fraction,
            at_once=1,
            config={"suite": self.name, "data": data, "model": sizes},
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

"""Texts to classify, of a different kind for each task: what ``topic`` and ``reviews`` share."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optax
from jaxtyping import Array, Float

from benchmarks.data.splits import Splits
from benchmarks.data.texts import glove
from benchmarks.models.text_cnn import MultiTaskTextCNN
from benchmarks.problem import Metric, Problem, mean_present
from benchmarks.suite import Suite
from benchmarks.suites.networks import accuracy, in_trunk, network

MODEL: dict[str, dict[str, Any]] = {
    "quick": {"embedding": 32, "channels": 16, "widths": (3, 5, 7)},
    "paper": {"embedding": 300, "channels": 100, "widths": (3, 5, 7)},
}


@dataclass(frozen=True, kw_only=True)
class TextSuite(Suite):
    """A TextCNN that all tasks share, with a linear head for each."""

    tasks: ClassVar[tuple[str, ...]]
    classes: ClassVar[int]
    data: ClassVar[dict[str, dict[str, Any]]]
    """What `load` takes for each preset."""
    embeddings: Path | None = None
    """A file of word vectors in GloVe's text format, of the width of the model's embedding."""

    @abstractmethod
    def load(self, **options: Any) -> tuple[Splits, list[str]]:
        """The texts and their vocabulary."""

    def problem(self) -> Problem:
        """A label for each text, by cross-entropy.

        Where the test split marks rows that repeat a training text, the mean accuracy without
        them is one more metric, which does not count.
        """
        data, model = self.data[self.preset], MODEL[self.preset]
        splits, vocabulary = self.load(**data)
        vectors = None
        if self.embeddings is not None:
            vectors = glove(self.embeddings, vocabulary, model["embedding"])
        sizes = {
            **model,
            "vocabulary": len(vocabulary),
            "num_tasks": len(self.tasks),
            "classes": self.classes,
        }
        made = network(lambda rngs: MultiTaskTextCNN(**sizes, pretrained=vectors, rngs=rngs))
        repeats = hasattr(splits.test, "repeated")
        metrics = [Metric(f"{task} %", number) for number, task in enumerate(self.tasks)]
        if repeats:
            metrics.append(Metric("mean % without repeats", 0, counts=False))

        def losses(logits: Float[Array, "n c"], batch: Any) -> Float[Array, ""]:
            entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
            return mean_present(entropy, batch)

        def scores(logits: np.ndarray, texts: Any) -> Float[np.ndarray, " m"]:
            found = accuracy(logits, texts.labels, texts.present)
            if not repeats:
                return found
            fresh = accuracy(logits, texts.labels, texts.present & ~texts.repeated)
            return np.append(found, fresh.mean())

        return Problem(
            tasks=self.tasks,
            metrics=tuple(metrics),
            init=made.init,
            shared=in_trunk,
            forward=lambda params, batch: made.apply(params, batch.tokens),
            losses=losses,
            scores=scores,
            train=splits.train,
            validation=splits.validation,
            test=splits.test,
            sizes=tuple(int(n) for n in splits.train.present.sum(axis=1)),
            batch_size=self.rows_per_batch,
            query_fraction=self.query_fraction,
            at_once=1,
            config={
                "suite": self.name,
                "data": {**data, "embeddings": self.embeddings and self.embeddings.name},
                "model": sizes,
            },
        )

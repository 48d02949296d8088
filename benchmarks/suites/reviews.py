"""The suite ``reviews``: Amazon product reviews as in GetMTL and MetaWeighting."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.data.reviews import TASKS, reviews
from benchmarks.data.texts import glove
from benchmarks.models.text_cnn import MultiTaskTextCNN
from benchmarks.problem import Problem
from benchmarks.suite import Preset, Suite
from benchmarks.suites.networks import network
from benchmarks.suites.texts import text_problem

DATA: dict[str, dict[str, Any]] = {
    "quick": {"vocabulary": 5000, "length": 64, "limit": 800},
    "paper": {"vocabulary": 30_000, "length": 256, "limit": None},
}
MODEL: dict[str, dict[str, Any]] = {
    "quick": {"embedding": 32, "channels": 16, "widths": (3, 5, 7)},
    "paper": {"embedding": 300, "channels": 100, "widths": (3, 5, 7)},
}


@dataclass(frozen=True, kw_only=True)
class Reviews(Suite):
    """Tell praise from complaint for 14 kinds of products (GetMTL Table 3).

    A TextCNN that all tasks share, with a linear head for each; needs fdu_mtl16.jsonl.gz. Test
    rows that repeat a training row are scored with the others, and left out in one more column.
    """

    name: ClassVar[str] = "reviews"
    presets: ClassVar = {
        "quick": Preset(epochs=8, batch_size=16, learning_rates=(1e-3, 3e-3, 1e-2)),
        "paper": Preset(epochs=100, batch_size=64, learning_rates=(3e-4, 1e-3, 3e-3)),
    }
    embeddings: Path | None = None
    """A file of word vectors in GloVe's text format, of the width of the model's embedding."""

    def problem(self) -> Problem:
        """The reviews, TextCNN and their losses."""
        data, model = DATA[self.preset], MODEL[self.preset]
        splits, vocabulary = reviews(self.data_dir, **data)
        vectors = self.embeddings and glove(self.embeddings, vocabulary, model["embedding"])
        sizes = {**model, "vocabulary": len(vocabulary), "num_tasks": len(TASKS), "classes": 2}
        given = {**data, "embeddings": self.embeddings and self.embeddings.name}
        return text_problem(
            TASKS,
            splits,
            network(lambda rngs: MultiTaskTextCNN(**sizes, pretrained=vectors, rngs=rngs)),
            {"suite": self.name, "data": given, "model": sizes},
            batch_size=self.rows_per_batch,
            query_fraction=self.query_fraction,
        )

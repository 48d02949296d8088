"""The suite ``topic``: 20 Newsgroups as in GetMTL and MetaWeighting."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmarks.data.splits import LoadedTexts
from benchmarks.problems.options import TextSuite
from benchmarks.suite import Preset

if TYPE_CHECKING:
    from benchmarks.train.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Topic(TextSuite):
    """Tell newsgroups apart: four tasks of four groups each (GetMTL Table 2).

    A TextCNN that all tasks share, with a linear head for each; needs 20news16.jsonl.gz, or
    fetches the same posts by scikit-learn.
    """

    name: ClassVar[str] = "topic"
    presets: ClassVar = {
        "quick": Preset(epochs=8, batch_size=32, learning_rates=(3e-3, 1e-2, 3e-2)),
        "standard": Preset(epochs=8, batch_size=32, learning_rates=(6e-3, 1.2e-2, 2.4e-2)),
        "paper": Preset(epochs=3000, batch_size=256, learning_rates=(1e-3,)),
    }
    classes: ClassVar = 4
    sizes: ClassVar = {
        "quick": {"vocabulary": 5000, "length": 64, "limit": None},
        "standard": {"vocabulary": 25_000, "skip": 150, "length": 160, "limit": None},
        "paper": {"vocabulary": 30_000, "skip": 150, "length": 320, "limit": None},
    }

    model: ClassVar = {"standard": {"embedding": 32}}
    training: ClassVar = {
        "words": 0.2,
        "features": 0.4,
        "weight_decay": 0.01,
        "smoothing": 0.1,
        "warm_up": 0.1,
        "window": 8,
    }

    def load(self) -> LoadedTexts:
        """The posts, and the vocabulary."""
        from benchmarks.data.topics import topics

        return topics(self.data_dir, **self.sizes[self.preset])

    def problem(self) -> "Problem":
        """The texts, the network and their losses."""
        from benchmarks.data.topics import TASKS
        from benchmarks.problems.texts import text_problem

        return text_problem(self, TASKS)

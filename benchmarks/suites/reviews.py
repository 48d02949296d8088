"""The suite ``reviews``: Amazon product reviews as in GetMTL and MetaWeighting."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmarks.data.splits import LoadedTexts
from benchmarks.problems.options import TextSuite
from benchmarks.suite import Preset

if TYPE_CHECKING:
    from benchmarks.train.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Reviews(TextSuite):
    """Tell praise from complaint for 14 kinds of products (GetMTL Table 3).

    A TextCNN that all tasks share, with vectors of word pairs in the standard preset, and a linear
    head for each; needs fdu_mtl16.jsonl.gz. Test rows that repeat a training row are scored with
    the others, and left out in one more column.
    """

    name: ClassVar[str] = "reviews"
    presets: ClassVar = {
        "quick": Preset(epochs=8, batch_size=16, learning_rates=(3e-3, 1e-2, 3e-2)),
        "standard": Preset(epochs=6, batch_size=32, learning_rates=(5e-3, 1e-2, 2e-2)),
        "paper": Preset(epochs=3000, batch_size=256, learning_rates=(1e-3,)),
    }
    classes: ClassVar = 2
    sizes: ClassVar = {
        "quick": {"vocabulary": 5000, "length": 64, "limit": 800},
        "standard": {
            "vocabulary": 16_000,
            "skip": 17,
            "length": 128,
            "ending": 64,
            "limit": None,
        },
        "paper": {"vocabulary": 30_000, "skip": 17, "length": 256, "limit": None},
    }
    model: ClassVar = {"standard": {"pairs": (65_536, 4)}}
    training: ClassVar = {
        "words": 0.1,
        "features": 0.5,
        "weight_decay": 0.5,
        "smoothing": 0.0,
        "warm_up": 0.1,
        "window": 8,
    }

    def load(self) -> LoadedTexts:
        """The reviews, and the vocabulary."""
        from benchmarks.data.reviews import reviews

        return reviews(self.data_dir, **self.sizes[self.preset])

    def problem(self) -> "Problem":
        """The texts, the network and their losses."""
        from benchmarks.data.reviews import TASKS
        from benchmarks.problems.texts import text_problem

        return text_problem(self, TASKS)

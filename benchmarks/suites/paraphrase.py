"""The suite ``paraphrase``: GradNorm, PCGrad and CAGrad on paraphrases and similarity."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.suite import Preset, Suite

if TYPE_CHECKING:
    from benchmarks.data.pairs import LoadedPairs
    from benchmarks.train.problem import Problem

DATA: dict[str, dict[str, Any]] = {
    "quick": {"vocabulary": 5000, "buckets": 500, "length": 24, "limit": 3000},
    "standard": {"vocabulary": 12_000, "buckets": 2000, "length": 24, "limit": None},
    "paper": {"vocabulary": 20_000, "buckets": 2000, "length": 48, "limit": None},
}


@dataclass(frozen=True, kw_only=True)
class Paraphrase(Suite):
    """Paraphrases among Quora's questions, and the similarity of STS sentences.

    A Transformer encoder that both tasks share; binary cross-entropy for one, for the other the
    logarithm of one and the squared error over a quarter. Needs sst_quora_sts.jsonl.gz.
    """

    name: ClassVar[str] = "paraphrase"
    presets: ClassVar = {
        "quick": Preset(epochs=6, batch_size=32, learning_rates=(3e-4, 1e-3, 3e-3)),
        "standard": Preset(epochs=6, batch_size=64, learning_rates=(1e-3, 2e-3, 4e-3)),
        "paper": Preset(epochs=30, batch_size=64, learning_rates=(1e-4, 3e-4, 1e-3)),
    }
    compared: ClassVar = ("gradnorm", "pcgrad", "cagrad")

    def load(self) -> "LoadedPairs":
        """The pairs, and the vocabulary."""
        from benchmarks.data.pairs import pairs

        return pairs(self.data_dir, **DATA[self.preset])

    def problem(self) -> "Problem":
        """The pairs, the Transformer and their losses."""
        from benchmarks.problems.paraphrase import problem

        return problem(self)

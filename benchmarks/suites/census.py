"""The suite ``census``: the tasks that MMoE and PLE were first shown on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.data.splits import Splits
from benchmarks.problems.options import TableSuite
from benchmarks.suite import Preset

if TYPE_CHECKING:
    from benchmarks.train.problem import Problem

DATA: dict[str, dict[str, Any]] = {
    "quick": {"limit": 24_000},
    "standard": {"limit": None},
    "paper": {"limit": None},
}
TRAINING: dict[str, dict[str, float]] = {
    "quick": {"warm_up": 0.05, "weight_decay": 0.3, "unknown": 0.0},
    "standard": {"warm_up": 0.05, "weight_decay": 0.3, "unknown": 0.2},
    "paper": {"warm_up": 0.05, "weight_decay": 0.3, "unknown": 0.2},
}
MEMBERS: dict[str, int] = {"quick": 1, "standard": 4, "paper": 4}
BINS = 128  # Enough for each year of age to have its own.


@dataclass(frozen=True, kw_only=True)
class Census(TableSuite):
    """Income, marriage and education from the US census (MMoE's and PLE's tasks).

    Five backbones to choose from; needs census_income.csv.gz.
    """

    name: ClassVar[str] = "census"
    presets: ClassVar = {
        "quick": Preset(epochs=5, batch_size=128, learning_rates=(1e-3, 3e-3, 1e-2)),
        "standard": Preset(epochs=10, batch_size=512, learning_rates=(1e-3, 2e-3, 4e-3)),
        "paper": Preset(epochs=50, batch_size=256, learning_rates=(3e-4, 1e-3, 3e-3)),
    }
    model: ClassVar = {
        "quick": {"embedding": 4, "widths": (32,), "tower": (16,)},
        "standard": {"embedding": 16, "widths": (64,), "tower": (64,)},
        "paper": {"embedding": 8, "widths": (64,), "tower": (32,)},
    }
    compared: ClassVar = ("uw", "mgda", "imtl_g", "nash_mtl", "bandit_mtl", "emtl")

    def load(self) -> tuple[Splits, tuple[int, ...]]:
        """The table, and the number of categories of each column."""
        from benchmarks.data.census import census

        return census(self.data_dir, **DATA[self.preset])

    def problem(self) -> "Problem":
        """The table, the backbone and their losses."""
        from benchmarks.data.census import TASKS

        return self.of_table(
            TASKS,
            DATA[self.preset],
            bins=BINS,
            members=MEMBERS[self.preset],
            training=TRAINING[self.preset],
        )

"""The suite ``aliexpress``: EMTL's clicks and purchases."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmarks.data.splits import Splits
from benchmarks.problems.options import TableSuite
from benchmarks.suite import Preset

if TYPE_CHECKING:
    from benchmarks.train.problem import Problem


@dataclass(frozen=True, kw_only=True)
class AliExpress(TableSuite):
    """Clicks and purchases in search results (EMTL Table 1).

    Needs aliexpress_train*.csv and aliexpress_test*.csv in the published format.
    """

    name: ClassVar[str] = "aliexpress"
    presets: ClassVar = {
        "quick": Preset(epochs=6, batch_size=32, learning_rates=(1e-3, 3e-3, 1e-2)),
        "standard": Preset(epochs=15, batch_size=512, learning_rates=(1e-3, 3e-3, 1e-2)),
        "paper": Preset(epochs=50, batch_size=2048, learning_rates=(3e-4, 1e-3, 3e-3)),
    }
    model: ClassVar = {
        "quick": {"embedding": 4, "widths": (32,), "tower": (16,)},
        "standard": {"embedding": 8, "widths": (64,), "tower": (32,)},
        "paper": {"embedding": 128, "widths": (512, 256), "tower": (32,)},
    }
    compared: ClassVar = ("uw", "mgda", "imtl_g", "nash_mtl", "bandit_mtl", "emtl")

    def load(self) -> tuple[Splits, tuple[int, ...]]:
        """The table, and the number of categories of each column."""
        from benchmarks.data.aliexpress import aliexpress

        return aliexpress(self.data_dir)

    def problem(self) -> "Problem":
        """The table, the backbone and their losses."""
        from benchmarks.data.aliexpress import TASKS

        return self.of_table(TASKS, {})

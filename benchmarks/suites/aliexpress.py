"""The suite ``aliexpress``: EMTL's clicks and purchases."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.data.splits import Splits
from benchmarks.problems.options import Backbone
from benchmarks.suite import Preset, Suite

if TYPE_CHECKING:
    from benchmarks.train.problem import Problem

MODEL: dict[str, dict[str, Any]] = {
    "quick": {"embedding": 4, "widths": (32,), "tower": (16,)},
    "standard": {"embedding": 8, "widths": (64,), "tower": (32,)},
    "paper": {"embedding": 128, "widths": (512, 256), "tower": (32,)},
}


@dataclass(frozen=True, kw_only=True)
class AliExpress(Suite):
    """Clicks and purchases in search results (EMTL Table 1).

    Needs aliexpress_train*.csv and aliexpress_test*.csv in the published format.
    """

    name: ClassVar[str] = "aliexpress"
    presets: ClassVar = {
        "quick": Preset(epochs=6, batch_size=32, learning_rates=(1e-3, 3e-3, 1e-2)),
        "standard": Preset(epochs=15, batch_size=512, learning_rates=(1e-3, 3e-3, 1e-2)),
        "paper": Preset(epochs=50, batch_size=2048, learning_rates=(3e-4, 1e-3, 3e-3)),
    }
    compared: ClassVar = ("uw", "mgda", "imtl_g", "nash_mtl", "bandit_mtl", "emtl")
    backbone: Backbone = "mmoe"
    """What the tasks share: a dense layer, gated experts, experts of their own as well, or crosses
    of the features beside dense layers."""

    def load(self) -> tuple[Splits, tuple[int, ...]]:
        """The table, and the number of categories of each column."""
        from benchmarks.data.aliexpress import aliexpress

        return aliexpress(self.data_dir)

    def problem(self) -> "Problem":
        """The table, the backbone and their losses."""
        from benchmarks.data.aliexpress import TASKS
        from benchmarks.problems.tables import table_problem

        splits, cardinalities = self.data
        return table_problem(
            self.name,
            TASKS,
            splits,
            cardinalities,
            self.backbone,
            MODEL[self.preset],
            {},
            batch_size=self.rows_per_batch,
            query_fraction=self.query_fraction,
        )

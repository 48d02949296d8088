"""The suite ``ranking``: three questions about videos in a feed, of two kinds."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.problems.options import Backbone
from benchmarks.suite import Preset, Suite

if TYPE_CHECKING:
    from benchmarks.data.splits import Splits
    from benchmarks.train.problem import Problem

DATA: dict[str, dict[str, int]] = {
    "quick": {"users": 200, "videos": 300, "shown": 20_000},
    "standard": {"users": 1000, "videos": 2000, "shown": 200_000},
    "paper": {"users": 10_000, "videos": 20_000, "shown": 2_000_000},
}
MODEL: dict[str, dict[str, Any]] = {
    "quick": {"embedding": 4, "widths": (32,), "tower": (16,)},
    "standard": {"embedding": 8, "widths": (64,), "tower": (32,)},
    "paper": {"embedding": 16, "widths": (256, 128), "tower": (64,)},
}


@dataclass(frozen=True, kw_only=True)
class Ranking(Suite):
    """Opened, watched to the end, and for how many seconds: a made-up feed of short videos.

    Needs no data: users and videos are drawn at random, as the docstring of
    `benchmarks.data.ranking` says. EMTL's and AdaTask's industrial rankings are of this kind, but
    their data is not public.
    """

    name: ClassVar[str] = "ranking"
    presets: ClassVar = {
        "quick": Preset(epochs=5, batch_size=256, learning_rates=(1e-3, 3e-3, 1e-2)),
        "standard": Preset(epochs=8, batch_size=1024, learning_rates=(1e-3, 3e-3, 1e-2)),
        "paper": Preset(epochs=10, batch_size=4096, learning_rates=(1e-3, 3e-3)),
    }
    compared: ClassVar = ("gradnorm", "uw", "pcgrad", "cagrad", "nash_mtl", "emtl", "adatask")
    backbone: Backbone = "ple"
    """What the tasks share: a dense layer, gated experts, experts of their own as well, or crosses
    of the features beside dense layers."""

    def load(self) -> "tuple[Splits, tuple[int, ...]]":
        """The table, and the number of categories of each column."""
        from benchmarks.data.ranking import ranking

        return ranking(**DATA[self.preset])

    def problem(self) -> "Problem":
        """The table, the backbone and their losses."""
        from benchmarks.data.ranking import TASKS
        from benchmarks.problems.tables import table_problem

        splits, cardinalities = self.data
        return table_problem(
            self.name,
            TASKS,
            splits,
            cardinalities,
            self.backbone,
            MODEL[self.preset],
            dict(DATA[self.preset]),
            numbers=("seconds",),
            batch_size=self.rows_per_batch,
            query_fraction=self.query_fraction,
        )

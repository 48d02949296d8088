"""The suite ``ranking``: three questions about videos in a feed, of two kinds."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmarks.problems.options import Backbone, TableSuite
from benchmarks.suite import Preset

if TYPE_CHECKING:
    from benchmarks.data.splits import Splits
    from benchmarks.train.problem import Problem

DATA: dict[str, dict[str, int]] = {
    "quick": {"users": 200, "videos": 300, "shown": 20_000},
    "standard": {"users": 1000, "videos": 2000, "shown": 200_000},
    "paper": {"users": 10_000, "videos": 20_000, "shown": 2_000_000},
}


@dataclass(frozen=True, kw_only=True)
class Ranking(TableSuite):
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
    model: ClassVar = {
        "quick": {"embedding": 4, "widths": (32,), "tower": (16,)},
        "standard": {"embedding": 8, "widths": (64,), "tower": (32,)},
        "paper": {"embedding": 16, "widths": (256, 128), "tower": (64,)},
    }
    compared: ClassVar = ("gradnorm", "uw", "pcgrad", "cagrad", "nash_mtl", "emtl", "adatask")
    backbone: Backbone = "ple"

    def load(self) -> "tuple[Splits, tuple[int, ...]]":
        """The table, and the number of categories of each column."""
        from benchmarks.data.ranking import ranking

        return ranking(**DATA[self.preset])

    def problem(self) -> "Problem":
        """The table, the backbone and their losses."""
        from benchmarks.data.ranking import TASKS

        return self.of_table(TASKS, DATA[self.preset], numbers=("seconds",))

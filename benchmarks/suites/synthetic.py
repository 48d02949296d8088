"""The suite ``synthetic``: two regressions of different scale, and who moves which layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.data.splits import Splits
from benchmarks.suite import Preset, Suite

if TYPE_CHECKING:
    from benchmarks.results.cells import Cell
    from benchmarks.train.problem import Problem

DATA: dict[str, dict[str, Any]] = {
    "quick": {"train": 4000, "validation": 1000, "test": 1000, "seed": 0},
    "standard": {"train": 10_000, "validation": 2000, "test": 2000, "seed": 0},
    "paper": {"train": 10_000, "validation": 2000, "test": 2000, "seed": 0},
}


@dataclass(frozen=True, kw_only=True)
class Synthetic(Suite):
    """Two regressions, one ten times the other's scale (AdaTask Table 2 and Fig. 6, GradNorm).

    An MLP of four layers with ELU, trained by RMSProp. Also shows which share of its squared
    updates each parameter owes to each task. Needs no data.
    """

    name: ClassVar[str] = "synthetic"
    presets: ClassVar = {
        "quick": Preset(epochs=15, batch_size=100, learning_rates=(1e-3, 3e-3, 1e-2)),
        "standard": Preset(epochs=40, batch_size=100, learning_rates=(3e-4, 1e-3, 3e-3)),
        "paper": Preset(epochs=100, batch_size=100, learning_rates=(1e-4, 3e-4, 1e-3, 3e-3)),
    }
    compared: ClassVar = (
        "uw",
        "gradnorm",
        "mgda",
        "pcgrad",
        "cagrad",
        "adatask",
        "layerwise_adatask",
    )

    def load(self) -> Splits:
        """The regressions."""
        from benchmarks.data.synthetic import regressions

        return regressions(**DATA[self.preset])

    def problem(self) -> "Problem":
        """The regressions, the network and their losses."""
        from benchmarks.problems.synthetic import problem

        return problem(self)

    def draw_more(self, cells: "Mapping[str, Sequence[Cell]]") -> None:
        """Who moves which layer."""
        from benchmarks.problems.synthetic import draw_dominance

        draw_dominance(self, cells)

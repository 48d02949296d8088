"""The suite ``synthetic``: two regressions, one of which dominates, and who moves which layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.data.splits import Splits
from benchmarks.errors import UserError
from benchmarks.methods import ADATASK_ON
from benchmarks.problems.options import Inputs, Spread
from benchmarks.suite import Preset, Suite

if TYPE_CHECKING:
    from benchmarks.results.cells import Cell
    from benchmarks.train.problem import Problem

ROWS: dict[str, dict[str, int]] = {
    "quick": {"train": 4000, "validation": 1000, "test": 1000},
    "standard": {"train": 10_000, "validation": 2000, "test": 2000},
    "paper": {"train": 10_000, "validation": 2000, "test": 2000},
}


@dataclass(frozen=True, kw_only=True)
class Synthetic(Suite):
    """Two regressions, one ten times the other's scale (AdaTask Table 2 and Figs 1 to 6).

    An MLP of four layers with ELU, trained by RMSProp. Also shows which share of its squared
    updates each parameter owes to each task. Needs no data.
    """

    name: ClassVar[str] = "synthetic"
    presets: ClassVar = {
        "quick": Preset(epochs=15, batch_size=100, learning_rates=(1e-3, 3e-3, 1e-2)),
        "standard": Preset(epochs=30, batch_size=100, learning_rates=(1e-3, 3e-3, 1e-2)),
        "paper": Preset(epochs=200, batch_size=100, learning_rates=(3e-4, 1e-3, 3e-3, 1e-2)),
    }
    compared: ClassVar = (
        "uw",
        "gradnorm",
        "mgda",
        "pcgrad",
        "cagrad",
        "adatask",
        "layerwise_adatask",
        *ADATASK_ON,
    )
    inputs: Inputs = "normal"
    """How the entries of x are drawn, which the paper leaves open: normal, or uniform from 0."""
    scale: float = 0.1
    """Their standard deviation, or the end of their range."""
    spread: Spread = "variance"
    """What the second number of the paper's N(10, 10) is."""

    @property
    def drawn(self) -> dict[str, Any]:
        """What makes the data."""
        how = {"inputs": self.inputs, "scale": self.scale, "spread": self.spread, "seed": 0}
        return {**ROWS[self.preset], **how}

    def check(self) -> None:
        """Raise for every mistake in the options."""
        if not 0 < self.scale < 1e3:
            raise UserError(f"--scale must lie between 0 and 1000, not {self.scale}")
        super().check()

    def load(self) -> Splits:
        """The regressions."""
        from benchmarks.data.synthetic import regressions

        return regressions(**self.drawn)

    def problem(self) -> "Problem":
        """The regressions, the network and their losses."""
        from benchmarks.problems.synthetic import problem

        return problem(self)

    def draw_more(self, cells: "Mapping[str, Sequence[Cell]]") -> None:
        """Who moves which layer."""
        from benchmarks.problems.synthetic import draw_dominance

        draw_dominance(self, cells)

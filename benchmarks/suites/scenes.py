"""The suite ``scenes``: NYUv2's three tasks on rendered rooms, which need no data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.data.splits import Splits
from benchmarks.problems.options import PictureSuite
from benchmarks.suite import Preset

if TYPE_CHECKING:
    from benchmarks.results.cells import Cell
    from benchmarks.train.problem import Problem

DATA: dict[str, dict[str, int]] = {
    "quick": {"train": 240, "validation": 40, "test": 40, "seed": 0},
    "standard": {"train": 600, "validation": 60, "test": 200, "seed": 0},
    "paper": {"train": 4000, "validation": 200, "test": 650, "seed": 0},
}
MODEL: dict[str, dict[str, Any]] = {
    "quick": {"channels": (8, 16), "patch": 4},
    "standard": {"channels": (16, 32, 32), "patch": 4},
    "paper": {"channels": (32, 64, 128, 128), "patch": 2},
}
TRAINING: dict[str, float] = {"warm_up": 0.05}


@dataclass(frozen=True, kw_only=True)
class Scenes(PictureSuite):
    """Class, depth and normal of every pixel of rendered rooms (EMTL Table 2, AdaTask Table 1).

    MTAN in small on rooms of boxes, balls and planes with NYUv2's losses and metrics. Needs no
    data.
    """

    name: ClassVar[str] = "scenes"
    presets: ClassVar = {
        "quick": Preset(epochs=3, batch_size=8, learning_rates=(3e-3, 1e-2, 3e-2)),
        "standard": Preset(epochs=8, batch_size=8, learning_rates=(3e-3, 1e-2, 3e-2)),
        "paper": Preset(epochs=100, batch_size=8, learning_rates=(3e-4, 1e-3, 3e-3)),
    }
    compared: ClassVar = (
        "rlw",
        "dwa",
        "uw",
        "mgda",
        "pcgrad",
        "cagrad",
        "imtl_g",
        "nash_mtl",
        "emtl",
        "graddrop",
        "adatask",
    )

    def load(self) -> Splits:
        """The pictures."""
        from benchmarks.data.scenes import scenes

        return scenes(**DATA[self.preset])

    def problem(self) -> "Problem":
        """The pictures, the network and their losses."""
        from benchmarks.problems.scenes import problem

        return problem(self)

    def draw_more(self, cells: "Mapping[str, Sequence[Cell]]") -> None:
        """What some methods make of some test pictures."""
        from benchmarks.problems.scenes import draw_answers

        draw_answers(self, cells)

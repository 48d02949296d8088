"""The suite ``nyuv2``: EMTL's and Nash-MTL's three tasks about each pixel of a room."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmarks.problems.options import PhotographSuite
from benchmarks.suite import Preset

if TYPE_CHECKING:
    from benchmarks.data.splits import Splits
    from benchmarks.train.problem import Problem


@dataclass(frozen=True, kw_only=True)
class NYUv2(PhotographSuite):
    """Class, depth and normal of every pixel of photographed rooms (EMTL Table 2).

    Needs the folder that MTAN publishes; the standard and paper presets need a GPU.
    """

    name: ClassVar[str] = "nyuv2"
    presets: ClassVar = {
        "quick": Preset(epochs=3, batch_size=2, learning_rates=(3e-4, 1e-3, 3e-3)),
        "standard": Preset(epochs=40, batch_size=2, learning_rates=(1e-4,)),
        "paper": Preset(epochs=200, batch_size=2, learning_rates=(1e-4,)),
    }
    compared: ClassVar = (
        "scale_invariant",
        "rlw",
        "dwa",
        "uw",
        "bandit_mtl",
        "mgda",
        "pcgrad",
        "cagrad",
        "graddrop",
        "imtl_g",
        "nash_mtl",
        "emtl",
    )

    def load(self) -> "Splits":
        """The pictures."""
        from benchmarks.data.nyuv2 import nyuv2

        return nyuv2(self.data_dir)

    def problem(self) -> "Problem":
        """The pictures, the network and their losses."""
        from benchmarks.data.nyuv2 import LAYOUT
        from benchmarks.problems.photographs import photograph_problem

        return photograph_problem(self, LAYOUT.classes, "divided")

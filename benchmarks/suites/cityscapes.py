"""The suite ``cityscapes``: AdaTask's two tasks about each pixel of a street."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from benchmarks.problems.options import PhotographSuite
from benchmarks.suite import Preset

if TYPE_CHECKING:
    from benchmarks.data.splits import Splits
    from benchmarks.train.problem import Problem


@dataclass(frozen=True, kw_only=True)
class CityScapes(PhotographSuite):
    """Class and inverse depth of every pixel of photographed streets (AdaTask Table 1).

    Needs the folder that MTAN publishes; the standard and paper presets need a GPU.
    """

    name: ClassVar[str] = "cityscapes"
    presets: ClassVar = {
        "quick": Preset(epochs=2, batch_size=8, learning_rates=(3e-4, 1e-3, 3e-3)),
        "standard": Preset(epochs=40, batch_size=8, learning_rates=(1e-4,)),
        "paper": Preset(epochs=200, batch_size=8, learning_rates=(1e-4,)),
    }
    compared: ClassVar = (
        "mgda",
        "gradnorm",
        "uw",
        "pcgrad",
        "cagrad",
        "adatask",
        "adatask+pcgrad",
        "adatask+cagrad",
    )
    zoomed_disparity: Literal["divided", "multiplied"] = "divided"
    """By the scale of a zoom: divided as in the public codes, as if it were a depth; multiplied is
    right for an inverse one."""

    def load(self) -> "Splits":
        """The pictures."""
        from benchmarks.data.cityscapes import cityscapes

        return cityscapes(self.data_dir)

    def problem(self) -> "Problem":
        """The pictures, the network and their losses."""
        from benchmarks.data.cityscapes import LAYOUT
        from benchmarks.problems.photographs import photograph_problem

        return photograph_problem(self, LAYOUT.classes, self.zoomed_disparity)

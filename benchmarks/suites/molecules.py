"""The suite ``molecules``: Nash-MTL's QM9, on descriptors in place of geometries."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.suite import Preset, Suite

if TYPE_CHECKING:
    from benchmarks.train.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Molecules(Suite):
    """Twelve properties of small molecules, of very different scale (Nash-MTL's QM9 in spirit).

    Losses are squared errors of the standardised properties, and so are of one scale at the
    start; how fast they can fall differs. Needs qm9_14k.npz, which has descriptors and no 3-D
    geometry, so that the figures are no match for those of graph networks.
    """

    name: ClassVar[str] = "molecules"
    presets: ClassVar = {
        "quick": Preset(epochs=15, batch_size=128, learning_rates=(1e-3, 3e-3, 1e-2)),
        "standard": Preset(epochs=40, batch_size=128, learning_rates=(2e-3, 4e-3, 8e-3)),
        "paper": Preset(epochs=300, batch_size=128, learning_rates=(3e-4, 1e-3, 3e-3)),
    }
    compared: ClassVar = (
        "scale_invariant",
        "rlw",
        "dwa",
        "uw",
        "mgda",
        "pcgrad",
        "cagrad",
        "imtl_g",
        "nash_mtl",
    )

    def load(self) -> Any:
        """The descriptors and properties."""
        from benchmarks.data.molecules import molecules

        return molecules(self.data_dir)

    def problem(self) -> "Problem":
        """The descriptors, the network and their losses."""
        from benchmarks.problems.molecules import problem

        return problem(self)

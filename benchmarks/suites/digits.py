"""The suite ``digits``: MultiMNIST from the scans that scikit-learn ships, and their slants."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.data.splits import Splits
from benchmarks.suite import Preset, Suite

if TYPE_CHECKING:
    from benchmarks.train.problem import Problem

DATA: dict[str, Any] = {"train": 4000, "validation": 1000, "test": 1000, "seed": 0}
MODEL: dict[str, Any] = {
    "num_tasks": 3,
    "classes": 10,
    "channels": (8, 16),
    "features": 24,
}


@dataclass(frozen=True, kw_only=True)
class Digits(Suite):
    """Read two overlaid scanned digits, and tell how far both slant (MultiMNIST in small).

    Slants are in degrees: their squared error begins at a hundred, the readings' losses at two.
    All three tasks share a convolutional trunk that is narrow on purpose, so that they compete.
    Needs no download.
    """

    name: ClassVar[str] = "digits"
    presets: ClassVar = {
        "quick": Preset(epochs=10, batch_size=100, learning_rates=(3e-3, 8e-3, 2e-2)),
        "standard": Preset(epochs=40, batch_size=100, learning_rates=(3e-3, 8e-3, 2e-2)),
        "paper": Preset(epochs=100, batch_size=64, learning_rates=(1e-3, 2e-3, 5e-3, 1e-2)),
    }

    def load(self) -> Splits:
        """The canvases."""
        from benchmarks.data.digits import multi_digits

        return multi_digits(**DATA)

    def problem(self) -> "Problem":
        """The canvases, the network and their losses."""
        from benchmarks.problems.digits import problem

        return problem(self)

"""The suite ``digits``: MultiMNIST from the scans that scikit-learn ships."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.data.splits import Splits
from benchmarks.suite import Preset, Suite

if TYPE_CHECKING:
    from benchmarks.train.problem import Problem

DATA: dict[str, Any] = {"train": 4000, "validation": 1000, "test": 1000, "seed": 0}
MODEL: dict[str, Any] = {
    "num_tasks": 2,
    "classes": 10,
    "channels": (8, 16),
    "features": 24,
}
# The trainings are short: XLA's emitters of fused loops double what compiling takes on a CPU, and
# save less than a tenth of a step. One program is compiled at a time, while others run.
COMPILER = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}


@dataclass(frozen=True, kw_only=True)
class Digits(Suite):
    """Read two overlaid scanned digits: MultiMNIST from scikit-learn's 8 x 8 scans.

    Both tasks share a convolutional trunk that is narrow on purpose, so that they compete.
    Needs no download.
    """

    name: ClassVar[str] = "digits"
    presets: ClassVar = {
        "quick": Preset(epochs=16, batch_size=64, learning_rates=(2e-3, 5e-3, 1e-2)),
        "standard": Preset(epochs=40, batch_size=64, learning_rates=(2e-3, 5e-3, 1e-2)),
        "paper": Preset(epochs=100, batch_size=64, learning_rates=(1e-3, 2e-3, 5e-3, 1e-2)),
    }

    def load(self) -> Splits:
        """The canvases."""
        from benchmarks.data.digits import multi_digits

        return multi_digits(**DATA)

    def problem(self) -> "Problem":
        """The canvases, the network and their losses."""
        from benchmarks.models.conv import MultiTaskConvNet
        from benchmarks.problems.canvases import canvas_problem
        from benchmarks.problems.networks import network

        model = {**MODEL, "size": self.data.train.images.shape[-1]}
        return canvas_problem(
            self.data,
            network(lambda rngs: MultiTaskConvNet(**model, rngs=rngs)),
            {"suite": self.name, "data": DATA, "model": model},
            batch_size=self.rows_per_batch,
            query_fraction=self.query_fraction,
            compiler_options=COMPILER,
        )

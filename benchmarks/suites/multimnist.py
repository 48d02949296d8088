"""The suite ``multimnist``: the benchmark of MGDA, PCGrad and CAGrad."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.data.splits import Splits
from benchmarks.suite import Preset, Suite

if TYPE_CHECKING:
    from benchmarks.train.problem import Problem

DATA: dict[str, dict[str, Any]] = {
    "quick": {"train": 12_000, "validation": 3000, "test": 5000, "seed": 0, "side": 18},
    "standard": {"train": 60_000, "validation": 10_000, "test": 20_000, "seed": 0, "side": 28},
    "paper": {"train": 60_000, "validation": 10_000, "test": 20_000, "seed": 0, "side": 28},
}
TRAINING: dict[str, float] = {"warm_up": 0.05, "weight_decay": 0.01}
MODEL: dict[str, Any] = {"num_tasks": 2, "classes": 10, "channels": (10, 20), "features": 50}


@dataclass(frozen=True, kw_only=True)
class MultiMNIST(Suite):
    """Read two overlaid handwritten digits (Sabour et al. 2017, Sener and Koltun 2018).

    A LeNet trunk and a linear head for each digit; needs mnist.npz. The quick preset shrinks the
    canvases by half.
    """

    name: ClassVar[str] = "multimnist"
    presets: ClassVar = {
        "quick": Preset(epochs=8, batch_size=128, learning_rates=(1e-3, 3e-3, 1e-2)),
        "standard": Preset(epochs=6, batch_size=256, learning_rates=(1e-3, 3e-3, 1e-2)),
        "paper": Preset(epochs=100, batch_size=256, learning_rates=(1e-4, 5e-4, 1e-3, 5e-3)),
    }
    compared: ClassVar = ("uw", "gradnorm", "mgda", "pcgrad", "cagrad")

    def load(self) -> Splits:
        """The canvases."""
        from benchmarks.data.multimnist import multi_mnist

        return multi_mnist(self.data_dir, **DATA[self.preset])

    def problem(self) -> "Problem":
        """The canvases, LeNet and their losses."""
        from benchmarks.models.lenet import MultiTaskLeNet
        from benchmarks.problems.canvases import canvas_problem
        from benchmarks.problems.networks import network
        from benchmarks.train.schedules import warm_up_and_cosine

        model = {**MODEL, "size": self.data.train.images.shape[-1]}
        return canvas_problem(
            self.data,
            network(lambda rngs: MultiTaskLeNet(**model, rngs=rngs)),
            {
                "suite": self.name,
                "data": DATA[self.preset],
                "model": model,
                "training": TRAINING,
            },
            schedule=warm_up_and_cosine(TRAINING["warm_up"]),
            weight_decay=TRAINING["weight_decay"],
            batch_size=self.rows_per_batch,
            query_fraction=self.query_fraction,
            at_once=1,
        )

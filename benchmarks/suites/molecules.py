"""The suite ``molecules``: Nash-MTL's QM9, on descriptors in place of geometries."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.data.molecules import Molecules as Rows
from benchmarks.data.molecules import molecules
from benchmarks.models.mlp import MultiTaskMLP
from benchmarks.problem import Metric, Problem
from benchmarks.suite import Preset, Suite
from benchmarks.suites.networks import in_trunk, network

MODEL: dict[str, dict[str, Any]] = {
    "quick": {"widths": (128, 64)},
    "paper": {"widths": (512, 512, 256)},
}


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
        "paper": Preset(epochs=300, batch_size=128, learning_rates=(3e-4, 1e-3, 3e-3)),
    }

    def problem(self) -> Problem:
        """The descriptors, the network and their losses."""
        loaded = molecules(self.data_dir)
        splits, tasks = loaded.splits, loaded.tasks
        model = {
            **MODEL[self.preset],
            "inputs": splits.train.descriptors.shape[1],
            "num_tasks": len(tasks),
            "outputs": 1,
        }
        made = network(lambda rngs: MultiTaskMLP(**model, rngs=rngs))

        def losses(outputs: Float[Array, "n t"], batch: Rows) -> Float[Array, " t"]:
            return jnp.mean((outputs - batch.targets) ** 2, axis=0)

        def scores(outputs: Float[np.ndarray, "n t"], rows: Rows) -> Float[np.ndarray, " t"]:
            return np.abs(outputs - rows.targets).mean(axis=0)

        return Problem(
            tasks=tuple(tasks),
            metrics=tuple(
                Metric(f"{task} MAE/sd", number, higher_is_better=False)
                for number, task in enumerate(tasks)
            ),
            init=made.init,
            shared=in_trunk,
            forward=lambda params, batch: made.apply(params, batch.descriptors)[..., 0],
            losses=losses,
            scores=scores,
            train=splits.train,
            validation=splits.validation,
            test=splits.test,
            batch_size=self.rows_per_batch,
            query_fraction=self.query_fraction,
            config={"suite": self.name, "data": {}, "model": model},
        )

"""Problems so small that training them takes no time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.train.problem import Metric, Problem, mean_present

METRICS = (Metric("sum fit", 0), Metric("first fit", 1))


def toy_problem(**changes: Any) -> Problem:
    """Two regressions on two inputs that share the first layer."""

    def init(key: jax.Array) -> Any:
        trunk_key, heads_key = jax.random.split(key)
        return {
            "trunk": jax.random.normal(trunk_key, (2, 3)),
            "heads": jax.random.normal(heads_key, (2, 3)),
        }

    def targets(inputs: Any) -> Any:
        return np.stack([inputs.sum(axis=1), 2 * inputs[:, 0]], axis=1)

    def losses(outputs: jax.Array, inputs: jax.Array) -> jax.Array:
        wanted = jnp.stack([inputs.sum(axis=1), 2 * inputs[:, 0]], axis=1)
        return jnp.mean((outputs - wanted) ** 2, axis=0)

    inputs = np.random.default_rng(7).normal(size=(64, 2)).astype(np.float32)
    return Problem(
        **{
            "tasks": ("sum", "first"),
            "metrics": METRICS,
            "init": init,
            "shared": lambda path: path[0].key == "trunk",
            "forward": lambda params, inputs: inputs @ params["trunk"] @ params["heads"].T,
            "losses": losses,
            "scores": lambda outputs, inputs: (
                100 * np.exp(-np.mean((outputs - targets(inputs)) ** 2, axis=0))
            ),
            "train": inputs[:32],
            "validation": inputs[32:48],
            "test": inputs[48:],
            "batch_size": 8,
            "config": {"suite": "toy"},
            **changes,
        }
    )


class Rows(NamedTuple):
    """Rows of each task, padded."""

    inputs: Any
    targets: Any
    present: Any


def separate_problem() -> Problem:
    """Two regressions, each on inputs of its own: 24 and 16 training rows."""
    rng = np.random.default_rng(3)

    def rows(*sizes: int) -> Rows:
        inputs = rng.normal(size=(2, max(sizes), 3)).astype(np.float32)
        present = np.arange(max(sizes)) < np.array(sizes)[:, None]
        # Padding that would spoil every result if it were read.
        targets = np.where(present, inputs @ np.array([1.0, -2.0, 0.5]), 1e6)
        targets[1] *= -1
        return Rows(inputs, targets.astype(np.float32), present)

    def init(key: jax.Array) -> Any:
        trunk_key, heads_key = jax.random.split(key)
        return {
            "trunk": 0.5 * jax.random.normal(trunk_key, (3, 4)),
            "heads": 0.5 * jax.random.normal(heads_key, (2, 4)),
        }

    def scores(outputs: np.ndarray, data: Rows) -> np.ndarray:
        errors = np.where(data.present, (outputs - data.targets) ** 2, 0)
        return np.sqrt(errors.sum(axis=1) / data.present.sum(axis=1))

    return Problem(
        tasks=("first", "second"),
        metrics=(Metric("first RMSE", 0, False), Metric("second RMSE", 1, False)),
        init=init,
        shared=lambda path: path[0].key == "trunk",
        forward=lambda params, batch: batch.inputs @ params["trunk"] @ params["heads"],
        losses=lambda outputs, batch: mean_present((outputs - batch.targets) ** 2, batch),
        scores=scores,
        train=rows(24, 16),
        validation=rows(8, 12),
        test=rows(12, 8),
        batch_size=8,
        sizes=(24, 16),
        config={"suite": "separate"},
    )

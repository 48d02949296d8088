"""Problems so small that training them takes no time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.problems.networks import head_of, in_trunk, normalised_network
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


class Painted(NamedTuple):
    """Pictures of four pixels: two numbers of each to tell its class and its height from."""

    pixels: Any
    classes: Any
    heights: Any


class Painter(nnx.Module):
    """Three classes and a height for each pixel, on features that are normalised by batch."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.trunk = nnx.Sequential(nnx.Linear(2, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs))
        self.heads = nnx.Dict(
            classes=nnx.Linear(4, 3, rngs=rngs), heights=nnx.Linear(4, 1, rngs=rngs)
        )

    def __call__(self, pixels: Any) -> dict[str, Any]:
        hidden = nnx.relu(self.trunk(pixels))
        return {name: head(hidden) for name, head in self.heads.items()}


def painted_problem(**changes: Any) -> Problem:
    """A class and a number for each pixel, by a network with batch normalisation."""
    rng = np.random.default_rng(11)
    made = normalised_network(lambda rngs: Painter(rngs=rngs))

    def pictures(number: int) -> Painted:
        pixels = rng.normal(2, 3, size=(number, 4, 2)).astype(np.float32)
        classes = (pixels > 2).sum(axis=-1).astype(np.int32)
        return Painted(pixels, classes, 5 * pixels.sum(axis=-1))

    def losses(outputs: Any, batch: Painted) -> jax.Array:
        logits = jax.nn.log_softmax(outputs["classes"])
        told = jnp.take_along_axis(logits, batch.classes[..., None], axis=-1)
        return jnp.stack([-told.mean(), jnp.abs(outputs["heights"][..., 0] - batch.heights).mean()])

    def scores(outputs: Any, data: Painted) -> np.ndarray:
        right = np.mean(outputs["classes"].argmax(axis=-1) == data.classes)
        return np.array([right, np.abs(outputs["heights"][..., 0] - data.heights).mean()])

    tasks = ("classes", "heights")
    return Problem(
        **{
            "tasks": tasks,
            "metrics": (Metric("accuracy", 0), Metric("height MAE", 1, False, counts=False)),
            "init": made.init,
            "statistics": made.statistics,
            "shared": in_trunk,
            "task_of": head_of(tasks),
            "forward": lambda params, batch, statistics, training: made.apply(
                params, statistics, training, batch.pixels
            ),
            "losses": losses,
            "scores": scores,
            "train": pictures(24),
            "validation": pictures(12),
            "test": pictures(12),
            "batch_size": 8,
            "config": {"suite": "painted"},
            **changes,
        }
    )

"""Two overlaid digits to read, and their slants in degrees: tasks of two scales."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.compiler import WITHOUT_EMITTERS
from benchmarks.data.digits import Slanted
from benchmarks.models.conv import MultiTaskConvNet
from benchmarks.problems import canvases
from benchmarks.problems.baselines import support_vectors
from benchmarks.problems.networks import in_trunk, network
from benchmarks.suites.digits import DATA, MODEL, Digits
from benchmarks.train.problem import Metric, Problem

FEW = 1000  # Canvases for the baseline, so that it takes a second.
NEAR = 5.0  # Degrees that a slant may be off to be counted as right.


def problem(suite: Digits) -> Problem:
    """The canvases, the network and their losses."""
    data = suite.data
    model = {**MODEL, "size": data.train.images.shape[-1]}
    made = network(lambda rngs: MultiTaskConvNet(**model, rngs=rngs))
    return Problem(
        tasks=(*canvases.TASKS, "slants"),
        metrics=(*canvases.METRICS, Metric(f"slants within {NEAR:g}° %", 2)),
        init=made.init,
        shared=in_trunk,
        forward=lambda params, batch: made.apply(params, batch.images),
        losses=_losses,
        scores=_scores,
        train=data.train,
        validation=data.validation,
        test=data.test,
        batch_size=suite.rows_per_batch,
        query_fraction=suite.query_fraction,
        compiler_options=WITHOUT_EMITTERS,  # The trainings are short.
        config={"suite": suite.name, "data": DATA, "model": model},
        baseline=support_vectors(data, model["classes"], rows=FEW),
    )


def _losses(outputs: Float[Array, "n 3 10"], batch: Slanted) -> Float[Array, " 3"]:
    """Cross-entropy of the digits, squared error of the slants by the third task's outputs."""
    squares = jnp.sum((outputs[:, 2, :2] - batch.slants) ** 2, axis=-1)
    return jnp.append(canvases.reading_losses(outputs[:, :2], batch), squares.mean())


def _scores(outputs: Float[np.ndarray, "n 3 10"], data: Slanted) -> Float[np.ndarray, " 3"]:
    near = 100 * np.mean(np.abs(outputs[:, 2, :2] - data.slants) <= NEAR)
    return np.append(canvases.readings(outputs[:, :2], data), near)

"""What is to be told of each pixel of a scene: its class, its depth and its normal, as in NYUv2."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from benchmarks.train.problem import Metric
from mtl_optax import metrics

SEGMENTATION, DEPTH, NORMALS = TASKS = ("segmentation", "depth", "normals")
METRICS = (
    Metric("mIoU %", 0),
    Metric("pixel accuracy %", 0),
    Metric("depth off cm", 1, higher_is_better=False),
    Metric("depth off %", 1, higher_is_better=False),
    Metric("normals off mean °", 2, higher_is_better=False),
    Metric("normals off median °", 2, higher_is_better=False),
    Metric("within 11.25° %", 2),
    Metric("within 22.5° %", 2),
    Metric("within 30° %", 2),
)
"""Those of NYUv2, in units of which one is worth about as much as one of another: percent,
centimetres and degrees."""


def outputs_of(classes: int) -> dict[str, int]:
    """How many numbers each task says of a pixel."""
    return {SEGMENTATION: classes, DEPTH: 1, NORMALS: 3}


def losses(outputs: Mapping[str, Array], batch: Any) -> Float[Array, " t"]:
    """Cross-entropy, absolute error, and 1 - cosine: means over the pixels that have a target.

    Of scenes without normals the first two.
    """
    found = [
        cross_entropy(outputs[SEGMENTATION], batch.labels),
        absolute_error(outputs[DEPTH][..., 0], batch.depths),
    ]
    if NORMALS in outputs:
        found.append(one_minus_cosine(outputs[NORMALS], batch.normals))
    return jnp.stack(found)


def cross_entropy(logits: Float[Array, "n h w c"], labels: Int[Array, "n h w"]) -> Float[Array, ""]:
    """Of the pixels whose label is not negative."""
    there = labels >= 0
    each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return _mean(each, there)


def absolute_error(found: Float[Array, "n h w"], depths: Float[Array, "n h w"]) -> Float[Array, ""]:
    """Of the pixels whose depth is not zero."""
    return _mean(jnp.abs(found - depths), depths != 0)


def one_minus_cosine(
    found: Float[Array, "n h w 3"], normals: Float[Array, "n h w 3"]
) -> Float[Array, ""]:
    """Of the pixels whose normal is not zero; predictions may have any length."""
    squares = jnp.maximum((found**2).sum(axis=-1, keepdims=True), 1e-12)
    cosines = (found * jnp.reciprocal(jnp.sqrt(squares)) * normals).sum(axis=-1)
    return _mean(1 - cosines, (normals != 0).any(axis=-1))


def _mean(values: Array, there: Array) -> Float[Array, ""]:
    return jnp.where(there, values, 0).sum() / jnp.maximum(there.sum(), 1)


def answers(outputs: Mapping[str, Array], batch: Any) -> dict[str, Array]:
    """What `scores` reads: classes in place of logits."""
    return {**outputs, SEGMENTATION: outputs[SEGMENTATION].argmax(axis=-1).astype(jnp.int8)}


def shares(answers: Mapping[str, np.ndarray], data: Any, classes: int) -> list[float]:
    """MIoU and pixel accuracy in percent."""
    confusion = metrics.confusion_matrix(answers[SEGMENTATION], data.labels, classes)
    return [100 * float(f(confusion)) for f in (metrics.mean_iou, metrics.pixel_accuracy)]


def scores(classes: int) -> Callable[[Mapping[str, np.ndarray], Any], Float[np.ndarray, " 9"]]:
    """The figures of a split, over all its pixels together, of `METRICS`."""

    def figures(answers: Mapping[str, np.ndarray], data: Any) -> Float[np.ndarray, " 9"]:
        depth = metrics.depth_errors(answers[DEPTH][..., 0], data.depths)
        normal = metrics.normal_errors(answers[NORMALS], data.normals)
        within = [normal.within_11_25, normal.within_22_5, normal.within_30]
        return np.array(
            [
                *shares(answers, data, classes),
                *(100 * float(error) for error in (depth.absolute, depth.relative)),
                float(normal.mean),
                float(normal.median),
                *(100 * float(share) for share in within),
            ]
        )

    return figures

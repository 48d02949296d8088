"""Task gradients of every size, as one leaf and as the leaves of a Transformer."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Layout = Literal["leaf", "tree"]
LAYOUTS: tuple[Layout, ...] = ("leaf", "tree")

_LAYERS = 10


def task_gradients(
    num_tasks: int, size: int, layout: Layout
) -> tuple[dict[str, Float[Array, "t ..."]], Float[np.ndarray, "t n"]]:
    """Returns task gradients of about `size` entries, some in conflict, and the same as a matrix.

    Args:
        num_tasks: T.
        size: N, the number of parameters.
        layout: "leaf" is one leaf `(t, n)`; "tree" has 60, those of ten layers with four square
            kernels and two vectors each.
    """
    shapes = _shapes(size, layout)
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    rng = np.random.default_rng(0)
    mixing = np.eye(num_tasks) + rng.normal(size=(num_tasks, num_tasks)) / num_tasks**0.5
    matrix = rng.standard_normal((num_tasks, sum(sizes)), np.float32)
    matrix = mixing.astype(np.float32) @ matrix
    parts = np.split(matrix, np.cumsum(sizes)[:-1], axis=1)
    leaves = {
        name: jnp.asarray(part.reshape(num_tasks, *shape))
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
    return jax.block_until_ready(leaves), matrix


def _shapes(size: int, layout: Layout) -> dict[str, tuple[int, ...]]:
    if layout == "leaf":
        return {"gradient": (size,)}
    width = max(1, round((size / _LAYERS / 4) ** 0.5))
    layer: tuple[tuple[int, ...], ...] = (*4 * [(width, width)], *2 * [(width,)])
    return {f"layer {i} leaf {k}": shape for i in range(_LAYERS) for k, shape in enumerate(layer)}

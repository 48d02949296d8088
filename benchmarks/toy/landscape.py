"""Two losses of two parameters, and the trade-offs between them that cannot be bettered.

The landscape is that of CAGrad (Liu et al. 2021, https://arxiv.org/abs/2110.14048, Figure 1 and
its appendix). Each loss has, in the upper half of the plane, a narrow curved valley with a steep
logarithmic floor, where the other task's gradient all but drowns; in the lower half, a wide bowl.
The bowls' centres are apart, and what lies between them is the Pareto front.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

STARTS = np.array([(-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0)])
"""The five starting points of Nash-MTL (Navon et al. 2022) and FAMO (Liu et al. 2023)."""

EXTENT = 10.0
"""The square from -EXTENT to EXTENT holds the starts, both valleys and both bowls."""

FLOOR = -20.0
"""No loss of scale 1 is below this."""

_TINY = 5e-6  # Where the logarithm of a valley's floor ends.


class Trajectories(NamedTuple):
    """What one method did: ``p`` points from each of ``s`` starting points."""

    step: list[int]
    params: Float[np.ndarray, "s p 2"]
    losses: Float[np.ndarray, "s p 2"]


def losses(params: Float[Array, "2 ..."], scale: float = 1.0) -> Float[Array, "2 ..."]:
    """Both losses, the first one times ``scale``.

    With ``(x, y)`` the parameters, loss ``i`` is

        max(tanh(y/2), 0) valley_i + max(tanh(-y/2), 0) bowl_i
        valley_1 = log |(x + 7)/2 - tanh y| + 6      bowl_1 = ((x - 7)² + (y + 8)²/10)/10 - 20
        valley_2 = log |(x - 7)/2 + tanh y| + 6      bowl_2 = ((x + 7)² + (y + 8)²/10)/10 - 20

    with logarithms cut off below at that of 5e-6.
    """
    x, y = params
    above, below = jnp.maximum(jnp.tanh(y / 2), 0), jnp.maximum(jnp.tanh(-y / 2), 0)

    def loss(side: int) -> Float[Array, "..."]:
        valley = jnp.abs((x + 7 * side) / 2 - side * jnp.tanh(y))
        bowl = ((x - 7 * side) ** 2 + (y + 8) ** 2 / 10) / 10 + FLOOR
        return above * (jnp.log(jnp.maximum(valley, _TINY)) + 6) + below * bowl

    return jnp.stack([scale * loss(1), loss(-1)])


class Front(NamedTuple):
    """The Pareto front as ``p`` points, from the best for task 1 to the best for task 2."""

    params: Float[np.ndarray, "p 2"]
    losses: Float[np.ndarray, "p 2"]

    def place(
        self, losses: Float[np.ndarray, "n 2"]
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Where on the front, and how far from it, in units of each loss's range on the front.

        The first is the fraction of the front's length from task 1's best point to the nearest
        point; the second is the distance from there. Neither depends on the losses' scales.
        """
        best = self.losses.min(axis=0)
        unit = np.ptp(self.losses, axis=0)
        front = (self.losses - best) / unit
        steps = np.linalg.norm(np.diff(front, axis=0), axis=1)
        along = np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()
        apart = np.linalg.norm((losses[:, None] - best) / unit - front, axis=-1)
        apart = np.nan_to_num(apart, nan=np.inf)  # A point that diverged is near nothing.
        nearest = apart.argmin(axis=1)
        return along[nearest], apart[np.arange(len(losses)), nearest]


@functools.cache
def pareto_front(scale: float = 1.0, resolution: int = 2001) -> Front:
    """What no other point of a dense grid betters in one loss without losing in the other.

    Args:
        scale: of the first loss.
        resolution: grid points along each axis.
    """
    axis = np.linspace(-EXTENT, EXTENT, resolution)
    params = np.stack(np.meshgrid(axis, axis, indexing="ij")).reshape(2, -1)
    first, second = np.asarray(losses(jnp.asarray(params)))
    order = np.lexsort((second, first))
    # From the best for task 1 on, each point must improve task 2 upon all before it.
    before = np.minimum.accumulate(second[order])[:-1]
    kept = order[np.concatenate([[True], second[order][1:] < before])]
    return Front(params[:, kept].T, np.stack([scale * first[kept], second[kept]], axis=1))

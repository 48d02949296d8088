"""The LeNet of MultiMNIST (Sener and Koltun, 2018), with one linear head for each task."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from benchmarks.models.conv import convolve_by_matmul
from benchmarks.models.heads import Heads

SMALLEST = 16  # pixels along a side that leave one pixel after both poolings


def max_pool(images: Float[Array, "n h w c"]) -> Float[Array, "n h//2 w//2 c"]:
    """The maximum of every 2 x 2 pixels; an odd last row or column is left out.

    Four times faster on a CPU than ``lax.reduce_window``, forwards and backwards.
    """
    height, width = images.shape[1] // 2 * 2, images.shape[2] // 2 * 2
    rows = jnp.maximum(images[:, 0:height:2], images[:, 1:height:2])
    return jnp.maximum(rows[:, :, 0:width:2], rows[:, :, 1:width:2])


class LeNetTrunk(nnx.Module):
    """Two 5 x 5 convolutions, each with a 2 x 2 max pooling, and a dense layer."""

    def __init__(
        self, size: int, channels: tuple[int, int], features: int, *, rngs: nnx.Rngs
    ) -> None:
        if size < SMALLEST:
            raise ValueError(f"LeNetTrunk: size must be at least {SMALLEST}, not {size}")
        first, second = channels
        side = ((size - 4) // 2 - 4) // 2
        self.conv1 = nnx.Conv(
            1,
            first,
            kernel_size=(5, 5),
            padding="VALID",
            conv_general_dilated=convolve_by_matmul,
            rngs=rngs,
        )
        self.conv2 = nnx.Conv(
            first,
            second,
            kernel_size=(5, 5),
            padding="VALID",
            conv_general_dilated=convolve_by_matmul,
            rngs=rngs,
        )
        self.dense = nnx.Linear(side * side * second, features, rngs=rngs)

    def __call__(self, images: Float[Array, "n s s"]) -> Float[Array, "n d"]:
        """Images of ``s`` x ``s`` pixels to features."""
        hidden = nnx.relu(max_pool(self.conv1(images[..., None])))
        hidden = nnx.relu(max_pool(self.conv2(hidden)))
        return nnx.relu(self.dense(hidden.reshape(len(images), -1)))


class MultiTaskLeNet(nnx.Module):
    """The leaves under ``trunk`` are shared, those under ``heads`` belong to the tasks."""

    def __init__(
        self,
        *,
        size: int,
        num_tasks: int,
        classes: int,
        channels: tuple[int, int] = (10, 20),
        features: int = 50,
        rngs: nnx.Rngs,
    ) -> None:
        self.trunk = LeNetTrunk(size, channels, features, rngs=rngs)
        self.heads = Heads(num_tasks, features, classes, rngs=rngs)

    def __call__(self, images: Float[Array, "n s s"]) -> Float[Array, "n *t c"]:
        """Images of ``s`` x ``s`` pixels to the logits of every task, or of one (see `Heads`)."""
        return self.heads(self.trunk(images))

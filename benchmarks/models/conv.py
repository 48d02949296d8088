"""A convolutional trunk that several tasks share, with one linear head for each of them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from benchmarks.models.heads import Heads


def convolve_by_matmul(
    inputs: Float[Array, "n *space c"],
    kernel: Float[Array, "*window c f"],
    strides: Sequence[int],
    padding: str,
    **rest: Any,
) -> Float[Array, "n *out f"]:
    """A drop-in for ``lax.conv_general_dilated``: unpadded, channels last, as one matmul.

    On a CPU, XLA runs the convolutions of a loop's body, and those vectorised over parameters
    (seeds, here), several times slower than this.
    """
    del rest  # No dilation and no feature groups in this package.
    if padding != "VALID":
        raise ValueError(f"convolve_by_matmul: padding must be 'VALID', not {padding!r}")
    *window, _, features = kernel.shape
    patches = inputs
    for axis, (width, stride) in enumerate(zip(window, strides, strict=True), start=1):
        stop = inputs.shape[axis] - width + 1
        cut = partial(jax.lax.slice_in_dim, patches, stride=stride, axis=axis)
        patches = jnp.concatenate([cut(at, at + stop) for at in range(width)], axis=-1)
    # Cut axis by axis, a patch has its last axis outermost.
    outermost_last = (*reversed(range(len(window))), -2, -1)
    return patches @ kernel.transpose(outermost_last).reshape(-1, features)


class ConvTrunk(nnx.Module):
    """Two 3 x 3 convolutions, the second with stride 2, and a dense layer."""

    def __init__(
        self, size: int, channels: tuple[int, int], features: int, *, rngs: nnx.Rngs
    ) -> None:
        first, second = channels
        side = (size - 2 - 3) // 2 + 1
        self.conv1 = nnx.Conv(
            1,
            first,
            kernel_size=(3, 3),
            padding="VALID",
            conv_general_dilated=convolve_by_matmul,
            rngs=rngs,
        )
        self.conv2 = nnx.Conv(
            first,
            second,
            kernel_size=(3, 3),
            strides=(2, 2),
            padding="VALID",
            conv_general_dilated=convolve_by_matmul,
            rngs=rngs,
        )
        self.dense = nnx.Linear(side * side * second, features, rngs=rngs)

    def __call__(self, images: Float[Array, "n s s"]) -> Float[Array, "n d"]:
        """Images of ``s`` x ``s`` pixels to features."""
        hidden = nnx.relu(self.conv1(images[..., None]))
        hidden = nnx.relu(self.conv2(hidden))
        return nnx.relu(self.dense(hidden.reshape(len(images), -1)))


class MultiTaskConvNet(nnx.Module):
    """The leaves under ``trunk`` are shared, those under ``heads`` belong to the tasks."""

    def __init__(
        self,
        *,
        size: int,
        num_tasks: int,
        classes: int,
        channels: tuple[int, int],
        features: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.trunk = ConvTrunk(size, channels, features, rngs=rngs)
        self.heads = Heads(num_tasks, features, classes, rngs=rngs)

    def __call__(self, images: Float[Array, "n s s"]) -> Float[Array, "n t c"]:
        """Images of ``s`` x ``s`` pixels to the logits of every task."""
        return self.heads(self.trunk(images))

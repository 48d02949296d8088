"""MTAN (Liu et al., 2019): a SegNet that all tasks share, and attention to it for each task."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from benchmarks.models.segnet import (
    CHANNELS,
    Head,
    Seen,
    Trunk,
    convolution,
    max_pool,
    normalised,
    xavier,
)


def twice_as_large(images: Float[Array, "n h w c"]) -> Float[Array, "n 2*h 2*w c"]:
    """Bilinear, corner pixels on corner pixels."""
    rows, columns = (_between(size).astype(images.dtype) for size in images.shape[1:3])
    taller = jnp.einsum("yh,nhwc->nywc", rows, images)
    return jnp.einsum("xw,nywc->nyxc", columns, taller)


def _between(size: int) -> Float[np.ndarray, "2*s s"]:
    """The weights of pixels along an axis in those of one that is twice as long."""
    places = np.linspace(0, size - 1, 2 * size)[:, None]
    return np.maximum(1 - abs(places - np.arange(size)[None]), 0).astype(np.float32)


class Attention(nnx.Module):
    """Two 1 x 1 convolutions, each normalised: to a number between 0 and 1 for each feature."""

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(inputs, width, kernel_init=xavier, rngs=rngs)
        self.first_norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.second = nnx.Linear(width, width, kernel_init=xavier, rngs=rngs)
        self.second_norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)

    def __call__(self, features: Float[Array, "n h w c"]) -> Float[Array, "n h w d"]:
        """Features to the attention paid to the stage's output."""
        hidden = nnx.relu(normalised(self.first_norm, self.first(features)))
        return nnx.sigmoid(normalised(self.second_norm, self.second(hidden)))


class Passage(nnx.Module):
    """A layer from one resolution to the next, whose parameters all tasks share.

    Each task has its own running statistics of it, in ``norm``: one average over the tasks in turn,
    as in the public codes, would be of use for none of them.
    """

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.convolution = convolution(inputs, width, rngs=rngs)
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(
        self, features: Float[Array, "n h w c"], norm: nnx.BatchNorm
    ) -> Float[Array, "n h w d"]:
        """Attended features to those that the attention of the next resolution sees."""
        scale, bias = (of_all[...][None, None, None] for of_all in (self.scale, self.bias))
        return nnx.relu(normalised(norm, self.convolution(features)) * scale + bias)


class TaskAttention(nnx.Module):
    """All that is one task's: attention at every resolution, statistics, and the head."""

    def __init__(self, channels: Sequence[int], outputs: int, *, rngs: nnx.Rngs) -> None:
        coarser, finer = (*channels[1:], channels[-1]), (channels[0], *channels[:-1])
        seen = [(1 if level == 0 else 2) * width for level, width in enumerate(channels)]
        unpooled = [a + b for a, b in zip(channels, finer, strict=True)]
        attention = partial(Attention, rngs=rngs)
        norm = partial(nnx.BatchNorm, momentum=0.9, use_scale=False, use_bias=False, rngs=rngs)
        self.encoder = nnx.data(list(map(attention, seen, channels)))
        self.encoder_norms = nnx.data(list(map(norm, coarser)))
        self.decoder = nnx.data(list(map(attention, unpooled, finer)))
        self.decoder_norms = nnx.data(list(map(norm, finer)))
        self.output = Head(channels[0], outputs, rngs=rngs)


class MTAN(nnx.Module):
    """The leaves under ``trunk`` move the losses of all tasks, those under ``heads`` one's alone.

    So the attention of a task is its own here. The public codes call all parameters shared but
    those of the output layers (whose names hold "pred"), the attention of every task included: a
    task's gradient of another's attention is zero there, and the norms and angles that their
    methods read are those of both together.
    """

    def __init__(
        self,
        *,
        outputs: Mapping[str, int],
        channels: Sequence[int] = CHANNELS,
        inputs: int = 3,
        rngs: nnx.Rngs,
    ) -> None:
        """``outputs``: how many numbers each task says of a pixel; ``inputs``: how many it has."""
        coarser, finer = (*channels[1:], channels[-1]), (channels[0], *channels[:-1])
        passage = partial(Passage, rngs=rngs)
        self.trunk: Any = nnx.Dict(
            network=Trunk(channels, inputs, rngs=rngs),
            encoder=nnx.data(list(map(passage, channels, coarser))),
            decoder=nnx.data(list(map(passage, channels, finer))),
        )
        self.heads: Any = nnx.Dict(
            {task: TaskAttention(channels, number, rngs=rngs) for task, number in outputs.items()}
        )

    def __call__(self, images: Float[Array, "n h w i"]) -> dict[str, Float[Array, "n h w o"]]:
        """Images to what each task says of every pixel: logits, a depth, a direction."""
        encoded, decoded = self.trunk.network(images)
        return {task: self._attend(own, encoded, decoded) for task, own in self.heads.items()}

    def _attend(
        self, own: TaskAttention, encoded: list[Seen], decoded: list[Seen]
    ) -> Float[Array, "n h w o"]:
        before: tuple[Array, ...] = ()
        for at, attention, passage, norm in zip(
            encoded, own.encoder, self.trunk.encoder, own.encoder_norms, strict=True
        ):
            attended = attention(jnp.concatenate([at.first, *before], -1)) * at.last
            before = (max_pool(passage(attended, norm)).values,)
        (features,) = before
        levels = zip(decoded, own.decoder, self.trunk.decoder, own.decoder_norms, strict=True)
        for at, attention, passage, norm in reversed(list(levels)):
            larger = passage(twice_as_large(features), norm)
            features = attention(jnp.concatenate([at.first, larger], -1)) * at.last
        return own.output(features)

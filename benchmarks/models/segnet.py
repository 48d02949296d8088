"""SegNet (Badrinarayanan et al., 2017) in MTAN's size, with a head for each task of the scene."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

CHANNELS = (64, 128, 256, 512, 512)
xavier = nnx.initializers.variance_scaling(1.0, "fan_avg", "normal")


class Pooled(NamedTuple):
    """The maximum of every 2 x 2 pixels, and which of them it was."""

    values: Float[Array, "n h//2 w//2 c"]
    places: Int[Array, "n h//2 w//2 c"]
    """From 0 to 3, row by row; the first where several are the largest."""


def max_pool(images: Float[Array, "n h w c"]) -> Pooled:
    """The gradient goes to the one place that the maximum was taken from."""

    def larger(first: Pooled, second: Pooled) -> Pooled:
        later = second.values > first.values
        return Pooled(*(jnp.where(later, b, a) for a, b in zip(first, second, strict=True)))

    def pixels(row: int, column: int) -> Pooled:
        values = images[:, row::2, column::2]
        return Pooled(values, jnp.full(values.shape, 2 * row + column, jnp.int8))

    top, bottom = (larger(pixels(row, 0), pixels(row, 1)) for row in (0, 1))
    return larger(top, bottom)


def max_unpool(
    values: Float[Array, "n h w c"], places: Int[Array, "n h w c"]
) -> Float[Array, "n 2*h 2*w c"]:
    """The values where their maxima were, and zeros around them."""
    n, height, width, channels = values.shape
    pixels = [jnp.where(places == place, values, 0) for place in range(4)]
    rows = [jnp.stack(pair, axis=3) for pair in (pixels[:2], pixels[2:])]
    return jnp.stack(rows, axis=2).reshape(n, 2 * height, 2 * width, channels)


def convolution(inputs: int, width: int, *, rngs: nnx.Rngs) -> nnx.Conv:
    """3 x 3, with a bias, as the public codes have it before a normalisation too."""
    return nnx.Conv(
        inputs,
        width,
        kernel_size=(3, 3),
        kernel_init=xavier,
        rngs=rngs,
    )


def normalised(norm: nnx.BatchNorm, features: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
    """In float32, in which Flax keeps the statistics, then of the features' precision again."""
    return norm(features).astype(features.dtype)


class Layer(nnx.Module):
    """A 3 x 3 convolution, batch normalisation and ReLU."""

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.convolution = convolution(inputs, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n h w f"]:
        """Images to as many pixels."""
        return nnx.relu(normalised(self.norm, self.convolution(images)))


class Stage(nnx.Module):
    """The layers of one resolution; it returns the outputs of the first and of the last."""

    def __init__(self, inputs: int, width: int, layers: int, *, rngs: nnx.Rngs) -> None:
        self.first = Layer(inputs, width, rngs=rngs)
        self.rest = nnx.data([Layer(width, width, rngs=rngs) for _ in range(layers - 1)])

    def __call__(
        self, images: Float[Array, "n h w c"]
    ) -> tuple[Float[Array, "n h w f"], Float[Array, "n h w f"]]:
        """Images to as many pixels."""
        last = first = self.first(images)
        for layer in self.rest:
            last = layer(last)
        return first, last


class Seen(NamedTuple):
    """What attention looks at, and what it weighs, at one resolution."""

    first: Float[Array, "n h w c"]
    """Of the encoder, the output of the stage's first layer; of the decoder, what was unpooled."""
    last: Float[Array, "n h w d"]
    """The output of the stage."""


class Trunk(nnx.Module):
    """An encoder with 2 x 2 pooling and a decoder that undoes it, the places of maxima kept.

    The finest two of the resolutions have two layers, the others three.
    """

    def __init__(self, channels: Sequence[int], inputs: int, *, rngs: nnx.Rngs) -> None:
        layers = [2 if level < 2 else 3 for level in range(len(channels))]
        finer = (channels[0], *channels[:-1])
        self.encoder = nnx.data(
            [
                Stage(inputs, width, number, rngs=rngs)
                for inputs, width, number in zip(
                    (inputs, *channels[:-1]), channels, layers, strict=True
                )
            ]
        )
        self.decoder = nnx.data(
            [
                Stage(inputs, width, number, rngs=rngs)
                for inputs, width, number in zip(channels, finer, layers, strict=True)
            ]
        )

    def __call__(self, images: Float[Array, "n h w i"]) -> tuple[list[Seen], list[Seen]]:
        """Images to the features of encoder and decoder, the finest resolution first in both."""
        step = 2 ** len(self.encoder)
        if images.shape[1] % step or images.shape[2] % step:
            height, width = images.shape[1:3]
            raise ValueError(
                f"SegNet: height and width must be multiples of {step}, not {height} x {width}"
            )
        encoded, decoded, places = [], [], []
        features = images
        for stage in self.encoder:
            encoded.append(Seen(*stage(features)))
            pooled = max_pool(encoded[-1].last)
            features = pooled.values
            places.append(pooled.places)
        for stage, where in zip(reversed(self.decoder), reversed(places), strict=True):
            unpooled = max_unpool(features, where)
            features = stage(unpooled)[1]
            decoded.append(Seen(unpooled, features))
        return encoded, decoded[::-1]


class Head(nnx.Module):
    """A 3 x 3 and a 1 x 1 convolution, with nothing between them."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.convolution = convolution(inputs, inputs, rngs=rngs)
        self.output = nnx.Linear(inputs, outputs, kernel_init=xavier, rngs=rngs)

    def __call__(self, features: Float[Array, "n h w c"]) -> Float[Array, "n h w o"]:
        """Features to the outputs of one task."""
        return self.output(self.convolution(features))


class SegNet(nnx.Module):
    """One encoder and decoder for all tasks: "hard sharing", and the network of a single task.

    The leaves under ``trunk`` are shared, those under ``heads`` and a task's name are that task's.
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
        self.trunk = Trunk(channels, inputs, rngs=rngs)
        self.heads: Any = nnx.Dict(
            {task: Head(channels[0], number, rngs=rngs) for task, number in outputs.items()}
        )

    def __call__(self, images: Float[Array, "n h w i"]) -> dict[str, Float[Array, "n h w o"]]:
        """Images to what each task says of every pixel: logits, a depth, a direction."""
        _, decoded = self.trunk(images)
        return {task: head(decoded[0].last) for task, head in self.heads.items()}

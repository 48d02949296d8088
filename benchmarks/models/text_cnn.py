"""TextCNN (Kim, 2014): convolutions over time, with one linear head for each task."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from benchmarks.models.heads import Heads


class TextTrunk(nnx.Module):
    """Word vectors, then for each width of window a convolution, ReLU and its maximum over time.

    The vector of a word is made of given numbers, which stay as they are, and of numbers to learn.

    Texts are framed by zero vectors, as many as fit into a window, so that every window that
    holds a word counts and further padding changes nothing.
    """

    def __init__(
        self,
        vocabulary: int,
        given: int,
        embedding: int,
        widths: Sequence[int],
        channels: int,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.given = given
        self.embed = nnx.Embed(
            vocabulary, embedding, embedding_init=nnx.initializers.normal(0.1), rngs=rngs
        )
        self.widths = tuple(widths)
        self.convolutions = nnx.data(
            [
                nnx.Conv(
                    given + embedding,
                    channels,
                    kernel_size=(width,),
                    padding="VALID",
                    rngs=rngs,
                )
                for width in widths
            ]
        )

    def __call__(
        self, tokens: Int[Array, "n l"], given: Float[Array, "v g"]
    ) -> Float[Array, "n d"]:
        """Tokens, 0 for padding, to features: zeros for a text without a word."""
        words = (tokens > 0)[..., None]
        parts = [jnp.where(words, part, 0) for part in (given[tokens], self.embed(tokens))]
        count = jnp.maximum(words.sum(axis=1), 1)
        features = [part.sum(axis=1) / jnp.sqrt(count) for part in parts]
        for width, convolution in zip(self.widths, self.convolutions, strict=True):
            frame = ((0, 0), (width - 1, width - 1), (0, 0))
            framed = jnp.pad(words, frame)
            length = framed.shape[1] - width + 1
            holds_word = jnp.any(jnp.stack([framed[:, i : i + length] for i in range(width)]), 0)
            vectors = [jnp.pad(part, frame) for part in parts]
            features.append(_maximum(convolution, vectors, holds_word))
        return jnp.where(words.any(axis=1), jnp.concatenate(features, axis=-1), 0)


def _maximum(
    convolution: Any, parts: Sequence[Float[Array, "n l _"]], allowed: Bool[Array, "n m 1"]
) -> Float[Array, "n c"]:
    """ReLU of the largest output over time.

    Where it is the largest is found without a derivative, and that window alone is looked at with
    one: the backward pass through all other windows, nearly all of the work, would carry zeros.
    The parts of the vectors are kept apart, so that what is given has no derivative at all.
    """
    kernel, bias = convolution.kernel[...], convolution.bias[...]
    fixed = jax.lax.stop_gradient((jnp.concatenate(parts, axis=-1), kernel))
    outputs = jnp.where(allowed, _convolved(*fixed), -jnp.inf)
    largest = outputs.max(axis=1, keepdims=True)
    times = jnp.arange(outputs.shape[1])[None, :, None]
    first = jnp.where(outputs == largest, times, outputs.shape[1]).min(axis=1)
    first = jnp.minimum(first, outputs.shape[1] - 1)  # None is equal where one is NaN.
    maximum, begin = bias[None], 0
    for part in parts:
        windows = _windows(part, first, len(kernel))
        weights = kernel[:, begin : begin + part.shape[-1]].reshape(-1, len(bias))
        maximum = maximum + jnp.sum(windows * weights.T[None], axis=-1)
        begin += part.shape[-1]
    return nnx.relu(maximum)


def _convolved(
    inputs: Float[Array, "n l e"], kernel: Float[Array, "w e c"]
) -> Float[Array, "n m c"]:
    """A matmul for each place in the window: half the time of one over patches."""
    length = inputs.shape[1] - len(kernel) + 1
    outputs = inputs[:, :length] @ kernel[0]
    for place in range(1, len(kernel)):
        outputs += inputs[:, place : place + length] @ kernel[place]
    return outputs


def _windows(
    vectors: Float[Array, "n l e"], begin: Int[Array, "n c"], width: int
) -> Float[Array, "n c w"]:
    """The vectors from a time on, as many as a window has, in one row."""
    size = vectors.shape[-1]
    flat = vectors.reshape(len(vectors), -1)

    def one(text: Float[Array, " f"], time: Int[Array, ""]) -> Float[Array, " w"]:
        return jax.lax.dynamic_slice(text, (time * size,), (width * size,))

    return jax.vmap(jax.vmap(one, (None, 0)))(flat, begin)


class MultiTaskTextCNN(nnx.Module):
    """The leaves under ``trunk`` are shared, those under ``heads`` belong to the tasks."""

    def __init__(
        self,
        *,
        vocabulary: int,
        given: int,
        embedding: int,
        num_tasks: int,
        classes: int,
        channels: int,
        widths: Sequence[int] = (3, 5, 7),
        rngs: nnx.Rngs,
    ) -> None:
        self.trunk = TextTrunk(vocabulary, given, embedding, widths, channels, rngs=rngs)
        features = given + embedding + len(widths) * channels
        self.heads = Heads(num_tasks, features, classes, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "n l"],
        given: Float[Array, "v g"],
        kept: Float[Array, "n d"] | None = None,
    ) -> Float[Array, "n *t c"]:
        """Tokens, 0 for padding, to the logits of every task, or of one (see `Heads`).

        Args:
            tokens: the texts.
            given: the part of the word vectors that is not learned.
            kept: factors of the features, for dropout.
        """
        features = self.trunk(tokens, given)
        return self.heads(features if kept is None else features * kept)

"""TextCNN (Kim, 2014): convolutions over time, with one linear head for each task."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from benchmarks.models.heads import Heads
from mtl_optax.adversarial import gradient_reversal


class TextTrunk(nnx.Module):
    """Word vectors, then for each width of window a convolution, ReLU and its maximum over time.

    The vector of a word is made of given numbers, which stay as they are, and of numbers to learn.
    Beside the maxima stand the sums of the vectors. With ``pairs``, the rows of a table and the
    numbers in each, pairs of neighbouring words have vectors, too, a row by hash, and their sum
    stands beside the rest (Joulin et al. 2017).

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
        pairs: Sequence[int] | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.width = given + embedding + len(widths) * channels
        self.embed = nnx.Embed(
            vocabulary, embedding, embedding_init=nnx.initializers.normal(0.1), rngs=rngs
        )
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
        self.pairs: nnx.Embed | None = nnx.data(None)
        if pairs is not None:
            rows, numbers = pairs
            init = nnx.initializers.normal(0.01)
            self.pairs = nnx.Embed(rows, numbers, embedding_init=init, rngs=rngs)
            self.width += numbers

    def __call__(
        self, tokens: Int[Array, "n l"], given: Float[Array, "v g"]
    ) -> Float[Array, "n d"]:
        """Tokens, 0 for padding, to features: zeros for a text without a word."""
        words, parts = self.read(tokens, given)
        count = jnp.maximum(words.sum(axis=1), 1)
        features = [part.sum(axis=1) / jnp.sqrt(count) for part in parts]
        for convolution in self.convolutions:
            features.append(_maximum(convolution.kernel, convolution.bias, words, parts))
        if self.pairs is not None:
            features.append(_sum_of_pairs(self.pairs, tokens))
        return jnp.where(words.any(axis=1), jnp.concatenate(features, axis=-1), 0)

    def read(
        self, tokens: Int[Array, "n l"], given: Float[Array, "v g"]
    ) -> tuple[Bool[Array, "n l 1"], list[Float[Array, "n l _"]]]:
        """Which tokens are words, and their vectors in parts: what is given, what is learned."""
        words = (tokens > 0)[..., None]
        parts = [jnp.where(words, part, 0) for part in (given[tokens], self.embed(tokens))]
        return words, parts


def _sum_of_pairs(pairs: nnx.Embed, tokens: Int[Array, "n l"]) -> Float[Array, "n p"]:
    """Divided by the root of their number; a pair with padding or an unknown word is none."""
    first, second = tokens[:, :-1].astype(jnp.uint32), tokens[:, 1:].astype(jnp.uint32)
    mixed = first * jnp.uint32(2654435761) + second * jnp.uint32(2246822519)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(3266489917)
    there = ((first > 1) & (second > 1))[..., None]
    vectors = pairs(((mixed ^ (mixed >> 13)) % pairs.num_embeddings).astype(jnp.int32))
    count = jnp.maximum(there.sum(axis=1), 1)
    return jnp.where(there, vectors, 0).sum(axis=1) / jnp.sqrt(count)


def _maximum(
    kernel: Any,
    bias: Any,
    words: Bool[Array, "n l 1"],
    parts: Sequence[Float[Array, "n l _"]],
) -> Float[Array, "n c"]:
    """ReLU of the largest output over the windows that hold a word.

    Where it is the largest is found without a derivative, and that window alone is looked at with
    one: the backward pass through all other windows, nearly all of the work, would carry zeros.
    The parts of the vectors are kept apart, so that what is given has no derivative at all.
    """
    kernel, bias = kernel[...], bias[...]
    width = len(kernel)
    frame = ((0, 0), (width - 1, width - 1), (0, 0))
    framed = jnp.pad(words, frame)
    length = framed.shape[1] - width + 1
    allowed = jnp.any(jnp.stack([framed[:, i : i + length] for i in range(width)]), 0)
    parts = [jnp.pad(part, frame) for part in parts]
    fixed = jax.lax.stop_gradient((jnp.concatenate(parts, axis=-1), kernel))
    outputs = jnp.where(allowed, _convolved(*fixed), -jnp.inf)
    largest = outputs.max(axis=1, keepdims=True)
    times = jnp.arange(outputs.shape[1])[None, :, None]
    first = jnp.where(outputs == largest, times, outputs.shape[1]).min(axis=1)
    first = jnp.minimum(first, outputs.shape[1] - 1)  # None is equal where one is NaN.
    maximum, begin = bias[None], 0
    for part in parts:
        windows = _windows(part, first, width)
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
        pairs: Sequence[int] | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.trunk = TextTrunk(vocabulary, given, embedding, widths, channels, pairs, rngs=rngs)
        self.heads = Heads(num_tasks, self.trunk.width, classes, rngs=rngs)

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


class PrivateTrunks(nnx.Module):
    """Convolutions of each task's own, as those of `TextTrunk`, in leaves with a task axis."""

    def __init__(
        self, num_tasks: int, vector: int, widths: Sequence[int], channels: int, *, rngs: nnx.Rngs
    ) -> None:
        init = nnx.initializers.lecun_normal(batch_axis=0)
        shapes = [(num_tasks, width, vector, channels) for width in widths]
        self.kernels = nnx.data([nnx.Param(init(rngs.params(), shape)) for shape in shapes])
        self.biases = nnx.data([nnx.Param(jnp.zeros((num_tasks, channels))) for _ in widths])

    def __call__(
        self, words: Bool[Array, "n l 1"], parts: Sequence[Float[Array, "n l _"]]
    ) -> Float[Array, "n d"]:
        """The features of one task, whose slice of the leaves is there."""
        kernels = zip(self.kernels, self.biases, strict=True)
        features = [_maximum(kernel, bias, words, parts) for kernel, bias in kernels]
        return jnp.where(words.any(axis=1), jnp.concatenate(features, axis=-1), 0)


class SharedPrivateTextCNN(nnx.Module):
    """A TextCNN that all tasks share, a small one for each task, and a guess at the task.

    Leaves under ``trunk`` and ``discriminator`` are shared, those under ``private`` and ``heads``
    belong to the tasks: each call is of one task, with its slice of these. The private convolutions
    read the word vectors of the trunk. The heads see all features, the discriminator the shared
    ones, through a reversal of the gradient.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        given: int,
        embedding: int,
        num_tasks: int,
        classes: int,
        channels: int,
        private: int,
        widths: Sequence[int] = (3, 5, 7),
        pairs: Sequence[int] | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.trunk = TextTrunk(vocabulary, given, embedding, widths, channels, pairs, rngs=rngs)
        self.private = PrivateTrunks(num_tasks, given + embedding, widths, private, rngs=rngs)
        shared = self.trunk.width
        self.heads = Heads(num_tasks, shared + len(widths) * private, classes, rngs=rngs)
        self.discriminator = nnx.Linear(shared, num_tasks, rngs=rngs)

    def features(
        self, tokens: Int[Array, "n l"], given: Float[Array, "v g"]
    ) -> tuple[Float[Array, "n s"], Float[Array, "n p"]]:
        """Tokens to shared and private features."""
        return self.trunk(tokens, given), self.private(*self.trunk.read(tokens, given))

    def answer(
        self,
        shared: Float[Array, "n s"],
        private: Float[Array, "n p"],
        kept: Float[Array, "n d"] | None = None,
    ) -> Float[Array, "n c"]:
        """Features to the task's logits."""
        features = jnp.concatenate([shared, private], axis=-1)
        return self.heads(features if kept is None else features * kept)

    def guess(self, shared: Float[Array, "n s"]) -> Float[Array, "n t"]:
        """Shared features to the logits of which task their text is of."""
        return self.discriminator(gradient_reversal(shared))

    def __call__(
        self,
        tokens: Int[Array, "n l"],
        given: Float[Array, "v g"],
        kept: Float[Array, "n d"] | None = None,
    ) -> Float[Array, "n c"]:
        """Tokens to the task's logits; see `MultiTaskTextCNN`."""
        return self.answer(*self.features(tokens, given), kept)

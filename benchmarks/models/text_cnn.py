"""TextCNN (Kim, 2014): convolutions over time, with one linear head for each task."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from benchmarks.models.conv import convolve_by_matmul
from benchmarks.models.heads import Heads


class TextTrunk(nnx.Module):
    """Word vectors, then for each width of window a convolution, ReLU and its maximum over time.

    Texts are framed by zero vectors, as many as fit into a window, so that every window that
    holds a word counts and further padding changes nothing.
    """

    def __init__(
        self,
        vocabulary: int,
        embedding: int,
        widths: Sequence[int],
        channels: int,
        pretrained: Float[np.ndarray, "v e"] | None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.embed = nnx.Embed(vocabulary, embedding, rngs=rngs)
        if pretrained is not None:
            if pretrained.shape != (vocabulary, embedding):
                raise ValueError(
                    f"TextTrunk: pretrained must have shape {(vocabulary, embedding)}, not "
                    f"{pretrained.shape}"
                )
            self.embed.embedding[...] = jnp.asarray(pretrained, jnp.float32)
        self.widths = tuple(widths)
        self.convolutions = nnx.data(
            [
                nnx.Conv(
                    embedding,
                    channels,
                    kernel_size=(width,),
                    padding="VALID",
                    conv_general_dilated=convolve_by_matmul,
                    rngs=rngs,
                )
                for width in widths
            ]
        )

    def __call__(self, tokens: Int[Array, "n l"]) -> Float[Array, "n d"]:
        """Tokens, 0 for padding, to features: zeros for a text without a word."""
        words = (tokens > 0)[..., None]
        vectors = jnp.where(words, self.embed(tokens), 0)
        features = []
        for width, convolution in zip(self.widths, self.convolutions, strict=True):
            frame = ((0, 0), (width - 1, width - 1), (0, 0))
            windows = nnx.relu(convolution(jnp.pad(vectors, frame)))
            framed = jnp.pad(words, frame)
            holds_word = jnp.any(
                jnp.stack([framed[:, i : i + windows.shape[1]] for i in range(width)]), axis=0
            )
            features.append(jnp.where(holds_word, windows, 0).max(axis=1))
        return jnp.concatenate(features, axis=-1)


class MultiTaskTextCNN(nnx.Module):
    """The leaves under ``trunk`` are shared, those under ``heads`` belong to the tasks."""

    def __init__(
        self,
        *,
        vocabulary: int,
        embedding: int,
        num_tasks: int,
        classes: int,
        channels: int,
        widths: Sequence[int] = (3, 5, 7),
        pretrained: Float[np.ndarray, "v e"] | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.trunk = TextTrunk(vocabulary, embedding, widths, channels, pretrained, rngs=rngs)
        self.heads = Heads(num_tasks, len(widths) * channels, classes, rngs=rngs)

    def __call__(self, tokens: Int[Array, "n l"]) -> Float[Array, "n *t c"]:
        """Tokens, 0 for padding, to the logits of every task, or of one (see `Heads`)."""
        return self.heads(self.trunk(tokens))

"""A small Transformer over both sentences of a pair, with one linear head for each task."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from benchmarks.models.heads import Heads


class Block(nnx.Module):
    """Self-attention and two dense layers, each behind a layer norm and added to its input."""

    def __init__(self, width: int, attention_heads: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(attention_heads, width, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.dense1 = nnx.Linear(width, hidden, rngs=rngs)
        self.dense2 = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(
        self, states: Float[Array, "n l w"], words: Bool[Array, "n l"]
    ) -> Float[Array, "n l w"]:
        """States to states; attention sees words, not padding."""
        states = states + self.attention(self.norm1(states), mask=words[:, None, None])
        return states + self.dense2(nnx.gelu(self.dense1(self.norm2(states))))


class SentenceEncoder(nnx.Module):
    """Words and their positions, Transformer blocks, and the mean over the words."""

    def __init__(
        self,
        vocabulary: int,
        length: int,
        layers: int,
        attention_heads: int,
        width: int,
        hidden: int,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.length = length
        self.embed = nnx.Embed(vocabulary, width, rngs=rngs)
        self.positions = nnx.Embed(length, width, rngs=rngs)
        self.blocks = nnx.data(
            [Block(width, attention_heads, hidden, rngs=rngs) for _ in range(layers)]
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(self, tokens: Int[Array, "n l"]) -> Float[Array, "n w"]:
        """Tokens, 0 for padding, to features: zeros for a sentence without a word."""
        if tokens.shape[1] > self.length:
            raise ValueError(
                f"SentenceEncoder: at most {self.length} tokens, not {tokens.shape[1]}"
            )
        words = tokens > 0
        states = self.embed(tokens) + self.positions(jnp.arange(tokens.shape[1]))[None]
        for block in self.blocks:
            states = block(states, words)
        summed = jnp.where(words[..., None], self.norm(states), 0).sum(axis=1)
        return summed / jnp.maximum(words.sum(axis=1, keepdims=True), 1)


class MultiTaskPairTransformer(nnx.Module):
    """One output for each task and pair of sentences.

    The leaves under ``trunk`` are shared, those under ``heads`` belong to the tasks.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        length: int,
        num_tasks: int,
        layers: int,
        attention_heads: int,
        width: int,
        hidden: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.trunk = SentenceEncoder(
            vocabulary, length, layers, attention_heads, width, hidden, rngs=rngs
        )
        self.heads = Heads(num_tasks, 4 * width, 1, rngs=rngs)

    def __call__(
        self, first: Int[Array, "n l"], second: Int[Array, "n l"]
    ) -> Float[Array, "n *t 1"]:
        """Tokens, 0 for padding, to the output of every task, or of one (see `Heads`)."""
        u, v = jnp.split(self.trunk(jnp.concatenate([first, second])), 2)
        return self.heads(jnp.concatenate([u, v, jnp.abs(u - v), u * v], axis=-1))

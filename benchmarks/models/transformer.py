"""A small Transformer over both sentences of a pair, with one linear head for each task."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from benchmarks.models.heads import Heads

SHARPNESS = 10.0  # How much nearer words count for more: exp(10 cos).


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


class PairEncoder(nnx.Module):
    """Two sentences, each read with the other in view, to features of the pair.

    A word comes with the words of the other sentence that its given vector is closest to, and with
    whether it stands there too. Transformer blocks read each sentence; its mean and its maximum
    over the words are compared with those of the other. Beside them stands a dense layer over
    numbers that tell how alike the sentences are.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        given: int,
        embedding: int,
        layers: int,
        attention_heads: int,
        width: int,
        hidden: int,
        alike: int,
        side: int,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.length = length
        small = nnx.initializers.normal(0.1)
        self.embed = nnx.Embed(vocabulary, embedding, embedding_init=small, rngs=rngs)
        self.positions = nnx.Embed(length, width, embedding_init=small, rngs=rngs)
        self.word = nnx.Linear(3 * given + embedding + 2, width, rngs=rngs)
        self.blocks = nnx.data(
            [Block(width, attention_heads, hidden, rngs=rngs) for _ in range(layers)]
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.pair = nnx.Linear(6 * width, hidden, rngs=rngs)
        self.side = nnx.Linear(alike, side, rngs=rngs)

    def __call__(
        self,
        first: Int[Array, "n l"],
        second: Int[Array, "n l"],
        alike: Float[Array, "n a"],
        given: Float[Array, "v g"],
        kept: Float[Array, "n d"] | None = None,
    ) -> Float[Array, "n h"]:
        """Tokens, 0 for padding, to features; ``kept`` are factors of the words' for dropout."""
        if first.shape[1] > self.length:
            raise ValueError(f"PairEncoder: at most {self.length} tokens, not {first.shape[1]}")
        tokens, others = jnp.concatenate([first, second]), jnp.concatenate([second, first])
        words = tokens > 0
        states = self.word(
            jnp.concatenate([*_in_view(tokens, others, given), self.embed(tokens)], axis=-1)
        )
        states = states + self.positions(jnp.arange(tokens.shape[1]))[None]
        for block in self.blocks:
            states = block(states, words)
        states = self.norm(states)
        mean = jnp.where(words[..., None], states, 0).sum(axis=1)
        mean = mean / jnp.maximum(words.sum(axis=1, keepdims=True), 1)
        most = jnp.where(words[..., None], states, -jnp.inf).max(axis=1)
        most = jnp.where(words.any(axis=1, keepdims=True), most, 0)
        u, v = jnp.split(jnp.concatenate([mean, most], axis=-1), 2)
        features = jnp.concatenate([u + v, jnp.abs(u - v), u * v], axis=-1)
        if kept is not None:
            features = features * kept
        return nnx.gelu(jnp.concatenate([self.pair(features), self.side(alike)], axis=-1))


def _in_view(
    tokens: Int[Array, "n l"], others: Int[Array, "n l"], given: Float[Array, "v g"]
) -> tuple[Array, ...]:
    """Each word's vector, and what the other sentence has to offer for it.

    How it differs from and agrees with the closest vectors there, how close the closest is, and
    whether the word itself stands there.
    """
    mine, theirs = given[tokens], given[others]
    norms = jnp.sqrt(jnp.maximum(jnp.sum(given**2, axis=-1), 1e-6))
    units = mine / norms[tokens][..., None], theirs / norms[others][..., None]
    close = jnp.einsum("nig,njg->nij", *units)
    same = tokens[:, :, None] == others[:, None]
    words = (others > 0)[:, None]
    close = jnp.where(words, jnp.where(same, 1, close), 0)
    odds = jnp.where(words, jnp.exp(SHARPNESS * (close - 1)), 0)
    weights = odds / jnp.maximum(odds.sum(axis=-1, keepdims=True), 1e-12)
    aligned = jnp.einsum("nij,njg->nig", weights, theirs)
    there = jnp.any(same & words, axis=-1, keepdims=True).astype(mine.dtype)
    return mine, mine - aligned, mine * aligned, close.max(axis=-1, keepdims=True), there


class MultiTaskPairTransformer(nnx.Module):
    """One output for each task and pair of sentences.

    The leaves under ``trunk`` are shared, those under ``heads`` belong to the tasks.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        length: int,
        given: int,
        embedding: int,
        num_tasks: int,
        layers: int,
        attention_heads: int,
        width: int,
        hidden: int,
        alike: int,
        side: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.trunk = PairEncoder(
            vocabulary,
            length,
            given,
            embedding,
            layers,
            attention_heads,
            width,
            hidden,
            alike,
            side,
            rngs=rngs,
        )
        self.heads = Heads(num_tasks, hidden + side, 1, rngs=rngs)

    def __call__(
        self,
        first: Int[Array, "n l"],
        second: Int[Array, "n l"],
        alike: Float[Array, "n a"],
        given: Float[Array, "v g"],
        kept: Float[Array, "n d"] | None = None,
    ) -> Float[Array, "n *t 1"]:
        """Tokens, 0 for padding, to the output of every task, or of one (see `Heads`)."""
        return self.heads(self.trunk(first, second, alike, given, kept))

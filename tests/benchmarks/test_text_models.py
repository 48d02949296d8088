"""The models of text: TextCNN against loops in NumPy, and padding that nothing depends on."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from benchmarks.models.text_cnn import MultiTaskTextCNN, SharedPrivateTextCNN, TextTrunk
from benchmarks.models.transformer import MultiTaskPairTransformer, _in_view
from benchmarks.problems.shared_private import shared_private
from benchmarks.train.problem import mean_present
from mtl_optax.adversarial import orthogonality_penalty
from tests.benchmarks.problems import separate_problem

TEXTS = [[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1], [8], []]


def padded(length):
    return jnp.array([text + [0] * (length - len(text)) for text in TEXTS])


GIVEN = jnp.asarray(np.random.default_rng(0).normal(size=(10, 3)), jnp.float32).at[0].set(100.0)
ALIKE = jnp.array([[0.5, -1.0]] * 4)


def text_cnn(pairs=None):
    model = MultiTaskTextCNN(
        vocabulary=10,
        given=3,
        embedding=4,
        num_tasks=2,
        classes=3,
        channels=5,
        pairs=pairs,
        rngs=nnx.Rngs(0),
    )
    for convolution in model.trunk.convolutions:
        convolution.bias[...] = jnp.linspace(-1, 1, 5)
    return model


def with_pairs():
    return text_cnn((6, 2))


def transformer():
    return MultiTaskPairTransformer(
        vocabulary=10,
        length=14,
        given=3,
        embedding=4,
        num_tasks=2,
        layers=2,
        attention_heads=2,
        width=4,
        hidden=8,
        alike=2,
        side=3,
        rngs=nnx.Rngs(0),
    )


def read_texts(model, length):
    """What the trunk makes of the texts, each alone or with the text after it."""
    texts = padded(length)
    if isinstance(model, MultiTaskTextCNN):
        return model.trunk(texts, GIVEN)
    return model.trunk(texts, jnp.roll(texts, -1, axis=0), ALIKE, GIVEN)


def dense(model, text):
    """The features of one text by plain loops."""
    given = np.concatenate([GIVEN, model.trunk.embed.embedding[...]], axis=1)[text]
    convolutions = [(c.kernel[...], c.bias[...]) for c in model.trunk.convolutions]
    return np.concatenate([given.sum(axis=0) / np.sqrt(len(text)), *maxima(given, convolutions)])


def maxima(vectors, convolutions):
    """ReLU of the largest output of each convolution over the words of a text."""
    features = []
    for kernel, bias in convolutions:
        width = len(kernel)
        framed = np.pad(vectors, ((width - 1, width - 1), (0, 0)))
        windows = [framed[i : i + width] for i in range(len(vectors) + width - 1)]
        each = [np.einsum("wd,wdf->f", window, kernel) + bias for window in windows]
        features.append(np.maximum(np.max(each, axis=0), 0))
    return features


def test_text_cnn_is_a_sum_of_words_and_a_maximum_over_windows_that_hold_one():
    model = text_cnn()
    features = read_texts(model, 9)
    for text, actual in zip(TEXTS[:-1], features[:-1], strict=True):
        np.testing.assert_allclose(actual, dense(model, text), rtol=1e-4, atol=1e-5)
    assert not features[-1].any()


def test_pairs_of_known_words_are_summed_beside_the_rest():
    model = with_pairs()
    model.trunk.pairs.embedding[...] = jnp.arange(12.0).reshape(6, 2)
    features = read_texts(model, 9)
    np.testing.assert_array_equal(features[:, :-2], read_texts(text_cnn(), 9))

    def row(first, second):
        mixed = (first * 2654435761 + second * 2246822519) % 2**32
        mixed = (mixed ^ mixed >> 15) * 3266489917 % 2**32
        return (mixed ^ mixed >> 13) % 6

    rows = [row(5, 9), row(9, 2), row(2, 6)]  # 1 is a word that is not known.
    assert len(set(rows)) > 1
    wanted = np.arange(12.0).reshape(6, 2)[rows].sum(axis=0) / np.sqrt(3)
    np.testing.assert_allclose(features[0, -2:], wanted, rtol=1e-6)
    assert not features[2:, -2:].any()


def test_pairs_fill_their_table_evenly():
    words = jnp.stack(jnp.meshgrid(jnp.arange(2, 258), jnp.arange(2, 258)), axis=-1).reshape(-1, 2)
    model = TextTrunk(300, 1, 1, (1,), 1, (4096, 1), rngs=nnx.Rngs(0))
    model.pairs.embedding[...] = jnp.arange(4096.0)[:, None]
    rows = model(words, jnp.zeros((300, 1)))[:, -1].astype(int)
    filled = np.bincount(rows, minlength=4096)
    # Of 16 at each place by chance, chi-squared of 4095 degrees of freedom.
    assert ((filled - 16) ** 2 / 16).sum() < 4095 + 5 * np.sqrt(2 * 4095)


def test_text_cnn_has_the_derivatives_of_all_its_windows():
    """Though it looks at the largest alone: against differences of the loops above."""
    graph, params = nnx.split(text_cnn())
    direction = np.random.default_rng(1).normal(size=7 + 15)

    def fast(params):
        return read_texts(nnx.merge(graph, params), 9)[0] @ direction

    gradient = jax.grad(fast)(params)
    rng = np.random.default_rng(2)
    shift = jax.tree.map(lambda p: 1e-3 * rng.normal(size=p.shape), params)
    high, low = (
        dense(nnx.merge(graph, jax.tree.map(lambda p, s, f=f: p + f * s, params, shift)), TEXTS[0])
        for f in (1, -1)
    )
    slope = sum(
        jnp.sum(g * s)
        for g, s in zip(jax.tree.leaves(gradient), jax.tree.leaves(shift), strict=True)
    )
    np.testing.assert_allclose(2 * slope, (high - low) @ direction, rtol=1e-2)
    assert jnp.abs(gradient["trunk"]["embed"]["embedding"][...][3]).max() > 0


@pytest.mark.parametrize("build", [text_cnn, with_pairs, transformer])
def test_padding_changes_nothing(build):
    model = build()
    features = read_texts(model, 8)
    model.trunk.embed.embedding[...] = model.trunk.embed.embedding[...].at[0].set(100.0)
    np.testing.assert_allclose(read_texts(model, 14), features, atol=1e-5)


@pytest.mark.parametrize("build", [text_cnn, with_pairs, transformer])
def test_texts_without_a_word_have_finite_gradients(build):
    graph, params = nnx.split(build())
    text = jnp.zeros((2, 6), jnp.int32)
    inputs = (text, text, ALIKE[:2]) if build is transformer else (text,)
    grads = jax.jit(
        jax.grad(lambda params: jnp.sum(nnx.merge(graph, params)(*inputs, GIVEN) ** 2))
    )(params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_features_that_are_dropped_do_not_count():
    model = text_cnn()
    kept = jnp.zeros((4, 7 + 15)).at[:, 3].set(2.0)
    features = np.asarray(read_texts(model, 9))
    wanted = 2 * features[:, 3:4] * np.asarray(model.heads.kernel[1])[3]
    np.testing.assert_allclose(model(padded(9), GIVEN, kept)[:, 1], wanted, rtol=1e-5, atol=1e-6)
    pairs = transformer()
    texts = padded(9), padded(9)
    nothing = pairs(*texts, ALIKE, GIVEN, jnp.zeros((4, 24)))
    np.testing.assert_array_equal(nothing, jnp.broadcast_to(nothing[:1], nothing.shape))
    other = pairs(*texts, ALIKE.at[0].set(1.0), GIVEN, jnp.zeros((4, 24)))
    assert (jnp.abs(other - nothing)[0] > 1e-3).all()
    np.testing.assert_array_equal(other[1:], nothing[1:])


class Texts(NamedTuple):
    tokens: Any
    labels: Any
    present: Any
    kept: Any = None


SIZES = {"vocabulary": 10, "given": 3, "embedding": 4, "num_tasks": 2, "classes": 3}
SIZES |= {"channels": 4, "widths": (3, 5)}


def adversarial():
    """AdvMTL's network on three texts of each of two tasks, and its parameters."""

    def losses(logits, batch):
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        return mean_present(entropy, batch)

    problem = dataclasses.replace(separate_problem(), losses=losses)
    made = shared_private(problem, SIZES, GIVEN, lambda made: lambda key, batch: batch)
    tokens = jnp.stack([padded(9)[:3], padded(9)[jnp.array([1, 2, 0])]])
    texts = Texts(tokens, jnp.array([[0, 1, 2], [2, 2, 1]]), jnp.ones((2, 3), bool))
    return made, made.problem.init(jax.random.key(3)), texts


def of_task(params, task):
    """The module that one task sees."""
    own = ("private", "heads")
    graph = nnx.graphdef(SharedPrivateTextCNN(**SIZES, private=2, rngs=nnx.Rngs(0)))
    return nnx.merge(
        graph,
        nnx.State(
            {k: jax.tree.map(lambda x: x[task], v) if k in own else v for k, v in params.items()}
        ),
    )


def test_advmtl_is_what_numpy_says():
    """Losses of the heads on both kinds of features, and the two terms, all by loops."""
    made, params, texts = adversarial()
    losses, added = jax.jit(made.objective)(params, texts)
    outputs = jax.jit(made.problem.outputs)(params, texts)
    for task in range(2):
        model, rows = of_task(params, task), np.asarray(texts.tokens[task])
        table = np.concatenate([GIVEN, model.trunk.embed.embedding[...]], axis=1)
        leaves = zip(model.private.kernels, model.private.biases, strict=True)
        own = [(kernel[...], bias[...]) for kernel, bias in leaves]
        words = [row[row > 0] for row in rows]
        shared = np.stack([dense(model, text) for text in words])
        private = np.stack([np.concatenate(maxima(table[text], own)) for text in words])
        both = np.concatenate([shared, private], axis=1)
        logits = both @ np.asarray(model.heads.kernel[...]) + np.asarray(model.heads.bias[...])
        np.testing.assert_allclose(outputs[task], logits, rtol=1e-3, atol=1e-5)
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        entropy = -np.log(chances[range(3), texts.labels[task]]).mean()
        np.testing.assert_allclose(losses[task], entropy, rtol=1e-3)
        guess = shared @ np.asarray(model.discriminator.kernel[...])
        told = -np.log(np.exp(guess[:, task]) / np.exp(guess).sum(axis=1)).mean()
        centred = [part - part.mean(axis=0) for part in (shared, private)]
        left, right = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in centred)
        wanted = 0.05 * told + 0.01 * np.mean((left.T @ right) ** 2)
        np.testing.assert_allclose(added[task], wanted, rtol=1e-3)


def test_the_encoder_learns_against_the_discriminator():
    """Which follows its own gradient and sees no private features."""
    made, params, texts = adversarial()

    def told(params):
        total = 0.0
        for task, tokens in enumerate(texts.tokens):
            model = of_task(params, task)
            guess = model.discriminator(model.trunk(tokens, GIVEN))
            total -= 0.05 * jax.nn.log_softmax(guess)[:, task].mean()
        return total

    def alike(params):
        parts = [of_task(params, task).features(texts.tokens[task], GIVEN) for task in range(2)]
        options = {"center": True, "normalize": True, "reduction": "mean"}
        return 0.01 * sum(orthogonality_penalty(*part, **options) for part in parts)

    added, plain, penalty = (
        jax.jit(jax.grad(fun))(params)
        for fun in (lambda params: made.objective(params, texts)[1].sum(), told, alike)
    )
    signs = {"trunk": -1, "discriminator": 1, "private": 0, "heads": 0}
    for name, sign in signs.items():
        wanted = jax.tree.map(lambda p, q, s=sign: s * p + q, plain[name], penalty[name])
        jax.tree.map(
            lambda a, w: np.testing.assert_allclose(a, w, rtol=1e-3, atol=1e-7), added[name], wanted
        )
    assert max(jnp.abs(x).max() for x in jax.tree.leaves(plain["trunk"])) > 1e-4
    assert max(jnp.abs(x).max() for x in jax.tree.leaves(penalty["private"])) > 1e-6
    shared = jax.tree_util.tree_leaves_with_path(params)
    assert {path[0].key for path, _ in shared if made.problem.shared(path)} == {
        "trunk",
        "discriminator",
    }
    assert {path[0].key for path, _ in shared if made.encoder(path)} == {"trunk"}


def test_transformer_reads_the_order_of_words_but_not_of_sentences():
    model = transformer()
    first, second = jnp.array([[1, 2, 3], [3, 2, 1]]), jnp.array([[4, 5, 0], [4, 5, 0]])
    outputs = model(first, second, ALIKE[:2], GIVEN)
    assert jnp.abs(outputs[0] - outputs[1]).max() > 1e-3
    np.testing.assert_allclose(
        model(second, first, ALIKE[:2], GIVEN), outputs, rtol=1e-5, atol=1e-6
    )


def test_transformer_attends_between_words():
    """Without attention, and a maximum, the features would be a sum over the words."""
    block = transformer().trunk.blocks[0]
    words = jnp.ones((4, 2), bool)
    states = jax.random.normal(jax.random.key(0), (2, 2, 4))
    pairs = jnp.stack([jnp.stack([states[0, i], states[1, j]]) for i in (0, 1) for j in (0, 1)])
    both, first, second, neither = block(pairs, words)[:, 0]
    assert jnp.abs(both - first).max() > 1e-3
    assert jnp.abs(second - neither).max() > 1e-3


def test_a_word_is_compared_with_the_closest_of_the_other_sentence():
    """Of vectors at right angles, each word's closest is itself, where it is there."""
    given = jnp.concatenate([jnp.zeros((2, 3)), 2 * jnp.eye(3)])
    first, second = jnp.array([[2, 3, 0]]), jnp.array([[3, 4, 0]])
    mine, apart, alike, close, there = _in_view(first, second, given)
    np.testing.assert_array_equal(mine[0], given[first[0]])
    np.testing.assert_allclose(close[0, :2, 0], [0, 1], atol=1e-6)
    np.testing.assert_array_equal(there[0, :2, 0], [0, 1])
    np.testing.assert_allclose(apart[0, 0], [2, -1, -1], atol=1e-3)
    np.testing.assert_allclose(apart[0, 1], 0, atol=1e-3)
    np.testing.assert_allclose(alike[0, :2], [[0, 0, 0], [0, 4, 0]], atol=1e-3)


def test_transformer_refuses_a_text_beyond_its_positions():
    with pytest.raises(ValueError, match="at most 14 tokens, not 15"):
        read_texts(transformer(), 15)

"""The models of text: TextCNN against loops in NumPy, and padding that nothing depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.models.text_cnn import MultiTaskTextCNN
from benchmarks.models.transformer import MultiTaskPairTransformer

TEXTS = [[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1], [8], []]


def padded(length):
    return jnp.array([text + [0] * (length - len(text)) for text in TEXTS])


def text_cnn(**changed):
    sizes = {"vocabulary": 10, "embedding": 4, "num_tasks": 2, "classes": 3, "channels": 5}
    model = MultiTaskTextCNN(**{**sizes, **changed}, rngs=nnx.Rngs(0))
    for convolution in model.trunk.convolutions:
        convolution.bias[...] = jnp.linspace(-1, 1, 5)
    return model


def transformer():
    return MultiTaskPairTransformer(
        vocabulary=10,
        length=14,
        num_tasks=2,
        layers=2,
        attention_heads=2,
        width=4,
        hidden=8,
        rngs=nnx.Rngs(0),
    )


def test_text_cnn_is_a_maximum_over_windows_that_hold_a_word():
    model = text_cnn()
    features = model.trunk(padded(9))
    table = np.asarray(model.trunk.embed.embedding[...])
    for text, actual in zip(TEXTS[:-1], features[:-1], strict=True):
        wanted = []
        for width, convolution in zip((3, 5, 7), model.trunk.convolutions, strict=True):
            kernel, bias = np.asarray(convolution.kernel[...]), np.asarray(convolution.bias[...])
            frame = np.zeros((width - 1, 4))
            framed = np.concatenate([frame, table[text], frame])
            windows = [framed[i : i + width] for i in range(len(text) + width - 1)]
            each = [np.einsum("wd,wdf->f", window, kernel) + bias for window in windows]
            wanted.append(np.maximum(np.max(each, axis=0), 0))
        np.testing.assert_allclose(actual, np.concatenate(wanted), rtol=1e-4, atol=1e-5)
    assert not features[-1].any()


@pytest.mark.parametrize("build", [text_cnn, transformer])
def test_padding_changes_nothing(build):
    model = build()
    features = model.trunk(padded(8))
    model.trunk.embed.embedding[...] = model.trunk.embed.embedding[...].at[0].set(100.0)
    np.testing.assert_allclose(model.trunk(padded(14)), features, atol=1e-5)
    assert not features[-1].any()


@pytest.mark.parametrize("build", [text_cnn, transformer])
def test_texts_without_a_word_have_finite_gradients(build):
    graph, params = nnx.split(build())
    inputs = [jnp.zeros((2, 6), jnp.int32)] * (2 if build is transformer else 1)
    grads = jax.jit(jax.grad(lambda params: jnp.sum(nnx.merge(graph, params)(*inputs) ** 2)))(
        params
    )
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_word_vectors_may_be_given():
    table = np.random.default_rng(0).normal(size=(10, 4))
    np.testing.assert_allclose(
        text_cnn(pretrained=table).trunk.embed(jnp.arange(10)), table, rtol=1e-6
    )
    with pytest.raises(ValueError, match=r"pretrained must have shape \(10, 4\), not \(9, 4\)"):
        text_cnn(pretrained=table[1:])


def test_transformer_reads_the_order_of_words_and_of_sentences():
    model = transformer()
    features = model.trunk(jnp.array([[1, 2, 3], [3, 2, 1]]))
    assert jnp.abs(features[0] - features[1]).max() > 1e-3
    u, v = features
    wanted = np.concatenate([u, v, np.abs(u - v), u * v]) @ np.asarray(model.heads.kernel[1])
    actual = model(jnp.array([[1, 2, 3]]), jnp.array([[3, 2, 1]]))
    np.testing.assert_allclose(actual[0, 1], wanted, rtol=1e-5, atol=1e-6)


def test_transformer_attends_between_words():
    """Without attention the mean would be a sum of what each word gives at its place."""
    trunk = transformer().trunk
    both, first, second, neither = trunk(jnp.array([[1, 2], [1, 4], [3, 2], [3, 4]]))
    assert jnp.abs(both - first - second + neither).max() > 1e-3


def test_transformer_refuses_a_text_beyond_its_positions():
    with pytest.raises(ValueError, match="at most 14 tokens, not 15"):
        transformer().trunk(padded(15))

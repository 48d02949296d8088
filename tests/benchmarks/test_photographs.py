"""What is asked about photographs: losses, figures and the simplest answer, by hand."""

from types import SimpleNamespace

import jax
import numpy as np

from benchmarks.data.scenes import Scenes
from benchmarks.data.splits import Splits
from benchmarks.problems import pixels
from benchmarks.problems.photographs import same_everywhere, street_scores
from benchmarks.train.schedules import halved_halfway

CLASSES = 13


def street(number, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, CLASSES, (number, 4, 6)).astype(np.int8)
    depths = np.where(labels == 3, 0, rng.random(labels.shape) + 0.1).astype(np.float32)
    return Scenes(np.zeros((*labels.shape, 3), np.float32), labels, depths, None)


def test_a_perfect_answer_has_a_perfect_score_and_a_worse_one_that_of_numpy():
    data = street(3, 0)
    right = {"segmentation": data.labels, "depth": data.depths[..., None]}
    scores = street_scores(CLASSES)
    np.testing.assert_allclose(scores(right, data), [100, 100, 0, 0], atol=1e-4)
    off = {"segmentation": (data.labels + 1) % CLASSES, "depth": 1.5 * data.depths[..., None]}
    known = data.depths != 0
    wanted = [0, 0, 500 * data.depths[known].mean(), 0.5]
    np.testing.assert_allclose(scores(off, data), wanted, rtol=1e-4)


def test_losses_are_means_over_the_pixels_that_have_a_target():
    data = street(2, 1)
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(2, 4, 6, CLASSES)).astype(np.float32)
    depth = rng.normal(size=(2, 4, 6, 1)).astype(np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    there, known = data.labels >= 0, data.depths != 0
    entropy = -np.log(shares[there, data.labels[there]]).mean()
    error = np.abs(depth[..., 0] - data.depths)[known].mean()
    found = jax.jit(pixels.losses)({"segmentation": logits, "depth": depth}, data)
    np.testing.assert_allclose(found, [entropy, error], rtol=1e-5)


def test_the_simplest_answer_is_the_same_for_every_picture():
    """At each place the most frequent class, and means over what is known."""
    train = street(9, 3)
    train = train._replace(normals=np.random.default_rng(4).normal(size=(9, 4, 6, 3)))
    splits = Splits(train, street(2, 5), SimpleNamespace(images=np.zeros((4, 1))))
    validation, test = same_everywhere(splits, CLASSES).answers()
    assert len(validation["depth"]) == 2
    assert len(test["depth"]) == 4
    for y, x in np.ndindex(4, 6):
        labels = train.labels[:, y, x]
        classes, counts = np.unique(labels[labels >= 0], return_counts=True)
        assert counts.max() == counts[classes == test["segmentation"][3, y, x]].item()
        depths = train.depths[:, y, x]
        np.testing.assert_allclose(test["depth"][3, y, x, 0], depths[depths != 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(validation["normals"][1], train.normals.mean(axis=0))


def test_the_rate_is_halved_after_half_of_the_training():
    done = (np.arange(200) + 0.5) / 200
    np.testing.assert_array_equal(halved_halfway(done), np.repeat([1, 0.5], 100))

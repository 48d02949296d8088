"""The figures of results by hand, in NumPy and by scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from mtl_optax import metrics

# Segmentation (mIoU, pixel accuracy) and depth (absolute, relative error) of two methods.
BASELINE = np.array([0.74, 0.93, 0.0125, 27.7])
FOUND = np.array([[0.75, 0.92, 0.0150, 30.0], [0.74, 0.93, 0.0125, 27.7]])
HIGHER = [True, True, False, False]


def test_delta_m_is_the_sign_convention_of_the_cagrad_and_nash_papers():
    signs = (-1.0) ** np.array(HIGHER)
    wanted = 100 * np.mean(signs * (FOUND - BASELINE) / BASELINE, axis=1)
    assert wanted[0] > 0  # Worse than the baseline, and so positive.
    np.testing.assert_allclose(metrics.delta_m(FOUND, BASELINE, HIGHER), wanted, rtol=1e-5)


def test_delta_p_averages_within_tasks_first():
    gains = 100 * (FOUND - BASELINE) / BASELINE * np.array([1, 1, -1, -1])
    got = metrics.delta_p(FOUND, BASELINE, HIGHER, tasks=[0, 0, 0, 7])
    wanted = (gains[:, :3].mean(1) + gains[:, 3]) / 2
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    balanced = metrics.delta_p(FOUND, BASELINE, HIGHER, tasks=[1, 1, 0, 0])
    np.testing.assert_allclose(balanced, -metrics.delta_m(FOUND, BASELINE, HIGHER), rtol=1e-5)
    assert abs(got[0] - balanced[0]) > 0.1


def test_a_negative_baseline_keeps_the_sign():
    """A log-likelihood that rises from -2 to -1 is a gain."""
    np.testing.assert_allclose(metrics.delta_p([-1.0], [-2.0], [True]), 50.0)
    np.testing.assert_allclose(metrics.delta_m([-1.0], [-2.0], [False]), 50.0)


def test_they_run_under_jit_and_strict_promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        found = jax.jit(lambda m: metrics.delta_p(m, jnp.asarray(BASELINE), HIGHER, [0, 0, 1, 1]))
        plain = metrics.delta_p(FOUND, BASELINE, HIGHER, [0, 0, 1, 1])
        np.testing.assert_allclose(found(jnp.asarray(FOUND)), plain, rtol=1e-5)


def test_task_variance_is_the_populations():
    losses = np.random.default_rng(0).normal(size=(5, 4))
    np.testing.assert_allclose(metrics.task_variance(losses), losses.var(axis=1), rtol=1e-5)


def test_arguments_are_checked():
    with pytest.raises(TypeError, match="delta_m: higher_is_better must hold booleans"):
        metrics.delta_m(FOUND, BASELINE, [1, 1, -1, -1])
    with pytest.raises(ValueError, match=r"delta_p: metrics \(2, 4\), baseline \(4,\) and higher"):
        metrics.delta_p(FOUND, BASELINE, HIGHER[:3])
    with pytest.raises(ValueError, match="delta_p: tasks must hold an int for each of the 4"):
        metrics.delta_p(FOUND, BASELINE, HIGHER, tasks=[0, 1])


def scenes(seed=0, shape=(3, 8, 10), num_classes=4):
    """Two batches of labels, some of them no class, and of predictions."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, num_classes, shape)
    right = rng.random(shape) < 0.5
    return np.where(right, np.maximum(labels, 0), rng.integers(0, num_classes, shape)), labels


def test_confusion_matrices_are_scikit_learns_and_add_up():
    predicted, labels = scenes()
    known = labels >= 0
    wanted = sklearn.metrics.confusion_matrix(labels[known], predicted[known], labels=range(4))
    parts = [metrics.confusion_matrix(p, y, 4) for p, y in zip(predicted, labels, strict=True)]
    np.testing.assert_array_equal(sum(parts), wanted)
    ignored = metrics.confusion_matrix(predicted, labels, 4, ignored=2)
    np.testing.assert_array_equal(ignored, np.where(np.arange(4)[:, None] == 2, 0, wanted))
    np.testing.assert_array_equal(metrics.confusion_matrix(predicted + 9, labels, 4), 0)


@pytest.mark.parametrize(("kind", "classes"), [("int8", 13), ("uint8", 19), ("int8", 200)])
def test_a_confusion_matrix_of_small_integers_may_have_many_classes(kind, classes):
    """Their square does not fit into the type of the labels, nor need their number."""
    labels = np.array([12, 3, 12], kind)
    wanted = np.zeros((classes, classes), int)
    wanted[12, 12], wanted[3, 12], wanted[12, 3] = 1, 1, 1
    found = metrics.confusion_matrix(np.array([12, 12, 3], kind), labels, classes)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.nans
def test_iou_and_pixel_accuracy_are_scikit_learns():
    predicted, labels = scenes()
    known = labels >= 0
    confusion = metrics.confusion_matrix(predicted, labels, 6)
    shares = sklearn.metrics.jaccard_score(labels[known], predicted[known], average=None)
    np.testing.assert_allclose(metrics.mean_iou(confusion), shares.mean(), rtol=1e-6)
    assert np.isnan(metrics.mean_iou(confusion, absent="nan"))
    whole = metrics.confusion_matrix(predicted, labels, 4)
    np.testing.assert_allclose(metrics.mean_iou(whole, absent="nan"), shares.mean(), rtol=1e-6)
    accuracy = sklearn.metrics.accuracy_score(labels[known], predicted[known])
    np.testing.assert_allclose(metrics.pixel_accuracy(confusion), accuracy, rtol=1e-6)
    nothing = np.zeros((3, 3), int)
    assert np.isnan(metrics.mean_iou(nothing))
    assert np.isnan(metrics.pixel_accuracy(nothing))


@pytest.mark.nans
def test_depth_errors_are_those_of_pixels_with_a_depth():
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.5, 9, (2, 7, 5)) * (rng.random((2, 7, 5)) < 0.7)
    predicted = depth + rng.normal(size=depth.shape)
    found = metrics.depth_errors(predicted, depth)
    error, known = np.abs(predicted - depth)[depth > 0], depth[depth > 0]
    np.testing.assert_allclose(found, [error.mean(), (error / known).mean(), len(known)], rtol=1e-5)
    assert np.isnan(metrics.depth_errors(predicted, np.full_like(depth, 9), undefined=9).absolute)


def test_means_over_many_pixels_do_not_stop_growing():
    """Ones, one after the other, add up to no more than 2^24 in float32."""
    ones = jnp.ones(2**24 + 2**22)
    assert metrics.depth_errors(2 * ones, ones).absolute == 1


@pytest.mark.parametrize("count", [0, 1, 2, 40, 41])
@pytest.mark.nans
def test_normal_errors_are_those_of_the_angles(count):
    rng = np.random.default_rng(count)
    normals = np.zeros((50, 3))
    normals[:count] = rng.normal(size=(count, 3))
    predicted = normals + 0.3 * rng.normal(size=(50, 3))
    found = metrics.normal_errors(predicted.reshape(5, 10, 3), normals.reshape(5, 10, 3))
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = np.sum(unit(predicted[:count]) * unit(normals[:count]), axis=1) if count else []
    angles = np.degrees(np.arccos(cosines))
    shares = [np.mean(angles < limit) if count else np.nan for limit in (11.25, 22.5, 30)]
    middle = [f(angles) if count else np.nan for f in (np.mean, np.median)]
    np.testing.assert_allclose(found, [*middle, *shares, count], rtol=1e-4)


def test_small_angles_and_normals_that_count_for_none():
    tilted = jnp.array([[1e-4, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    normals = jnp.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.6, -0.6, 0.0]])
    found = metrics.normal_errors(tilted[:1], normals[:1])
    np.testing.assert_allclose(found.mean, np.degrees(1e-4), rtol=1e-5)
    assert metrics.normal_errors(tilted[1:2], normals[1:2]).mean == 90
    assert metrics.normal_errors(tilted, normals).pixels == 3
    assert metrics.normal_errors(tilted, normals, undefined="zero_sum").pixels == 2


@pytest.mark.nans
@pytest.mark.parametrize("levels", [3, 1000])
def test_areas_are_scikit_learns_for_each_user(levels):
    rng = np.random.default_rng(levels)
    users, labels = rng.integers(5, 25, 300), rng.random(300) < 0.3
    scores = (rng.integers(0, levels, 300) / levels).astype(np.float32)
    wanted = sklearn.metrics.roc_auc_score(labels, scores)
    np.testing.assert_allclose(metrics.auc(scores, labels), wanted, rtol=1e-6)
    assert np.isnan(metrics.auc(scores, np.ones(300)))
    own = [users == user for user in np.unique(users)]
    areas = [
        sklearn.metrics.roc_auc_score(labels[of], scores[of])
        for of in own
        if 0 < labels[of].sum() < of.sum()
    ]
    assert len(areas) < len(own) or levels > 3
    found = metrics.user_auc(scores, labels, users)
    np.testing.assert_allclose(found, np.mean(areas), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(metrics.user_auc)(scores, labels, users), found, rtol=1e-6)
    assert np.isnan(metrics.user_auc(scores, np.ones(300), users))
    assert np.isnan(metrics.auc(np.where(users == 7, np.nan, scores), labels))


def test_pairs_beyond_32_bits_lose_nothing():
    size = 300_000
    rng = np.random.default_rng(0)
    scores, labels = rng.permutation(size).astype(np.float32), rng.random(size) < 0.5
    wanted = sklearn.metrics.roc_auc_score(labels, scores)
    np.testing.assert_allclose(metrics.auc(scores, labels), wanted, rtol=3e-7)


def test_scores_are_rounded_where_the_contest_does():
    scores, labels = np.array([0.1234561, 0.1234562]), [1, 0]
    users = [3, 3]
    assert metrics.user_auc(scores, labels, users) == 0
    assert metrics.user_auc(scores, labels, users, digits=6) == 0.5


def test_weighted_areas_of_the_contest_and_of_adatask():
    """The contest's public baseline reports .77095 of these, AdaTask's table .8652."""
    found = metrics.weighted_auc({"like": 0.92083, "finish": 0.70672}, "tiktok")
    np.testing.assert_allclose(found, 0.77095, atol=5e-6)
    found = metrics.weighted_auc({"like": 0.9173, "finish": 0.7437}, "tiktok_adatask")
    np.testing.assert_allclose(found, 0.8652, atol=5e-5)
    several = metrics.weighted_auc({"a": jnp.array([1.0, 0.0]), "b": 0.5}, {"a": 3, "b": 1})
    np.testing.assert_allclose(several, [0.875, 0.125])
    for weights in metrics.AUC_WEIGHTS.values():
        np.testing.assert_allclose(sum(weights.values()), 1)

"""The pictures show what the methods do: their arrows, not their ink, are held to oracles."""

import xml.etree.ElementTree as ET

import numpy as np
import pictures
import pytest

import mtl_optax as mtl
from benchmarks.show.pictures import TASK_COLOURS
from tests.common import METHODS

G2, G3 = pictures.GRADIENTS[2], pictures.GRADIENTS[3]


def test_methods_that_the_pictures_know_exist():
    assert set(pictures.GIVEN) <= set(METHODS)
    for name, given in pictures.GIVEN.items():
        mtl.get(name, 2, **given.hyperparameters(2))
        assert bool(given.said) == bool(given.hyperparameters(2)), name


@pytest.mark.parametrize("gradients", [G2, G3], ids=["two", "three"])
def test_the_sum_and_the_mean_are_drawn(gradients):
    tasks = len(gradients)
    np.testing.assert_allclose(pictures.run("sum_tasks", tasks).shown, gradients.sum(0), rtol=1e-6)
    np.testing.assert_allclose(
        pictures.run("mean_tasks", tasks).shown, gradients.mean(0), rtol=1e-6
    )


def test_mgda_is_drawn_to_the_foot_of_the_perpendicular():
    line = G2[1] - G2[0]
    foot = G2[0] - (G2[0] @ line) / (line @ line) * line
    np.testing.assert_allclose(pictures.run("mgda", 2).shown, foot, rtol=1e-5)
    normal = np.cross(G3[1] - G3[0], G3[2] - G3[0])
    foot = (G3[0] @ normal) / (normal @ normal) * normal
    np.testing.assert_allclose(pictures.run("mgda", 3).shown, foot, rtol=1e-5)


def test_pcgrad_is_drawn_with_each_gradient_off_the_other():
    parts = pictures.run("pcgrad", 2).parts
    for task in range(2):
        other = G2[1 - task]
        off = G2[task] - (G2[task] @ other) / (other @ other) * other
        np.testing.assert_allclose(parts[task], off, rtol=1e-5)


def test_losses_fall_by_the_factors_that_dwa_is_given():
    losses, factors = pictures.run("dwa", 2).losses, np.array(pictures.GIVEN["dwa"].falls[:2])
    np.testing.assert_allclose(losses[1:], losses[:-1] * factors)
    weights = pictures.run("dwa", 2).weights[-1]
    np.testing.assert_allclose(weights, 2 * np.exp(factors / 2) / np.exp(factors / 2).sum(), 1e-5)


def test_random_methods_are_drawn_as_the_mean_of_their_draws():
    done = pictures.run("rlw", 3)
    assert len(np.unique(done.updates, axis=0)) == pictures.DRAWS
    np.testing.assert_allclose(done.shown, done.updates.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(done.weights @ G3, done.updates, rtol=1e-4, atol=1e-6)


def test_steps_of_an_optimiser_point_up_the_loss():
    assert (pictures.run("adatask", 2).shown @ G2.T > 0).all()


@pytest.mark.parametrize("gradients", [G2, G3], ids=["two", "three"])
def test_what_is_shaded_conflicts_with_no_gradient(gradients):
    corners = pictures.without_conflict(gradients)
    assert (corners @ gradients.T >= -1e-12).all()
    weights = np.linalg.solve(gradients.T, corners.T).T
    assert (weights >= -1e-12).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    # Nothing is left out: a point of the hull that conflicts with none lies among the corners.
    rng = np.random.default_rng(0)
    hull = rng.dirichlet(np.ones(len(gradients)), 500) @ gradients
    inside = hull[(hull @ gradients.T >= 0).all(axis=1)]
    assert 10 < len(inside) < 490
    for point in inside:
        assert (corners @ point).max() >= point @ point - 1e-9


def test_an_update_crosses_the_plane_of_the_tips_at_weights_that_sum_to_one():
    np.testing.assert_allclose(pictures.crossing(G3, 5 * G3.mean(axis=0)), G3.mean(axis=0))
    assert pictures.crossing(G2, G2[0] - G2[1]) is None


@pytest.mark.parametrize("name", ["cagrad", "graddrop"])
def test_pictures_are_drawn_and_are_the_same_each_time(name, tmp_path):
    paths = pictures.draw(name, tmp_path / "new")
    assert [path.name for path in paths] == [f"{name}_2.svg", f"{name}_3.svg"]
    first = [path.read_bytes() for path in paths]
    for content in first:
        assert ET.fromstring(content).tag.endswith("svg")
        assert 5_000 < len(content) < 500_000
    assert [path.read_bytes() for path in pictures.draw(name, tmp_path / "new")] == first


def test_colours_are_those_of_the_benchmarks():
    assert TASK_COLOURS[:3] == pictures.TASK_COLOURS

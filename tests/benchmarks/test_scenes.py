"""Rendered rooms: geometry by hand, and depths, normals and labels that agree with each other.

And what networks learn from them: losses and figures by NumPy.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.data import scenes as s
from benchmarks.data.scenes import Rooms, draw, meet_balls, meet_boxes, meet_room, render, scenes
from benchmarks.models.patches import into_patches, out_of_patches
from benchmarks.problems import pixels


@pytest.fixture(scope="module")
def some():
    return scenes(train=24, validation=3, test=2, seed=1).train


def points(found):
    """In the camera's axes, from depths alone."""
    return found.depths[..., None] * s.rays().T.reshape(s.HEIGHT, s.WIDTH, 3)


def directions(*towards):
    return np.array(towards, float).T[None]


def test_where_a_ray_meets_a_ball():
    """Of radius 1, five metres away: by the roots of |t d - c|² = 1."""
    centre, radius = np.array([[0.0, 0.0, 5.0]]), np.array([1.0])
    towards = directions((0, 0, 1), (0.1, 0, 1), (0.25, 0, 1), (0, 0, 2))
    found, normals = meet_balls(towards, centre, radius)
    np.testing.assert_allclose(found[0, :2], [4, np.roots([1.01, -10, 24]).min()])
    assert found[0, 2] == np.inf  # sin(angle) = 0.243 is more than 1 / 5.
    assert found[0, 3] == 2
    np.testing.assert_allclose(normals[0, :, 0], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(normals[0, 0, 1], 0.1 * found[0, 1])
    behind, _ = meet_balls(towards, -centre, radius)
    assert np.isinf(behind).all()


def test_where_a_ray_meets_a_box():
    """Two metres along each side, five away, turned by 30 degrees about the vertical."""
    centre, half = np.array([[0.0, 0.0, 5.0]]), np.ones((1, 3))
    towards = directions((0, 0, 1), (0, 0.5, 1), (0.5, 0, 1))
    straight, normals = meet_boxes(towards, centre, half, np.zeros(1))
    np.testing.assert_allclose(straight[0], [4, np.inf, np.inf])
    np.testing.assert_allclose(normals[0, :, 0], [0, 0, -1], atol=1e-12)
    sine, cosine = 0.5, np.sqrt(0.75)
    turned, normals = meet_boxes(towards, centre, half, np.array([np.pi / 6]))
    np.testing.assert_allclose(turned[0, 0], 5 - 1 / cosine)
    np.testing.assert_allclose(normals[0, :, 0], [-sine, 0, -cosine], atol=1e-12)
    # The lid, seen from above: half a metre below the eye.
    lower = np.array([[0, 1.5, 5]])
    lid, normals = meet_boxes(directions((0, 0.125, 1)), lower, half, np.zeros(1))
    np.testing.assert_allclose(lid[0, 0], 4)
    np.testing.assert_allclose(normals[0, :, 0], [0, -1, 0], atol=1e-12)
    behind, _ = meet_boxes(towards, -centre, half, np.zeros(1))
    assert np.isinf(behind).all()


def test_where_a_ray_leaves_a_room():
    towards = directions((0, 0, 1), (1, 0, 1), (0, 1, 0.1), (-2, 0, -1))
    found, planes, normals = meet_room(towards, np.array([[-1, -1, -4]]), np.array([[2, 1.5, 6]]))
    np.testing.assert_allclose(found[0], [6, 2, 1.5, 0.5])
    np.testing.assert_array_equal(planes[0], [5, 1, 3, 0])
    np.testing.assert_array_equal(normals[0].T, [[0, 0, -1], [-1, 0, 0], [0, -1, 0], [1, 0, 0]])


def test_normals_are_those_of_the_depths(some):
    """By differences between the points of neighbouring pixels, where these lie on one surface."""
    seen = points(some)
    across, down = seen[:, 1:-1, 2:] - seen[:, 1:-1, :-2], seen[:, 2:, 1:-1] - seen[:, :-2, 1:-1]
    normals = np.cross(down, across)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-12
    inner, neighbours = some.normals[:, 1:-1, 1:-1], []
    for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
        at = (slice(None), slice(rows, rows + 62), slice(columns, columns + 94))
        neighbours.append((some.labels[at], (some.normals[at] * inner).sum(axis=-1)))
    labels = some.labels[:, 1:-1, 1:-1]
    one = np.all([(label == labels) & (alike > 0.97) for label, alike in neighbours], axis=0)
    angles = np.degrees(np.arccos(np.clip((normals * inner).sum(axis=-1), -1, 1)))
    for label in range(len(s.CLASSES)):
        chosen = one & (labels == label)
        assert chosen.sum() > 200
        # Two things of one kind may lie one behind the other.
        assert np.quantile(angles[chosen], 0.95) < 2, s.CLASSES[label]


def test_planes_lie_where_the_labels_say(some):
    """The floor is level and below, and the ceiling is parallel to it; all faces are seen."""
    seen = points(some)
    distances = -(some.normals * seen).sum(axis=-1)
    assert (distances[some.labels >= 0] > 0).all()
    for number, labels in enumerate(some.labels):
        floor, ceiling = (labels == label for label in (s.FLOOR, s.CEILING))
        if not floor.any():
            continue
        up = some.normals[number][floor]
        np.testing.assert_allclose(up, up[:1].repeat(len(up), 0), atol=1e-5)
        height = distances[number][floor]
        np.testing.assert_allclose(height, height[0], rtol=1e-3)
        assert 1 <= height[0] <= 1.8
        assert up[0, 1] < 0
        np.testing.assert_allclose(some.normals[number][ceiling] @ up[0], -1, atol=1e-4)
        # Pictures hang upright; a table's lid is level, its sides are upright.
        np.testing.assert_allclose(some.normals[number][labels == s.PICTURE] @ up[0], 0, atol=1e-4)
        steep = np.abs(some.normals[number][labels == s.TABLE] @ up[0])
        assert (np.minimum(steep, 1 - steep) < 1e-4).all()


def test_only_windows_are_undefined(some):
    hidden = some.labels == s.UNDEFINED
    assert 1e-3 < hidden.mean() < 0.05
    np.testing.assert_array_equal(some.depths == 0, hidden)
    lengths = np.linalg.norm(some.normals, axis=-1)
    np.testing.assert_allclose(lengths, 1.0 - hidden, atol=1e-4)
    assert some.labels.max() == s.PICTURE
    assert np.bincount(some.labels[~hidden]).min() > 0
    assert some.images.min() >= 0
    assert some.images.max() <= 1
    assert some.images[hidden].mean() > 0.6 > some.images[~hidden].mean() > 0.2


def test_a_seed_decides_everything():
    first, again = (scenes(train=5, validation=2, test=3, seed=4) for _ in range(2))
    other = scenes(train=2, validation=2, test=3, seed=4)
    for name in first.train._fields:
        for split in ("train", "validation", "test"):
            one, two = (getattr(getattr(made, split), name) for made in (first, again))
            np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(getattr(first.test, name), getattr(other.test, name))
    # Splits of one size share no room.
    alike = scenes(train=2, validation=2, test=2, seed=4)
    assert len({split.depths.tobytes() for split in alike}) == 3
    moved = scenes(train=1, validation=1, test=3, seed=5)
    assert not np.array_equal(moved.test.depths, first.test.depths)


def test_light_falls_by_the_angle_and_the_square_of_the_distance(monkeypatch):
    """On the wall in front of an empty room, plain and without noise, against Lambert's law."""
    monkeypatch.setattr(s, "NOISE", 0)
    rooms = draw(np.random.default_rng(0), 1)
    changes = {
        "camera": np.eye(3)[None],
        "low": [[-3, -1.5, -1]],
        "high": [[3, 1.5, 5]],
        "kinds": np.full_like(rooms.kinds, -1),
        "places": 0 * rooms.places,
        "strengths": 0 * rooms.strengths,
        "lamp": [[0.5, -1, 4]],
        "light": [[1, 0.5, 0]],
        "ambient": [0.1],
    }
    rooms = Rooms(**{**rooms._asdict(), **{k: np.asarray(v, float) for k, v in changes.items()}})
    rooms = rooms._replace(kinds=rooms.kinds.astype(int))
    found = render(rooms, np.random.default_rng(0))
    assert found.labels[0, 32, 48] == s.WALL
    away = np.array([0.5 - 5 * 0.5 / s.FOCAL, -1 - 5 * 0.5 / s.FOCAL, -1])
    square = away @ away
    lit = 1 / np.sqrt(square) / (1 + square)
    wanted = rooms.colours[0, 5] * (0.1 + lit * np.array([1, 0.5, 0]))
    np.testing.assert_allclose(found.images[0, 32, 48], wanted, rtol=1e-4)
    np.testing.assert_allclose(found.depths[0, 32, 48], 5, rtol=1e-6)


def test_patches_are_squares_and_come_back():
    images = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    squares = into_patches(images, 2)
    assert squares.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(squares[1, 1, 2], images[1, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(out_of_patches(squares, 2), images)


def test_losses_are_means_over_the_pixels_that_have_a_target(some):
    few = jax.tree.map(lambda x: x[:3], some)
    rng = np.random.default_rng(5)
    outputs = {
        name: rng.normal(size=(*few.labels.shape, number))
        for name, number in pixels.outputs_of(len(s.CLASSES)).items()
    }
    there = few.labels >= 0
    assert not there.all()
    logits = outputs["segmentation"][there]
    chances = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    told = chances[np.arange(len(chances)), few.labels[there]]
    normals = outputs["normals"][there]
    cosines = (normals * few.normals[there]).sum(axis=-1) / np.linalg.norm(normals, axis=-1)
    wanted = [
        -np.log(told).mean(),
        np.abs(outputs["depth"][there][:, 0] - few.depths[there]).mean(),
        (1 - cosines).mean(),
    ]
    np.testing.assert_allclose(pixels.losses(outputs, few), wanted, rtol=1e-4)
    dark = jax.tree.map(jnp.zeros_like, outputs)
    gradient = jax.jacrev(pixels.losses)(dark, few)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    empty = few._replace(labels=0 * few.labels - 1, depths=0 * few.depths, normals=0 * few.normals)
    np.testing.assert_array_equal(pixels.losses(outputs, empty), 0)


def test_figures_of_what_is_half_right(some):
    """The left half is right; on the right the class is another, depth 10 % off, the normal 20°."""
    few = jax.tree.map(lambda x: x[:4], some)
    right = {
        "segmentation": few.labels.astype(np.int8),
        "depth": few.depths[..., None],
        "normals": few.normals,
    }
    figures = pixels.scores(len(s.CLASSES))
    np.testing.assert_allclose(figures(right, few), [100, 100, 0, 0, 0, 0, 100, 100, 100], atol=0.1)
    half = np.arange(s.WIDTH) >= 48
    there = few.labels >= 0
    side = np.cross(few.normals, [0.3, 0.5, 0.8])
    side /= np.linalg.norm(side, axis=-1, keepdims=True) + 1e-9
    turned = np.cos(np.pi / 9) * few.normals + np.sin(np.pi / 9) * side
    wrong = {
        "segmentation": np.where(half, (few.labels + 1) % 7, few.labels).astype(np.int8),
        "depth": np.where(half, 1.1, 1)[:, None] * few.depths[..., None],
        "normals": np.where(half[:, None], turned, few.normals),
    }
    part = (there & half).sum() / there.sum()
    found = figures(wrong, few)
    depth = 10 * few.depths[there & half].sum() / there.sum()
    expected = [100 * (1 - part), depth, 10 * part, 20 * part]
    np.testing.assert_allclose(found[1:5], expected, rtol=1e-3)
    within = [100 * (1 - part), 100, 100]
    np.testing.assert_allclose(found[6:], within, rtol=1e-4)
    met, either = [], []
    for label in range(7):
        is_label, told = few.labels == label, (wrong["segmentation"] == label) & there
        met.append((is_label & told).sum())
        either.append((is_label | told).sum())
    np.testing.assert_allclose(found[0], 100 * np.mean(np.divide(met, either)), rtol=1e-5)

"""Folders of pictures with the published layouts, and how those to train on are disturbed."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from benchmarks.data.cityscapes import LAYOUT as STREETS
from benchmarks.data.cityscapes import cityscapes
from benchmarks.data.nyuv2 import LAYOUT as ROOMS
from benchmarks.data.nyuv2 import nyuv2
from benchmarks.data.scenes import Scenes
from benchmarks.data.zoomed import SCALES, at, zoomed
from benchmarks.errors import UserError
from tests.benchmarks import small_data

NUMBER = 11
LOADERS = ((nyuv2, ROOMS), (cityscapes, STREETS))


@pytest.fixture
def folder(tmp_path):
    for layout in (ROOMS, STREETS):
        small_data.write_pictures(tmp_path, layout, NUMBER)
    return tmp_path


@pytest.mark.parametrize(("load", "layout"), LOADERS, ids=["nyuv2", "cityscapes"])
def test_every_file_is_read_into_its_place(load, layout, folder):
    """Training and validation split share the published training part; the rest is the test."""
    splits = load(folder)
    here = folder / layout.name.lower()
    assert [len(part.images) for part in splits] == [NUMBER - 1, 1, NUMBER]
    files = np.stack([np.load(here / "train" / "image" / f"{i}.npy") for i in range(NUMBER)])
    read = np.concatenate([splits.train.images, splits.validation.images])
    places = [int(np.abs(files - picture).mean((1, 2, 3)).argmin()) for picture in read]
    assert sorted(places) == list(range(NUMBER)) != places
    pictures = [(splits.train, "train", places[:-1]), (splits.validation, "train", places[-1:])]
    for split, part, numbers in [*pictures, (splits.test, "val", range(NUMBER))]:
        for field, name in layout.folders.items():
            found = getattr(split, field)
            wanted = [np.load(here / part / name / f"{number}.npy") for number in numbers]
            assert found.dtype == (np.int8 if field == "labels" else np.float32)
            np.testing.assert_allclose(found, np.stack(wanted).reshape(found.shape), rtol=1e-6)
    assert (splits.test.normals is None) == (load is cityscapes)
    np.testing.assert_array_equal(load(here).test.labels, splits.test.labels)


def test_depths_may_lack_the_last_axis(folder):
    whole = cityscapes(folder)
    for path in (folder / "cityscapes").glob("*/depth/*.npy"):
        np.save(path, np.load(path)[..., 0])
    np.testing.assert_array_equal(cityscapes(folder).train.depths, whole.train.depths)


def spoil(name, change):
    def spoiled(part):
        path = part / name
        np.save(path, change(np.load(path)))

    return spoiled


def with_value(value):
    def changed(array):
        array[2, 3] = value
        return array

    return changed


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shutil.rmtree, r"train/image/0\.npy: no such file, beside 0"),
        (lambda part: (part / "depth" / "4.npy").unlink(), r"depth/4\.npy.* beside 10 .*0 to 10"),
        (lambda part: (part / "image" / "10.npy").unlink(), r"image/10\.npy: no such file"),
        (spoil("image/3.npy", lambda x: x[:, :32]), r"3\.npy: 32 x 32 pixels.* 32 x 64"),
        (spoil("image/0.npy", lambda x: x[:, :40]), r"0\.npy: 32 x 40 pixels, .*of 32"),
        (spoil("image/1.npy", lambda x: 255 * x), r"1\.npy: colours .* divide them by 255"),
        (spoil("image/2.npy", with_value(np.nan)), r"image/2\.npy: it holds NaN"),
        (spoil("depth/2.npy", with_value(np.inf)), r"depth/2\.npy: it holds NaN or infinity"),
        (spoil("normal/5.npy", lambda x: np.moveaxis(x, -1, 0)), r"5\.npy: its shape is \(3, 32"),
        (spoil("label/6.npy", with_value(13)), r"6\.npy: labels .* -1 to 12, not 13"),
        (spoil("label/6.npy", with_value(0.5)), r"6\.npy: labels .*, not 0\.5"),
        (spoil("label/6.npy", lambda x: x.astype(str)), r"6\.npy: it holds <U"),
        (lambda part: (part / "label" / "7.npy").write_bytes(b"PNG"), r"7\.npy: not a NumPy array"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(harm, message, folder):
    harm(folder / "nyuv2" / "train")
    with pytest.raises(UserError, match=message) as error:
        nyuv2(folder)
    assert "\n" not in str(error.value)


def test_where_the_data_comes_from_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("MTL_OPTAX_DATA", raising=False)
    with pytest.raises(UserError, match=r"--data-dir.*lorenmt/mtan.*label_7/0\.npy"):
        cityscapes(None)
    small_data.write_pictures(tmp_path, ROOMS, 1)
    with pytest.raises(UserError, match="too few"):
        nyuv2(tmp_path)


RNG = np.random.default_rng(0)
SIZE = (30, 24)
PICTURE = Scenes(
    RNG.random((*SIZE, 3)).astype(np.float32),
    RNG.integers(-1, 5, SIZE).astype(np.int8),
    RNG.random(SIZE).astype(np.float32) + 1,
    RNG.normal(size=(*SIZE, 3)).astype(np.float32),
)
placed = jax.jit(at, static_argnums=5)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_zoom_is_that_of_scipy(number, mirrored):
    """From the last rows on, so that the edge counts; the cut-out stretched, then mirrored."""
    parts = [int(size / SCALES[number]) for size in SIZE]
    row, column = SIZE[0] - parts[0], (SIZE[1] - parts[1]) // 2
    cut = Scenes(*(x[row : row + parts[0], column : column + parts[1]] for x in PICTURE))
    grid = np.meshgrid(
        *(np.linspace(0, part - 1, size) for part, size in zip(parts, SIZE, strict=True)),
        indexing="ij",
    )
    images, normals = (
        np.stack([map_coordinates(x[..., c], grid, order=1) for c in range(3)], axis=-1)
        for x in (cut.images, cut.normals)
    )
    rows, columns = (
        np.floor(np.arange(size) * part / size + 1e-9).astype(int)
        for part, size in zip(parts, SIZE, strict=True)
    )
    wanted = [
        images,
        cut.labels[rows][:, columns],
        cut.depths[rows][:, columns] / SCALES[number],
        normals,
    ]
    if mirrored:
        wanted = [x[:, ::-1] for x in wanted]
        wanted[3] = wanted[3] * [-1, 1, 1]
    found = placed(PICTURE, number, row, column, mirrored, "divided")
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_inverse_depths_may_be_multiplied_and_normals_missing():
    inverse = PICTURE._replace(depths=1 / PICTURE.depths, normals=None)
    right = placed(inverse, 2, 3, 4, True, "multiplied")
    depths = placed(PICTURE, 2, 3, 4, True, "divided").depths
    np.testing.assert_allclose(right.depths, 1 / depths, rtol=1e-5)
    assert right.normals is None


def test_each_picture_of_a_batch_is_drawn_by_itself():
    """All scales, both ways round and corners within the picture, each pixel's fields together."""
    rows, columns = np.indices(SIZE)
    columns = (columns - (SIZE[1] - 1) / 2).astype(np.float32)
    place = Scenes(
        np.stack([rows, columns, rows], axis=-1).astype(np.float32),
        rows.astype(np.int8),
        np.ones(SIZE, np.float32),
        np.stack([np.ones(SIZE), columns, np.ones(SIZE)], axis=-1).astype(np.float32),
    )
    batch = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 200), place)
    found = zoomed(jax.random.key(0), batch)
    scales = np.asarray(found.depths[:, 0, 0])
    mirrored = np.asarray(found.normals[:, 0, 0, 0]) < 0
    counts = [np.isclose(scales, 1 / scale).sum() for scale in SCALES]
    assert sum(counts) == 200
    assert min(counts) > 40
    assert 60 < mirrored.sum() < 140
    across = np.asarray(found.images[:, 0, :, 1])
    np.testing.assert_array_equal(across[:, 0] > across[:, -1], mirrored)
    np.testing.assert_allclose(found.images[..., 1], found.normals[..., 1], atol=1e-4)
    edges = np.asarray(found.images[..., 0])[:, [0, -1], 0]
    for scale, size in zip(SCALES, (30, 25, 20), strict=True):
        some = edges[np.isclose(scales, 1 / scale)]
        np.testing.assert_allclose(some[:, 1] - some[:, 0], size - 1, atol=1e-3)
        assert set(np.round(some[:, 0]).astype(int)) == set(range(30 - size + 1))
    other = zoomed(jax.random.key(1), batch)
    assert not np.array_equal(other.images, found.images)

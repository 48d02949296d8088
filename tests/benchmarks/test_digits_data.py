"""The overlaid digits, rebuilt from scikit-learn's scans by hand."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from benchmarks.data.digits import CANVAS, multi_digits, slant


def splits():
    return multi_digits(train=200, validation=50, test=60, seed=3)


def test_every_canvas_is_its_two_scans_overlaid():
    scans, digits = load_digits(return_X_y=True)
    for split, size in zip(splits(), (200, 50, 60), strict=True):
        assert split.images.shape == (size, CANVAS, CANVAS)
        assert split.labels.shape == (size, 2)
        for image, labels, (first, second), degrees in zip(*split, strict=True):
            wanted = np.zeros((CANVAS, CANVAS))
            for row in range(8):
                for column in range(8):
                    ink = scans[first][8 * row + column] / 16
                    wanted[row, column] = max(wanted[row, column], ink)
                    ink = scans[second][8 * row + column] / 16
                    wanted[row + 2, column + 2] = max(wanted[row + 2, column + 2], ink)
            np.testing.assert_allclose(image, wanted, atol=1e-6)
            assert list(labels) == [digits[first], digits[second]]
            rows, columns = np.indices((8, 8)).reshape(2, -1)
            for scan, found in zip((first, second), degrees, strict=True):
                slope = np.polyfit(rows, columns, 1, w=np.sqrt(scans[scan]))[0]
                assert found == pytest.approx(-np.degrees(np.arctan(slope)), abs=1e-3)


def test_a_slash_leans_to_the_right():
    slash = np.fliplr(np.eye(8))
    np.testing.assert_allclose(slant(np.stack([slash, np.eye(8)])), [45, -45])
    bar = np.zeros((8, 8))
    bar[:, 3] = 1
    np.testing.assert_allclose(slant(bar[None]), [0], atol=1e-9)


def test_no_split_shows_a_scan_of_another():
    train, validation, test = (set(split.scans.ravel()) for split in splits())
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_the_seed_decides():
    again, other = splits(), multi_digits(train=200, validation=50, test=60, seed=4)
    np.testing.assert_array_equal(again.train.scans, splits().train.scans)
    assert not np.array_equal(again.train.scans, other.train.scans)

"""The overlaid digits, rebuilt from scikit-learn's scans by hand."""

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.data.digits import CANVAS, multi_digits


def splits():
    return multi_digits(train=200, validation=50, test=60, seed=3)


def test_every_canvas_is_its_two_scans_overlaid():
    scans, digits = load_digits(return_X_y=True)
    for split, size in zip(splits(), (200, 50, 60), strict=True):
        assert split.images.shape == (size, CANVAS, CANVAS)
        assert split.labels.shape == (size, 2)
        for image, labels, (first, second) in zip(*split, strict=True):
            wanted = np.zeros((CANVAS, CANVAS))
            for row in range(8):
                for column in range(8):
                    ink = scans[first][8 * row + column] / 16
                    wanted[row, column] = max(wanted[row, column], ink)
                    ink = scans[second][8 * row + column] / 16
                    wanted[row + 2, column + 2] = max(wanted[row + 2, column + 2], ink)
            np.testing.assert_allclose(image, wanted, atol=1e-6)
            assert list(labels) == [digits[first], digits[second]]


def test_no_split_shows_a_scan_of_another():
    train, validation, test = (set(split.scans.ravel()) for split in splits())
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_the_seed_decides():
    again, other = splits(), multi_digits(train=200, validation=50, test=60, seed=4)
    np.testing.assert_array_equal(again.train.scans, splits().train.scans)
    assert not np.array_equal(again.train.scans, other.train.scans)

"""MultiMNIST: two handwritten digits overlaid on one canvas."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from benchmarks.data.digits import Canvases
from benchmarks.data.files import given_folder, locate, read_npz
from benchmarks.data.splits import Splits
from benchmarks.errors import UserError

DIGIT, SHIFT = 28, 8
CANVAS = DIGIT + SHIFT
FILE = "mnist.npz"
VALIDATION = 10_000  # MNIST digits of the training set that only validation canvases show.


def multi_mnist(
    folder: Path | None,
    *,
    train: int,
    validation: int,
    test: int,
    side: int = CANVAS,
    seed: int = 0,
) -> Splits:
    """Canvases with a digit at the upper left and one at the lower right.

    The protocol is that of Sabour et al. (2017) as Sener and Koltun (2018) simplified it. Digits
    are split first: no canvas of one split shows a digit of another.

    Args:
        folder: with mnist.npz; without one scikit-learn fetches MNIST.
        train: number of training canvases.
        validation: number of validation canvases.
        test: number of test canvases.
        side: of the canvases in pixels, each the mean of what it covers of 36 x 36; 28 is the
            papers'.
        seed: of the pairs.
    """
    x_train, y_train, x_test, y_test = _mnist(folder)
    held_out = min(VALIDATION, len(x_train) // 6)
    rng = np.random.default_rng(seed)
    shrink = shares(CANVAS, side)

    def pairs(images: UInt8[np.ndarray, "k 28 28"], labels: np.ndarray, size: int) -> Canvases:
        scans = rng.integers(len(images), size=(size, 2)).astype(np.int32)
        canvas = np.zeros((size, CANVAS, CANVAS), np.uint8)
        upper_left, lower_right = scans.T
        canvas[:, :DIGIT, :DIGIT] = images[upper_left]
        corner = canvas[:, SHIFT:, SHIFT:]
        np.maximum(corner, images[lower_right], out=corner)
        small = (shrink @ (canvas @ shrink.T)) / np.float32(255)
        return Canvases(small, labels[scans].astype(np.int32), scans)

    return Splits(
        pairs(x_train[held_out:], y_train[held_out:], train),
        pairs(x_train[:held_out], y_train[:held_out], validation),
        pairs(x_test, y_test, test),
    )


def shares(pixels: int, fewer: int) -> Float[np.ndarray, "fewer pixels"]:
    """What part of each of ``fewer`` pixels along a side each of the ``pixels`` covers."""
    ends = np.arange(fewer + 1)[:, None] * pixels / fewer
    covered = np.clip(ends - np.arange(pixels), 0, 1)
    return (np.diff(covered, axis=0) * fewer / pixels).astype(np.float32)


def _mnist(folder: Path | None) -> tuple[np.ndarray, ...]:
    names = ("x_train", "y_train", "x_test", "y_test")
    if given_folder(folder):
        path = locate(
            folder,
            FILE,
            source="the repository rasbt/mnist-pngs",
            format="NumPy archive of uint8 images x_train, x_test (n, 28, 28) and y_train, y_test",
        )
        arrays = read_npz(path, names)
        for name in ("x_train", "x_test"):
            if arrays[name].shape[1:] != (DIGIT, DIGIT):
                raise UserError(f"{path}: {name} must be (n, 28, 28), not {arrays[name].shape}")
        return tuple(arrays[name] for name in names)
    from sklearn.datasets import fetch_openml

    try:
        images, labels = fetch_openml("mnist_784", return_X_y=True, as_frame=False)
    except OSError as error:
        raise UserError(
            f"MNIST could not be fetched ({error}); pass a folder with {FILE} by --data-dir"
        ) from error
    images = np.asarray(images, np.uint8).reshape(-1, DIGIT, DIGIT)
    digits: Int[np.ndarray, " n"] = np.asarray(labels, np.int32)
    return images[:60_000], digits[:60_000], images[60_000:], digits[60_000:]

"""MultiMNIST in small, from the digits that scikit-learn ships, and how far the digits slant."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from benchmarks.data.splits import Splits

SCAN = 8  # pixels along a side of a scan
SHIFT = 2  # pixels between the two corners: 6 of MNIST's 28, scaled to 8
CANVAS = SCAN + SHIFT


class Canvases(NamedTuple):
    """Pairs of overlaid digits. A batch of them is a ``Canvases`` too."""

    images: Float[np.ndarray, "n 10 10"]
    """Ink between 0 and 1."""
    labels: Int[np.ndarray, "n 2"]
    """The digit at the upper left and the digit at the lower right."""
    scans: Int[np.ndarray, "n 2"]
    """Where the two scans lie in scikit-learn's ``load_digits``."""


class Slanted(NamedTuple):
    """`Canvases`, and how far both digits lean."""

    images: Float[np.ndarray, "n 10 10"]
    labels: Int[np.ndarray, "n 2"]
    scans: Int[np.ndarray, "n 2"]
    slants: Float[np.ndarray, "n 2"]
    """In degrees, to the right of the vertical."""


def slant(scans: Float[np.ndarray, "n 8 8"]) -> Float[np.ndarray, " n"]:
    """How far the ink leans to the right of the vertical, in degrees.

    By the line of least squares through it: the columns of the ink against its rows.
    """
    rows, columns = np.indices((SCAN, SCAN)).reshape(2, -1)
    ink = scans.reshape(len(scans), -1) / scans.sum(axis=(1, 2))[:, None]
    down, along = (at - (ink @ at)[:, None] for at in (rows, columns))
    return np.degrees(np.arctan2(-(ink * down * along).sum(axis=1), (ink * down**2).sum(axis=1)))


def overlay(
    upper_left: Float[np.ndarray, "n 8 8"], lower_right: Float[np.ndarray, "n 8 8"]
) -> Float[np.ndarray, "n 10 10"]:
    """Lay one scan over another, the brighter pixel winning where they meet."""
    canvas = np.zeros((len(upper_left), CANVAS, CANVAS), np.float32)
    canvas[:, :SCAN, :SCAN] = upper_left
    canvas[:, SHIFT:, SHIFT:] = np.maximum(canvas[:, SHIFT:, SHIFT:], lower_right)
    return canvas


def multi_digits(*, train: int, validation: int, test: int, seed: int = 0) -> Splits:
    """MultiMNIST made of the 1797 scanned digits that scikit-learn ships.

    The protocol is that of Sabour et al. (2017) as Sener and Koltun (2018) simplified it: two
    scans drawn at random, one moved to the upper left and one to the lower right, overlaid by
    the elementwise maximum. Their shift of 6 of 28 pixels becomes 2 of 8. The scans are split
    first, 60 : 20 : 20 and stratified by digit, so that no canvas of one split shows a scan of
    another. The slants are those of the scans before they are laid over one another.

    Args:
        train: number of training canvases.
        validation: number of validation canvases.
        test: number of test canvases.
        seed: of the split and of the pairs.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, SCAN, SCAN)
    slants = slant(images).astype(np.float32)
    fit, rest = train_test_split(
        np.arange(len(digits)), train_size=0.6, stratify=digits, random_state=seed
    )
    check, held_out = train_test_split(
        rest, train_size=0.5, stratify=digits[rest], random_state=seed
    )
    rng = np.random.default_rng(seed)

    def pairs(pool: Int[np.ndarray, " k"], size: int) -> Slanted:
        scans = rng.choice(pool, (size, 2)).astype(np.int32)
        upper_left, lower_right = scans.T
        return Slanted(
            images=overlay(images[upper_left], images[lower_right]),
            labels=digits[scans].astype(np.int32),
            scans=scans,
            slants=slants[scans],
        )

    return Splits(pairs(fit, train), pairs(check, validation), pairs(held_out, test))

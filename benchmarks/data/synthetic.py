"""Two regressions on one input, of different scale (GradNorm, AdaTask)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from benchmarks.data.splits import Splits

INPUTS, OUTPUTS = 250, 100
SCALES = (1.0, 10.0)
NOISE = 0.1  # Standard deviation, before the scale.


class Regression(NamedTuple):
    """Rows of the problem."""

    x: Float[np.ndarray, "n 250"]
    y: Float[np.ndarray, "n 2 100"]


def regressions(*, train: int, validation: int, test: int, seed: int = 0) -> Splits:
    """``y_t = σ_t (W1 x + W2_t x² + W3_t x³ + noise)`` with ``x`` standard normal.

    Powers are elementwise and standardised, ``(x² - 1) / √2`` and ``(x³ - 3 x) / √6``, which makes
    them uncorrelated. Both tasks share ``W1``. Entries of the matrices are normal, with variances
    ``1/250``, ``0.25/250`` and ``0.25/250``, so that each coordinate of the sum has variance 1.5
    before the scale. The two scales ``σ`` are 1 and 10.

    AdaTask's text gives the form, the sizes and the scales, and neither variances nor noise.
    """
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, np.sqrt(1 / INPUTS), (INPUTS, OUTPUTS))
    square, cube = rng.normal(0, np.sqrt(0.25 / INPUTS), (2, len(SCALES), INPUTS, OUTPUTS))

    def rows(size: int) -> Regression:
        x = rng.normal(size=(size, INPUTS))
        squares, cubes = (x**2 - 1) / np.sqrt(2), (x**3 - 3 * x) / np.sqrt(6)
        y = np.stack(
            [
                scale * (x @ shared + squares @ two + cubes @ three)
                for scale, two, three in zip(SCALES, square, cube, strict=True)
            ],
            axis=1,
        )
        noise = NOISE * rng.normal(size=y.shape) * np.array(SCALES)[:, None]
        return Regression(x.astype(np.float32), (y + noise).astype(np.float32))

    return Splits(rows(train), rows(validation), rows(test))

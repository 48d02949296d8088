"""Two regressions on one input, one of which dominates the other (AdaTask, Eq. 1)."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from benchmarks.data.splits import Splits
from benchmarks.problems.options import Inputs, Spread

INPUTS, OUTPUTS = 250, 100
TASKS = ("A", "B")
NOISE = 0.1  # Standard deviation.
DRAWS: Mapping[Inputs, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "uniform": lambda rng, shape: rng.uniform(size=shape),
}


class Regression(NamedTuple):
    """Rows of the problem."""

    x: Float[np.ndarray, "n 250"]
    y: Float[np.ndarray, "n 2 100"]


def regressions(
    *,
    train: int,
    validation: int,
    test: int,
    inputs: Inputs,
    scale: float,
    spread: Spread,
    seed: int = 0,
) -> Splits:
    """``y^k = W1^k x + W2^k x² + W3 x³ + ε`` for the tasks ``k`` of A and B, powers elementwise.

    Entries of ``W1^A`` and ``W2^A`` are drawn from N(1, 1), those of ``W1^B``, ``W2^B`` and ``W3``,
    which the tasks share, from N(10, 10), and ``ε`` from N(0, 0.1). The paper leaves open how ``x``
    is drawn, how many rows there are, and whether the second number is a deviation or a variance.

    Args:
        train: rows of the training split.
        validation: rows of the validation split.
        test: rows of the test split.
        inputs: the entries of ``x``, normal around 0 or uniform from 0.
        scale: their standard deviation, or the end of their range.
        spread: what the second number of N(10, 10) is.
        seed: of the matrices and of the rows.
    """
    rng = np.random.default_rng(seed)
    ten = 10.0 if spread == "deviation" else np.sqrt(10.0)
    first = rng.normal(1, 1, (2, INPUTS, OUTPUTS))
    second = rng.normal(10, ten, (2, INPUTS, OUTPUTS))
    cube = rng.normal(10, ten, (INPUTS, OUTPUTS))

    def rows(size: int) -> Regression:
        x = scale * DRAWS[inputs](rng, (size, INPUTS))
        y = np.stack([x @ w1 + x**2 @ w2 + x**3 @ cube for w1, w2 in (first, second)], axis=1)
        y += NOISE * rng.normal(size=y.shape)
        return Regression(x.astype(np.float32), y.astype(np.float32))

    return Splits(rows(train), rows(validation), rows(test))

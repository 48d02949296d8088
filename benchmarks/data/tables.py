"""Tables of numbers and categories, with several yes-or-no labels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from benchmarks.data.splits import Splits


class Table(NamedTuple):
    """Rows of a table."""

    numeric: Float[np.ndarray, "n p"]
    """Standardised by the training rows."""
    categories: Int[np.ndarray, "n q"]
    """0 for a category that no training row has; behind them perhaps the bins of the numbers."""
    labels: Float[np.ndarray, "n t"]
    users: Int[np.ndarray, " n"] | None = None
    """Whom a row was shown to, where it is scored user by user."""


class Raw(NamedTuple):
    """Rows as they were read."""

    numeric: Float[np.ndarray, "n p"]
    categories: np.ndarray
    labels: Float[np.ndarray, "n t"]
    users: Int[np.ndarray, " n"] | None = None


def fitted(
    raw: Raw, rows: Sequence[Int[np.ndarray, " k"]], *, bins: int = 0, rare: int = 1
) -> tuple[Splits, tuple[int, ...]]:
    """Training, validation and test rows, all fitted on the first, and the categories' numbers.

    With ``bins`` each number is a category, too: in which of at most so many bins it lies, which
    are as equally full of training rows as may be. Categories of fewer than ``rare`` training rows
    are one.
    """
    from sklearn.preprocessing import OrdinalEncoder, StandardScaler

    train = rows[0]
    cuts = np.linspace(0, 1, bins + 1)[1:-1]
    numbers = raw.numeric[train].T if bins else []
    edges = [np.unique(np.quantile(column, cuts)) for column in numbers]
    scaler = StandardScaler().fit(raw.numeric[train])
    encoder = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=-1, min_frequency=rare
    )
    codes = encoder.fit_transform(raw.categories[train])

    def table(rows: Int[np.ndarray, " k"]) -> Table:
        numeric = raw.numeric[rows]
        binned = [np.searchsorted(*pair) for pair in zip(edges, numeric.T, strict=False)]
        return Table(
            scaler.transform(numeric).astype(np.float32),
            np.column_stack([encoder.transform(raw.categories[rows]) + 1, *binned]).astype(
                np.int32
            ),
            raw.labels[rows].astype(np.float32),
            None if raw.users is None else raw.users[rows].astype(np.int32),
        )

    cardinalities = (
        *(int(largest) + 2 for largest in codes.max(axis=0)),
        *(len(inner) + 1 for inner in edges),
    )
    return Splits(*(table(part) for part in rows)), cardinalities

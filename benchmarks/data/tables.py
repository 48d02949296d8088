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
    """From 1, and 0 for a category that no training row has."""
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
    raw: Raw, rows: Sequence[Int[np.ndarray, " k"]], *, rare: int = 1
) -> tuple[Splits, tuple[int, ...]]:
    """Training, validation and test rows, all fitted on the first, and the categories' numbers.

    Categories of fewer than ``rare`` training rows are one.
    """
    from sklearn.preprocessing import OrdinalEncoder, StandardScaler

    train = rows[0]
    scaler = StandardScaler().fit(raw.numeric[train])
    encoder = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=-1, min_frequency=rare
    )
    codes = encoder.fit_transform(raw.categories[train])

    def table(rows: Int[np.ndarray, " k"]) -> Table:
        return Table(
            scaler.transform(raw.numeric[rows]).astype(np.float32),
            (encoder.transform(raw.categories[rows]) + 1).astype(np.int32),
            raw.labels[rows].astype(np.float32),
            None if raw.users is None else raw.users[rows].astype(np.int32),
        )

    cardinalities = tuple(int(largest) + 2 for largest in codes.max(axis=0))
    return Splits(*(table(part) for part in rows)), cardinalities


def binned(tables: Splits, bins: int) -> tuple[Splits, tuple[int, ...]]:
    """Behind the categories, in which bin each number lies; and the cardinalities of these.

    A number has at most so many bins, with as equally many of its values among the training rows as
    may be: where most rows have the same, the rest stay apart.
    """
    cuts = np.linspace(0, 1, bins + 1)[1:-1]
    edges = [np.unique(np.quantile(np.unique(column), cuts)) for column in tables.train.numeric.T]

    def table(one: Table) -> Table:
        places = [np.searchsorted(*pair) + 1 for pair in zip(edges, one.numeric.T, strict=True)]
        return one._replace(categories=np.column_stack([one.categories, *places]).astype(np.int32))

    return Splits(*map(table, tables)), tuple(len(inner) + 2 for inner in edges)

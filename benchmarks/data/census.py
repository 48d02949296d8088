"""The US census of 1994 and 1995: income, marriage and education."""

from pathlib import Path

import numpy as np

from benchmarks.data.files import locate, numbers, read_csv
from benchmarks.data.splits import Splits
from benchmarks.data.tables import Raw, fitted
from benchmarks.errors import UserError

TASKS = ("income", "never_married", "college")
LABELS = tuple(f"y_{task}" for task in TASKS)
MONEY = ("wage_per_hour", "capital_gains", "capital_losses", "stock_dividends")
NUMERIC = ("age", "num_emp", "weeks_worked", *MONEY)
# The first two give labels away, the third is how many people a row stands for.
DROPPED = ("marital_stat", "education", "instance_weight", "split", *LABELS)
FILE = "census_income.csv.gz"


def census(
    folder: Path | None, *, limit: int | None = None, validation: float = 0.1, seed: int = 0
) -> tuple[Splits, tuple[int, ...]]:
    """Whether income is above 50,000, never married, and went to college.

    All tasks read the same columns, without marital status and education. Sums of money, most of
    them zero, enter by the logarithm of one plus the sum.

    Args:
        folder: with census_income.csv.gz.
        limit: most training rows, drawn at random; half as many test rows.
        validation: part of the training rows to hold out.
        seed: of the draws.

    Returns:
        The splits, and the number of categories of each column.
    """
    path = locate(
        folder,
        FILE,
        source="the repository drawbridge/keras-mmoe (UCI Census-Income)",
        format="gzipped CSV with the UCI columns, y_income, y_never_married, y_college and split",
    )
    columns = read_csv(path, (*NUMERIC, *LABELS, "split"))
    names = [name for name in columns if name not in (*NUMERIC, *DROPPED)]
    numeric = np.stack([numbers(path, name, columns[name]) for name in NUMERIC], axis=1)
    money = slice(len(NUMERIC) - len(MONEY), None)
    numeric[:, money] = np.log1p(numeric[:, money])
    raw = Raw(
        numeric,
        np.stack([np.array(columns[name]) for name in names], axis=1).astype(object),
        np.stack([numbers(path, name, columns[name]) for name in LABELS], axis=1),
    )
    split = np.array(columns["split"])
    rng = np.random.default_rng(seed)
    train = rng.permutation(np.flatnonzero(split == "train"))[:limit]
    test = rng.permutation(np.flatnonzero(split == "test"))[: limit and limit // 2]
    if len(train) < 2 or not len(test):
        raise UserError(f"{path}: column 'split' must have rows of 'train' and of 'test'")
    held_out = max(1, round(validation * len(train)))
    return fitted(raw, (train[held_out:], train[:held_out], test))

"""Searches on AliExpress: what was clicked, and what was bought."""

from pathlib import Path

import numpy as np

from benchmarks.data.files import given_folder, locate, numbers, read_csv
from benchmarks.data.splits import Splits
from benchmarks.data.tables import Raw, fitted
from benchmarks.errors import UserError

TASKS = ("CTR", "CTCVR")
CATEGORIES = tuple(f"categorical_{i}" for i in range(1, 17))
NUMERIC = tuple(f"numerical_{i}" for i in range(1, 64))
COLUMNS = ("search_id", *CATEGORIES, *NUMERIC, "click", "conversion")


def aliexpress(
    folder: Path | None, *, validation: float = 0.1, seed: int = 0
) -> tuple[Splits, tuple[int, ...]]:
    """Clicks, and clicks that end in a purchase, of the products shown in each search.

    Args:
        folder: with aliexpress_train*.csv and aliexpress_test*.csv.
        validation: part of the training searches to hold out, whole searches at a time.
        seed: of the draw.

    Returns:
        The splits, and the number of categories of each column.
    """
    (searches, train), (_, test) = _read(folder, "train"), _read(folder, "test")
    raw = Raw(*(np.concatenate(parts) for parts in zip(train[:3], test[:3], strict=True)))
    if len(set(searches)) > 1:
        from sklearn.model_selection import GroupShuffleSplit

        splitter = GroupShuffleSplit(1, test_size=validation, random_state=seed)
        kept, held_out = next(splitter.split(searches, groups=searches))
    else:
        order = np.random.default_rng(seed).permutation(len(searches))
        count = max(1, round(validation * len(searches)))
        kept, held_out = order[count:], order[:count]
    kept = np.random.default_rng(seed).permutation(kept)
    return fitted(raw, (kept, held_out, np.arange(len(searches), len(raw.labels))))


def _read(folder: Path | None, split: str) -> tuple[list[str], Raw]:
    pattern = f"aliexpress_{split}*.csv"
    where = given_folder(folder)
    found = sorted(where.glob(pattern)) if where else []
    if len(found) > 1:
        raise UserError(f"{where}: more than one file {pattern}; keep one")
    path = locate(
        folder,
        found[0].name if found else pattern,
        source="Tianchi's AliExpress data set (a sample: datawhalechina/torch-rechub)",
        format="CSV with search_id, categorical_1 to 16, numerical_1 to 63, click, conversion",
    )
    columns = read_csv(path, COLUMNS)
    click, conversion = (numbers(path, name, columns[name]) for name in ("click", "conversion"))
    return columns["search_id"], Raw(
        np.stack([numbers(path, name, columns[name]) for name in NUMERIC], axis=1),
        np.stack([np.array(columns[name]) for name in CATEGORIES], axis=1).astype(object),
        np.stack([click, click * conversion], axis=1),
    )

"""Short videos on TikTok: which were watched to the end, and which were liked."""

from pathlib import Path

import numpy as np

from benchmarks.data.files import given_folder, locate, read_integers, yes_or_no
from benchmarks.data.splits import Splits
from benchmarks.data.tables import Raw, fitted

TASKS = ("finish", "like")
CATEGORIES = (
    "uid",
    "user_city",
    "item_id",
    "author_id",
    "item_city",
    "channel",
    "music_id",
    "device",
)
COLUMNS = (*CATEGORIES[:6], *TASKS, *CATEGORIES[6:], "creat_time", "duration")
FILE, SAMPLE = "final_track2_train.txt", "tiktok_track2_sample.txt"


def tiktok(folder: Path | None, *, rare: int = 10) -> tuple[Splits, tuple[int, ...]]:
    """Whether a user saw a video to its end, and whether he liked it.

    The rows are in the order of time: the last fifth is the test split, as in the contest's public
    baseline, and the eighth before it is for validation. The duration enters by the logarithm of
    one plus the seconds; a city or a piece of music that is not known, -1, is a category.

    Args:
        folder: with final_track2_train.txt, or the sample of it, tiktok_track2_sample.txt.
        rare: categories of fewer training rows are one, as in AdaTask.

    Returns:
        The splits, and the number of categories of each column.
    """
    where = given_folder(folder)
    sample = where and not (where / FILE).is_file() and (where / SAMPLE).is_file()
    path = locate(
        folder,
        SAMPLE if sample else FILE,
        source=(
            "ICME 2019's challenge on short videos, track 2 (a sample: shenweichen/DeepCTR-Torch, "
            "examples/byterec_sample.txt)"
        ),
        format=f"{len(COLUMNS)} whole numbers between tabs, no header: {', '.join(COLUMNS)}",
    )
    columns = read_integers(path, COLUMNS, separator="\t", header=False)
    raw = Raw(
        np.log1p(np.maximum(columns["duration"], 0))[:, None].astype(float),
        np.stack([columns[name] for name in CATEGORIES], axis=1),
        np.stack([yes_or_no(path, name, columns[name]) for name in TASKS], axis=1),
    )
    count = len(raw.labels)
    test, validation = count - count // 5, count - count // 5 - count // 10
    train = np.random.default_rng(0).permutation(validation)
    return fitted(raw, (train, np.arange(validation, test), np.arange(test, count)), rare=rare)

"""Amazon product reviews of 14 kinds, as in GetMTL and MetaWeighting."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from benchmarks.data import texts
from benchmarks.data.files import locate, read_jsonl
from benchmarks.data.splits import LoadedTexts, Splits
from benchmarks.errors import UserError

TASKS = (
    "apparel",
    "baby",
    "books",
    "camera_photo",
    "dvd",
    "electronics",
    "health_personal_care",
    "kitchen_housewares",
    "magazines",
    "music",
    "software",
    "sports_outdoors",
    "toys_games",
    "video",
)
FILE = "fdu_mtl16.jsonl.gz"


class Reviews(NamedTuple):
    """Reviews of every task, padded to the same number."""

    tokens: Int[np.ndarray, "t n l"]
    labels: Int[np.ndarray, "t n"]
    present: Bool[np.ndarray, "t n"]
    """What is no padding: the first rows of each task."""
    repeated: Bool[np.ndarray, "t n"]
    """Test reviews that repeat a training review of the published split."""
    kept: Float[np.ndarray, "t n d"]
    """Factors of each review's features, of which dropout makes many: one that is 1."""


def reviews(
    folder: Path | None,
    *,
    vocabulary: int,
    skip: int = 0,
    length: int,
    ending: int = 0,
    limit: int | None = None,
    validation: float = 0.125,
    seed: int = 0,
) -> LoadedTexts:
    """The reviews in the published split, and the vocabulary.

    Args:
        folder: with fdu_mtl16.jsonl.gz.
        vocabulary: how many tokens to tell apart; the others are left out.
        skip: how many of the most frequent tokens to leave out as well.
        length: tokens of each review.
        ending: how many of a longer one are its last tokens, the others its first.
        limit: most training reviews of each task, drawn at random.
        validation: part of the training reviews to hold out, classes in proportion.
        seed: of the draws.
    """
    path = locate(
        folder,
        FILE,
        source="the repository ccsasuke/man, data/fdu-mtl",
        format="gzipped JSON lines with task, split, label and text",
    )
    split: dict[str, list[list[Any]]] = {"train": [], "validation": [], "test": []}
    rows = read_jsonl(path, ("task", "split", "label", "text"))
    for task in TASKS:
        train = [row for row in rows if row["task"] == task and row["split"] == "train"]
        test = [row for row in rows if row["task"] == task and row["split"] == "test"]
        if not train or not test:
            raise UserError(f"{path}: no {'test' if train else 'training'} rows of task {task!r}")
        train = texts.limited(train, limit, seed)
        kept, held_out = texts.split_off(train, [r["label"] for r in train], validation, seed)
        split["train"].append(kept)
        split["validation"].append(held_out)
        split["test"].append(test)
    words = texts.vocabulary(
        (r["text"] for rows in split["train"] for r in rows), vocabulary, skip=skip
    )

    def arrays(tasks: list[list[Any]]) -> Reviews:
        tokens, present = texts.padded(
            [
                texts.encode([r["text"] for r in rows], words, length, ending=ending)
                for rows in tasks
            ]
        )
        labels, _ = texts.padded([np.array([r["label"] for r in rows], np.int32) for rows in tasks])
        repeated, _ = texts.padded(
            [np.array([bool(r.get("dup_of_train")) for r in rows]) for rows in tasks]
        )
        return Reviews(tokens, labels, present, repeated, np.ones((*labels.shape, 1), np.float32))

    return LoadedTexts(
        Splits(*(arrays(tasks) for tasks in split.values())),
        words,
        Splits(*([[r["text"] for r in rows] for rows in tasks] for tasks in split.values())),
    )

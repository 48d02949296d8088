"""Pairs of sentences: paraphrases among Quora's questions, and STS similarities."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from benchmarks.data import texts
from benchmarks.data.files import locate, read_jsonl
from benchmarks.data.splits import Splits
from benchmarks.errors import UserError

TASKS = ("quora", "sts")
FILE = "sst_quora_sts.jsonl.gz"
PIECES = 12  # Of a text of another task, at most.


class Pairs(NamedTuple):
    """Pairs of both tasks, padded to the same number."""

    first: Int[np.ndarray, "t n l"]
    second: Int[np.ndarray, "t n l"]
    targets: Float[np.ndarray, "t n"]
    """quora: 1 for a paraphrase, else 0; sts: similarity from 0 to 5."""
    present: Bool[np.ndarray, "t n"]
    """What is no padding: the first rows of each task."""


class LoadedPairs(NamedTuple):
    """What `pairs` returns."""

    splits: Splits
    vocabulary: list[str]
    raw: Splits
    """The texts themselves: of each split a list of pairs for each task."""
    others: Int[np.ndarray, "k l"]
    """Pieces of the texts of the file's other tasks, for word vectors need no label."""


def pairs(
    folder: Path | None,
    *,
    vocabulary: int,
    buckets: int,
    length: int,
    limit: int | None = None,
    validation: float = 0.1,
    seed: int = 0,
) -> LoadedPairs:
    """Both tasks, and the vocabulary; the published development sets are the test split.

    Args:
        folder: with sst_quora_sts.jsonl.gz.
        vocabulary: how many tokens to know.
        buckets: how many unknown tokens to tell apart.
        length: tokens of each sentence.
        limit: most training pairs of each task, and most test pairs, drawn at random.
        validation: part of the training pairs to hold out.
        seed: of the draws.
    """
    path = locate(
        folder,
        FILE,
        source="the repository gpoesia/minbert-default-final-project",
        format="gzipped JSON lines with task, split, label, text and text2",
    )
    rows = read_jsonl(path, ("task", "split", "label", "text"))
    split: dict[str, list[list[Any]]] = {"train": [], "validation": [], "test": []}
    for task in TASKS:
        mine = [row for row in rows if row["task"] == task and "text2" in row]
        train = [row for row in mine if row["split"] == "train"]
        test = [row for row in mine if row["split"] != "train"]
        if not train or not test:
            raise UserError(f"{path}: no {'test' if train else 'training'} pairs of task {task!r}")
        train = texts.limited(train, limit, seed)
        kept, held_out = texts.split_off(train, None, validation, seed)
        split["train"].append(kept)
        split["validation"].append(held_out)
        split["test"].append(texts.limited(test, limit, seed))
    others = [row["text"] for row in rows if row["task"] not in TASKS]
    words = texts.vocabulary(
        (r[side] for rows in split["train"] for r in rows for side in ("text", "text2")),
        vocabulary,
    )

    def arrays(tasks: list[list[Any]]) -> Pairs:
        def sentences(side: str) -> tuple[np.ndarray, np.ndarray]:
            return texts.padded(
                [
                    texts.encode([r[side] for r in rows], words, length, buckets=buckets)
                    for rows in tasks
                ]
            )

        targets, present = texts.padded(
            [np.array([float(r["label"]) for r in rows], np.float32) for rows in tasks]
        )
        return Pairs(sentences("text")[0], sentences("text2")[0], targets, present)

    return LoadedPairs(
        Splits(*(arrays(tasks) for tasks in split.values())),
        [*words, *(f"<unknown {number}>" for number in range(buckets))],
        Splits(
            *(
                [[(r["text"], r["text2"]) for r in rows] for rows in tasks]
                for tasks in split.values()
            )
        ),
        texts.encode(others, words, PIECES * length, buckets=buckets).reshape(-1, length),
    )

"""20 Newsgroups in four tasks, as in GetMTL and MetaWeighting."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from benchmarks.data import texts
from benchmarks.data.files import given_folder, locate, read_jsonl
from benchmarks.data.splits import LoadedTexts, Splits
from benchmarks.errors import UserError

TASKS = ("comp", "rec", "sci", "talk")
GROUPS = {
    "comp": ("graphics", "os.ms-windows.misc", "sys.ibm.pc.hardware", "sys.mac.hardware"),
    "rec": ("autos", "motorcycles", "sport.baseball", "sport.hockey"),
    "sci": ("crypt", "electronics", "med", "space"),
    "talk": ("politics.guns", "politics.mideast", "politics.misc", "religion.misc"),
}
FILE = "20news16.jsonl.gz"


class Texts(NamedTuple):
    """Texts of every task, padded to the same number."""

    tokens: Int[np.ndarray, "t n l"]
    labels: Int[np.ndarray, "t n"]
    present: Bool[np.ndarray, "t n"]
    """What is no padding: the first rows of each task."""
    kept: Float[np.ndarray, "t n d"]
    """Factors of each text's features, of which dropout makes many: one that is 1."""


def topics(
    folder: Path | None,
    *,
    vocabulary: int,
    skip: int = 0,
    length: int,
    limit: int | None = None,
    validation: float = 0.1,
    seed: int = 0,
) -> LoadedTexts:
    """The posts, subject twice and body, split by date as published, and the vocabulary.

    Args:
        folder: with 20news16.jsonl.gz; without one scikit-learn fetches the posts.
        vocabulary: how many tokens to tell apart; the others are left out.
        skip: how many of the most frequent tokens to leave out as well.
        length: tokens of each post.
        limit: most training posts of each task, drawn at random; half as many test posts.
        validation: part of the training posts to hold out, classes in proportion.
        seed: of the draws.
    """
    rows = _from_file(folder) if given_folder(folder) else _fetched()
    split: dict[str, list[list[Any]]] = {"train": [], "validation": [], "test": []}
    for task in TASKS:
        train = [row for row in rows if row["task"] == task and row["split"] == "train"]
        test = [row for row in rows if row["task"] == task and row["split"] == "test"]
        if not train or not test:
            raise UserError(f"{FILE}: no {'test' if train else 'training'} rows of task {task!r}")
        train = texts.limited(train, limit, seed)
        kept, held_out = texts.split_off(train, [r["label"] for r in train], validation, seed)
        split["train"].append(kept)
        split["validation"].append(held_out)
        split["test"].append(texts.limited(test, limit and limit // 2, seed))
    words = texts.vocabulary(
        (r["text"] for rows in split["train"] for r in rows), vocabulary, skip=skip
    )

    def arrays(tasks: list[list[Any]]) -> Texts:
        tokens, present = texts.padded(
            [texts.encode([r["text"] for r in rows], words, length) for rows in tasks]
        )
        labels, _ = texts.padded([np.array([r["label"] for r in rows], np.int32) for rows in tasks])
        return Texts(tokens, labels, present, np.ones((*labels.shape, 1), np.float32))

    return LoadedTexts(
        Splits(*(arrays(tasks) for tasks in split.values())),
        words,
        Splits(*([[r["text"] for r in rows] for rows in tasks] for tasks in split.values())),
    )


def _from_file(folder: Path | None) -> list[dict[str, Any]]:
    path = locate(
        folder,
        FILE,
        source="the repository YunomiXavia/20news-bydate",
        format="gzipped JSON lines with task, split, label, subject and text",
    )
    rows = read_jsonl(path, ("task", "split", "label", "subject", "text"))
    return [{**row, "text": _post(row["subject"], row["text"])} for row in rows]


def _post(subject: str, body: str) -> str:
    """The subject twice, since it says most, then the body."""
    return f"{subject}\n{subject}\n{body}"


def _fetched() -> list[dict[str, Any]]:
    """The same posts by scikit-learn, headers removed but for the subject."""
    from sklearn.datasets import fetch_20newsgroups

    rows = []
    try:
        for split in ("train", "test"):
            for task, groups in GROUPS.items():
                names = [f"{task}.{group}" for group in groups]
                bunch = fetch_20newsgroups(subset=split, categories=names)
                for label, text in zip(bunch.target, bunch.data, strict=True):
                    header, _, body = text.partition("\n\n")
                    subject = next(
                        (
                            line.partition(":")[2].strip()
                            for line in header.splitlines()
                            if line.startswith("Subject:")
                        ),
                        "",
                    )
                    group = bunch.target_names[label]
                    rows.append(
                        {
                            "task": task,
                            "split": split,
                            "label": names.index(group),
                            "text": _post(subject, body),
                        }
                    )
    except OSError as error:
        raise UserError(
            f"20 Newsgroups could not be fetched ({error}); pass a folder with {FILE} by --data-dir"
        ) from error
    return rows

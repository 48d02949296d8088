"""Small files in the formats of the real ones, drawn at random."""

import gzip
import json
from pathlib import Path

import numpy as np

from benchmarks.data import (
    aliexpress,
    census,
    cityscapes,
    nyuv2,
    reviews,
    tiktok,
    topics,
    wechat,
)
from benchmarks.data.folders import PARTS, Layout

WORDS = ("good", "bad", "fast", "slow", "red", "green", "one", "two", "up", "down")


def write_all(folder: Path, *, rows: int = 12) -> None:
    """Every file that a suite reads."""
    write_topics(folder, rows)
    write_reviews(folder, rows)
    write_pairs(folder, rows)
    write_mnist(folder)
    write_census(folder, 8 * rows)
    write_molecules(folder, 4 * rows)
    write_aliexpress(folder, rows)
    write_tiktok(folder, rows)
    write_wechat(folder, rows)
    for layout in (nyuv2.LAYOUT, cityscapes.LAYOUT):
        write_pictures(folder, layout, rows // 2)


def write_topics(folder: Path, rows: int) -> None:
    write_jsonl(
        folder / topics.FILE,
        [
            {
                "task": task,
                "split": split,
                "label": number % 4,
                "subject": f"about {WORDS[number % 4]}",
                "text": f"{words(number, 9)} only{split}",
            }
            for task in topics.TASKS
            for split, count in (("train", 4 * rows), ("test", rows))
            for number in range(count + 4 * topics.TASKS.index(task))
        ],
    )


def write_reviews(folder: Path, rows: int) -> None:
    tasks = (*reviews.TASKS, "imdb", "MR")
    write_jsonl(
        folder / reviews.FILE,
        [
            {
                "task": task,
                "split": split,
                "label": number % 2,
                "text": words(number, 7),
                **({"dup_of_train": number % 3 == 0} if split == "test" else {}),
            }
            for task in tasks
            for split in ("train", "test")
            for number in range(2 * rows)
        ],
    )


def write_pairs(folder: Path, rows: int) -> None:
    def pair(task: str, split: str, number: int) -> dict:
        label = number % 2 if task == "quora" else (number % 26) / 5
        texts = {"text": words(number, 5), "text2": words(number + 1, 4)}
        return {"task": task, "split": split, "label": label, **texts}

    others = [{"task": "sst5", "split": "train", "label": 3, "text": "alone"}]
    counts = (("quora", 4 * rows), ("sts", 2 * rows))
    write_jsonl(
        folder / "sst_quora_sts.jsonl.gz",
        others
        + [
            pair(task, split, number)
            for task, count in counts
            for split in ("train", "dev")
            for number in range(count)
        ],
    )


def write_mnist(folder: Path) -> None:
    rng = np.random.default_rng(0)
    images = {"x_train": (120, 28, 28), "x_test": (40, 28, 28)}
    np.savez(
        folder / "mnist.npz",
        **{name: rng.integers(0, 256, shape, np.uint8) for name, shape in images.items()},
        y_train=(np.arange(120) % 10).astype(np.uint8),
        y_test=(np.arange(40) % 10).astype(np.uint8),
    )


def write_census(folder: Path, rows: int) -> None:
    rng = np.random.default_rng(1)
    columns = {name: rng.integers(0, 90, rows) for name in census.NUMERIC}
    columns |= {
        "race": np.array(["White", "Black", "Other"])[rng.integers(0, 3, rows)],
        "marital_stat": np.array(["Never married"] * rows),
        "education": np.array(["College"] * rows),
        "instance_weight": rng.random(rows),
    }
    columns |= {name: rng.integers(0, 2, rows) for name in census.LABELS}
    columns["split"] = np.array(["train", "train", "test"])[np.arange(rows) % 3]
    # A category that only test rows have.
    columns["race"] = np.where(np.arange(rows) % 30 == 2, "Martian", columns["race"])
    write_csv(folder / census.FILE, columns)


def write_molecules(folder: Path, rows: int) -> None:
    rng = np.random.default_rng(2)
    desc = rng.normal(size=(rows, 6)).astype(np.float32)
    desc[:, 2] = 7
    desc[3, 4] = np.nan
    np.savez(
        folder / "qm9_14k.npz",
        desc=desc,
        y=rng.normal(size=(rows, 12)) * 10.0 ** np.arange(12) + 3,
        task_names=np.array([f"t{i}" for i in range(12)]),
        is_test=np.arange(rows) % 5 == 0,
    )


def write_aliexpress(folder: Path, rows: int) -> None:
    rng = np.random.default_rng(3)
    for split, count in (("train", 6 * rows), ("test", 2 * rows)):
        columns = {"search_id": np.arange(count) // 3}
        columns |= {name: rng.integers(0, 4, count) for name in aliexpress.CATEGORIES}
        columns |= {name: rng.random(count) for name in aliexpress.NUMERIC}
        columns["click"] = np.arange(count) % 2
        columns["conversion"] = np.arange(count) % 3 == 1
        columns["conversion"] = columns["conversion"].astype(int)
        write_csv(folder / f"aliexpress_{split}_small.csv", columns)


def write_tiktok(folder: Path, rows: int) -> None:
    rng = np.random.default_rng(4)
    count = 10 * rows
    columns = {name: rng.integers(-1, 5, count) for name in tiktok.COLUMNS}
    columns["duration"] = rng.integers(0, 60, count)
    columns["finish"], columns["like"] = np.arange(count) % 2, np.arange(count) % 5 == 1
    table = np.stack([columns[name].astype(int) for name in tiktok.COLUMNS], axis=1)
    np.savetxt(folder / tiktok.FILE, table, fmt="%d", delimiter="\t")


def write_wechat(folder: Path, rows: int) -> None:
    rng = np.random.default_rng(5)
    where = folder / wechat.FOLDER
    where.mkdir()
    count = 14 * rows
    columns = {name: rng.integers(0, 9, count) for name in wechat.COLUMNS}
    columns["date_"] = 1 + np.arange(count) % 14
    columns["feedid"] = 100 + 3 * rng.integers(0, 4, count)
    for place, name in enumerate(wechat.ACTIONS, 2):
        columns[name] = (np.arange(count) // 14 % place == 0).astype(int)
    columns["userid"] = 50 + np.arange(count) // 14 // 6
    write_csv(where / wechat.ACTION_FILE, columns)
    feeds = {
        "feedid": [109, 100, 106, 103],
        "authorid": [7, 8, 7, 9],
        "videoplayseconds": [10, 3, 60, 1],
        "description": ["1 2 3", "", "4", ""],
        "bgm_song_id": ["5.0", "", "6.0", ""],
        "bgm_singer_id": ["", "", "2.0", "3.0"],
    }
    write_csv(where / wechat.FEED_FILE, feeds)


def write_pictures(folder: Path, layout: Layout, number: int) -> None:
    """In both parts; a class that none has, and a frame that nothing is known of."""
    rng = np.random.default_rng(6)
    shape = (32, 64)
    for part in PARTS:
        for place in range(number):
            frame = np.ones(shape, bool)
            frame[1:-2, 3:-1] = False
            normals = rng.normal(size=(*shape, 3))
            normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
            content = {
                "images": rng.random((*shape, 3)),
                "labels": np.where(frame, -1, rng.integers(1, layout.classes, shape)),
                "depths": np.where(frame, 0, rng.random(shape) + 0.5)[..., None],
                "normals": np.where(frame[..., None], 0, normals),
            }
            for field, name in layout.folders.items():
                where = folder / layout.name.lower() / part / name
                where.mkdir(parents=True, exist_ok=True)
                kind = {"images": np.float64, "labels": np.float32}.get(field, np.float16)
                np.save(where / f"{place}.npy", content[field].astype(kind))


def words(number: int, count: int) -> str:
    return " ".join(WORDS[(number * 3 + i * i) % len(WORDS)] for i in range(count))


def write_jsonl(path: Path, rows: list[dict]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(row) + "\n")


def write_csv(path: Path, columns: dict) -> None:
    lines = [",".join(columns)]
    lines += [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())

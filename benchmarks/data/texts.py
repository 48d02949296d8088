"""Texts as rows of token numbers."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from benchmarks.data.files import _opened
from benchmarks.errors import UserError

PADDING, UNKNOWN = "<padding>", "<unknown>"
_TOKEN = re.compile(r"\w+|[^\w\s]")


def tokens(text: str) -> list[str]:
    """Lower-case words and signs."""
    return _TOKEN.findall(text.lower())


def vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """The most frequent tokens, after padding (0) and unknown (1), ties by the alphabet."""
    counts = Counter(token for text in texts for token in tokens(text))
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    return [PADDING, UNKNOWN, *ranked[: size - 2]]


def encode(texts: Sequence[str], words: Sequence[str], length: int) -> Int[np.ndarray, "n length"]:
    """The first ``length`` tokens of each text as numbers, padded with 0."""
    number = {word: i for i, word in enumerate(words)}
    unknown = number[UNKNOWN]
    result = np.zeros((len(texts), length), np.int32)
    for row, text in zip(result, texts, strict=True):
        ids = [number.get(token, unknown) for token in tokens(text)[:length]]
        row[: len(ids)] = ids
    return result


def glove(
    path: Path, words: Sequence[str], width: int, *, seed: int = 0
) -> Float[np.ndarray, "v width"]:
    """Vectors for a vocabulary from a file in GloVe's text format: a word and its numbers.

    Words that the file lacks get normal numbers of variance 0.01; padding gets zeros.
    """
    vectors = np.random.default_rng(seed).normal(0, 0.1, (len(words), width)).astype(np.float32)
    vectors[0] = 0
    number = {word: i for i, word in enumerate(words)}
    if not path.is_file():
        raise UserError(f"--embeddings {path}: no such file")
    with _opened(path) as lines:
        for line_number, line in enumerate(lines, 1):
            word, *values = line.rstrip("\n").split(" ")
            if len(values) != width:
                raise UserError(
                    f"--embeddings {path}, line {line_number}: {len(values)} numbers, but the "
                    f"model's embedding has {width}"
                )
            if word in number:
                try:
                    vectors[number[word]] = np.array(values, np.float32)
                except ValueError as error:
                    raise UserError(f"--embeddings {path}, line {line_number}: {error}") from error
    return vectors


def split_off(
    rows: Sequence[Any], labels: Sequence[Any] | None, fraction: float, seed: int
) -> tuple[list[Any], list[Any]]:
    """Rows in random order, less a part of them, and that part; classes in proportion."""
    from sklearn.model_selection import train_test_split

    first, second = train_test_split(
        np.arange(len(rows)), test_size=fraction, stratify=labels, random_state=seed
    )
    return [rows[i] for i in first], [rows[i] for i in second]


def limited(rows: Sequence[Any], limit: int | None, seed: int) -> list[Any]:
    """All rows in random order, or ``limit`` of them."""
    order = np.random.default_rng(seed).permutation(len(rows))[:limit]
    return [rows[i] for i in order]


def padded(
    tasks: Sequence[np.ndarray],
) -> tuple[np.ndarray, Bool[np.ndarray, "t n"]]:
    """Arrays of all tasks in one, padded with zeros to the longest, and what is no padding."""
    longest = max(len(rows) for rows in tasks)
    result = np.zeros((len(tasks), longest, *tasks[0].shape[1:]), tasks[0].dtype)
    present = np.zeros((len(tasks), longest), bool)
    for number, rows in enumerate(tasks):
        result[number, : len(rows)] = rows
        present[number, : len(rows)] = True
    return result, present

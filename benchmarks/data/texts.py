"""Texts as rows of token numbers."""

import contextlib
import hashlib
import inspect
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from jaxtyping import Bool, Float, Int

from benchmarks.data.files import _opened
from benchmarks.errors import UserError
from benchmarks.writing import write

PADDING, UNKNOWN = "<padding>", "<unknown>"
_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[!?]")


def tokens(text: str) -> list[str]:
    """Lower-case words, as don't and n't, and the signs ! and ?."""
    return _TOKEN.findall(text.lower())


def vocabulary(texts: Iterable[str], size: int, *, skip: int = 0) -> list[str]:
    """The most frequent tokens but the first, after padding (0) and unknown (1).

    Ties go by the alphabet.
    """
    counts = Counter(token for text in texts for token in tokens(text))
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    return [PADDING, UNKNOWN, *ranked[skip : skip + size - 2]]


def encode(
    texts: Sequence[str], words: Sequence[str], length: int, *, buckets: int = 0, ending: int = 0
) -> Int[np.ndarray, "n length"]:
    """The first ``length`` tokens of each text that the vocabulary has, padded with 0.

    Of a text that has more, the last ``ending`` of them are the text's last ones.

    With ``buckets``, other tokens stay too: they get that many numbers after the vocabulary's, by
    their letters, so that two texts show whether they share such a word.
    """
    number = {word: i for i, word in enumerate(words)}

    def ids(text: str) -> list[int]:
        if not buckets:
            return [number[token] for token in tokens(text) if token in number]
        return [
            number[token] if token in number else len(words) + crc32(token.encode()) % buckets
            for token in tokens(text)
        ]

    result = np.zeros((len(texts), length), np.int32)
    for row, text in zip(result, texts, strict=True):
        kept = ids(text)
        if len(kept) > length:
            kept = kept[: length - ending] + kept[len(kept) - ending :]
        row[: len(kept)] = kept
    return result


def prepared(
    texts: Int[np.ndarray, "n length"], size: int, width: int, *, window: int, seed: int = 0
) -> Float[np.ndarray, "v width"]:
    """What `word_vectors` gives, which is kept among scikit-learn's data sets for the next run."""
    from sklearn.datasets import get_data_home

    options = texts.shape, str(texts.dtype), size, width, window, seed
    made_of = hashlib.sha256(repr((options, inspect.getsource(word_vectors))).encode())
    made_of.update(np.ascontiguousarray(texts).data)
    try:
        path = Path(get_data_home()) / f"mtl_optax-{made_of.hexdigest()[:32]}.npy"
    except OSError:  # There is no place to keep it, which costs seconds and no more.
        return word_vectors(texts, size, width, window=window, seed=seed)
    try:
        kept = np.load(path, allow_pickle=False)
        if kept.shape == (size, width) and kept.dtype == np.float32:
            return kept
    except (OSError, ValueError, EOFError):
        pass  # It is not there, or not whole.
    vectors = word_vectors(texts, size, width, window=window, seed=seed)
    content = io.BytesIO()
    np.save(content, vectors, allow_pickle=False)
    with contextlib.suppress(UserError):
        write(path, content.getvalue())
    return vectors


def word_vectors(
    texts: Int[np.ndarray, "n length"], size: int, width: int, *, window: int, seed: int = 0
) -> Float[np.ndarray, "v width"]:
    """Numbers for each word, from which words stand near each other, without any label.

    Positive pointwise mutual information of words up to ``window`` apart, each pair by one over
    its distance, and its truncated singular value decomposition (Levy, Goldberg and Dagan 2015).
    The mean square of each vector's numbers is 1; padding and unknown words are zeros.

    Args:
        texts: rows of `encode`.
        size: of the vocabulary.
        width: numbers in each vector.
        window: the largest distance.
        seed: of the decomposition.
    """
    from scipy.sparse import coo_array, csr_array
    from sklearn.utils.extmath import randomized_svd

    near = csr_array((size, size), dtype=np.float32)
    for distance in range(1, window + 1):
        left, right = texts[:, :-distance], texts[:, distance:]
        words = (left > 1) & (right > 1)
        once = np.full(words.sum(), 1 / distance, np.float32)
        near += coo_array((once, (left[words], right[words])), (size, size)).tocsr()
    near = (near + near.T).tocoo()
    seen = near.sum(axis=1)
    context = seen**0.75
    by_chance = seen[near.row] * context[near.col] / context.sum()
    information = np.maximum(np.log(near.data / by_chance), 0)
    positive = csr_array((information, (near.row, near.col)), (size, size), dtype=np.float32)
    left_vectors, values, _ = randomized_svd(positive, width, random_state=seed)
    vectors = np.zeros((size, width), np.float32)  # A tiny vocabulary has fewer directions.
    vectors[:, : len(values)] = left_vectors * np.sqrt(values)
    norms = np.sqrt(np.mean(vectors**2, axis=1, keepdims=True))
    told = positive.sum(axis=1)[:, None] > 0  # Of the others nothing but rounding is there.
    return np.where(told & (norms > 0), vectors / np.where(norms > 0, norms, 1), 0)


def glove(path: Path, words: Sequence[str], *, seed: int = 0) -> Float[np.ndarray, "v width"]:
    """Vectors for a vocabulary from a text file with a word and its numbers in each line.

    The format of GloVe, where a few words hold spaces (". . ." in ``glove.840B.300d.txt``), and
    that of word2vec and fastText, which begins with the number of words and the width. Words that
    the file lacks get normal numbers of variance 0.01; padding gets zeros.
    """
    if not path.is_file():
        raise UserError(f"--embeddings {path}: no such file")
    wanted, found, width = set(words), {}, 0
    with _opened(path) as lines:
        for line_number, line in enumerate(lines, 1):
            line = line.rstrip(" \r\n")
            if line_number == 1 and re.fullmatch(r"\d+ \d+", line):
                continue
            spaces = line.count(" ")
            width = width or spaces
            word, *numbers = line.split(" ", 1) if spaces == width else line.rsplit(" ", width)
            try:
                if not width:
                    raise ValueError("not a word and its numbers")
                if spaces < width or (spaces > width and _is_number(word.split(" ")[-1])):
                    raise ValueError(f"not a word and {width} numbers, as the lines before it")
                if word in wanted:
                    found[word] = np.array(" ".join(numbers).split(" "), np.float32)
            except ValueError as error:
                raise UserError(f"--embeddings {path}, line {line_number}: {error}") from error
    if not found:
        raise UserError(f"--embeddings {path}: none of its words is in the texts")
    vectors = np.random.default_rng(seed).normal(0, 0.1, (len(words), width)).astype(np.float32)
    vectors[0] = 0
    for number, word in enumerate(words):
        if word in found:
            vectors[number] = found[word]
    return vectors


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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

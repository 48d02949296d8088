"""How alike two texts are, in a few numbers."""

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

_NUMBER = re.compile(r"\d+")
_NOT = re.compile(r"\b(?:no|not|never|none|nothing|nobody|cannot)\b|n't\b")
ROWS = 2000  # To be aligned at once.


class Overlap:
    """Words, pieces of words, lengths, beginnings, numbers and denials of two texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        kinds: tuple[dict[str, Any], ...] = (
            {},
            {"ngram_range": (1, 2), "sublinear_tf": True},
            {"analyzer": "char_wb", "ngram_range": (3, 4), "sublinear_tf": True},
        )
        self.vectorizers = [TfidfVectorizer(**kind).fit(texts) for kind in kinds]

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> Float[np.ndarray, "n f"]:
        """A row for each pair."""
        first, second = zip(*pairs, strict=True)
        cosines = [
            np.asarray(v.transform(first).multiply(v.transform(second)).sum(axis=1)).ravel()
            for v in self.vectorizers
        ]
        return np.column_stack([*cosines, np.array([_alike(*pair) for pair in pairs])])


def _alike(first: str, second: str) -> list[float]:
    one, two = first.lower().split(), second.lower().split()
    common, either = len({*one} & {*two}), len({*one} | {*two})
    shorter, longer = sorted((len(one), len(two)))
    numbers = [{*_NUMBER.findall(text)} for text in (first, second)]
    denials = [len(_NOT.findall(text.lower())) for text in (first, second)]
    return [
        common / max(either, 1),
        common / max(min(len({*one}), len({*two})), 1),
        common,
        shorter,
        longer,
        longer - shorter,
        _same_beginning(one, two),
        _same_beginning(one[::-1], two[::-1]),
        len(numbers[0] & numbers[1]),
        len(numbers[0] ^ numbers[1]),
        abs(denials[0] - denials[1]),
    ]


def _same_beginning(one: Sequence[str], two: Sequence[str]) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, two)))  # noqa: B905


def aligned(
    first: Int[np.ndarray, "n l"],
    second: Int[np.ndarray, "n l"],
    vectors: Float[np.ndarray, "v g"],
    counts: Int[np.ndarray, " v"],
) -> Float[np.ndarray, "n 6"]:
    """How well each text's words are found in the other: the worse of both texts, then the better.

    Words weigh what they tell, the logarithm of one over how frequent they are. Of each text: its
    words' mean cosine with the closest of the other, the part that stands there too, and the most
    that a word tells without being there.

    Args:
        first: words of one text of each pair, 0 for padding.
        second: those of the other.
        vectors: of each word.
        counts: how often each word is used.
    """
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    told = np.log((counts.sum() + 1) / (counts + 1)).astype(np.float32)
    told[0] = 0
    parts = []
    for start in range(0, len(first), ROWS):
        pair = [side[start : start + ROWS] for side in (first, second)]
        words = (pair[0] > 0)[:, :, None] & (pair[1] > 0)[:, None]
        same = words & (pair[0][:, :, None] == pair[1][:, None])
        close = np.einsum("nid,njd->nij", *(units[side] for side in pair), optimize=True)
        close = np.where(same, 1, np.where(words, close, 0))
        of_each: list[list[np.ndarray]] = []
        for side, other in ((pair[0], 2), (pair[1], 1)):
            weights, best = told[side], close.max(axis=other, initial=0)
            total = np.maximum(weights.sum(axis=1), 1e-6)
            of_each.append(
                [
                    (weights * best).sum(axis=1) / total,
                    (weights * same.any(axis=other)).sum(axis=1) / total,
                    -(weights * (1 - best)).max(axis=1, initial=0),
                ]
            )
        parts.append(np.concatenate([np.min(of_each, axis=0), np.max(of_each, axis=0)]).T)
    return np.concatenate(parts)

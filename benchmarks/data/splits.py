"""What every loader returns."""

from typing import Any, NamedTuple


class Splits(NamedTuple):
    """Three sets of examples with nothing in common, each a tree of arrays.

    Leaves are ``(n, ...)``, or ``(t, n, ...)`` where each task has examples of its own.
    """

    train: Any
    validation: Any
    test: Any


class LoadedTexts(NamedTuple):
    """What a loader of texts returns."""

    splits: Splits
    vocabulary: list[str]
    raw: Splits
    """The texts themselves: of each split a list for each task, of texts or of pairs of them."""

"""What every loader returns."""

from typing import NamedTuple

from jaxtyping import PyTree


class Splits(NamedTuple):
    """Three sets of examples with nothing in common.

    Leaves are ``(n, ...)``, or ``(t, n, ...)`` where each task has examples of its own.
    """

    train: PyTree
    validation: PyTree
    test: PyTree

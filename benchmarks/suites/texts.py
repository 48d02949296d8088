"""Texts to classify, of a different kind for each task: what ``topic`` and ``reviews`` share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.suite import Suite


@dataclass(frozen=True, kw_only=True)
class TextSuite(Suite):
    """A TextCNN that all tasks share, with a linear head for each."""

    classes: ClassVar[int]
    sizes: ClassVar[dict[str, dict[str, Any]]]
    """Of vocabulary, texts and splits, for each preset."""
    embeddings: Path | None = None
    """A file of word vectors in GloVe's text format, of the width of the model's embedding."""

"""The options that several suites share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchmarks.suite import Suite

Backbone = Literal["shared_bottom", "mmoe", "ple"]
"""What the tasks of a table share."""
Inputs = Literal["normal", "uniform"]
Spread = Literal["deviation", "variance"]
"""What the second number of N(10, 10) is."""


@dataclass(frozen=True, kw_only=True)
class TextSuite(Suite):
    """Texts to classify: a TextCNN that all tasks share, with a linear head for each."""

    classes: ClassVar[int]
    sizes: ClassVar[dict[str, dict[str, Any]]]
    """Of vocabulary, texts and splits, for each preset."""
    embeddings: Path | None = None
    """A file of word vectors in GloVe's text format, of the width of the model's embedding."""

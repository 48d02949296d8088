"""The options that several suites share."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from benchmarks.methods import ADVERSARIAL
from benchmarks.suite import Preset, Suite

if TYPE_CHECKING:
    from benchmarks.data.splits import Splits
    from benchmarks.train.problem import Problem

Backbone = Literal["shared_bottom", "mmoe", "ple", "dcn", "dcn_v2"]
"""What the tasks of a table share."""
SceneModel = Literal["segnet", "mtan"]
"""A network that all tasks share, or attention to it for each task as well."""
Precision = Literal["float32", "bfloat16"]
Inputs = Literal["normal", "uniform"]
Spread = Literal["deviation", "variance"]
"""What the second number of N(10, 10) is."""


@dataclass(frozen=True, kw_only=True)
class TextSuite(Suite):
    """Texts to classify: a TextCNN that all tasks share, with a linear head for each."""

    # GetMTL's and MetaWeighting's.
    compared: ClassVar = (
        "uw",
        "gradnorm",
        "mgda",
        "tchebycheff",
        "bandit_mtl",
        "meta_weighting",
        "getmtl",
        *ADVERSARIAL,
    )
    own: ClassVar = tuple(ADVERSARIAL)
    classes: ClassVar[int]
    sizes: ClassVar[dict[str, dict[str, Any]]]
    """Of vocabulary, texts and splits, for each preset."""
    model: ClassVar[Mapping[str, dict[str, Any]]] = {}
    """What of the network's sizes, for a preset, is the suite's own."""
    training: ClassVar[dict[str, Any]]
    """How much labels are smoothed, the parts of words and features dropped, the decay of the
    weights, the part of the training in which the learning rate rises, and how far apart words are
    near each other."""
    embeddings: Path | None = None
    """A file of word vectors as those of GloVe, word2vec (text) or fastText, of any width."""


@dataclass(frozen=True, kw_only=True)
class TableSuite(Suite):
    """Several questions about each row of a table."""

    model: ClassVar[Mapping[str, dict[str, Any]]]
    """Sizes of the network, for each preset."""
    backbone: Backbone = "mmoe"
    """What the tasks share: a dense layer, gated experts, experts of their own as well, or crosses
    of the features beside dense layers."""

    @abstractmethod
    def load(self) -> "tuple[Splits, tuple[int, ...]]":
        """The table, and the number of categories of each column."""

    def of_table(
        self, tasks: tuple[str, ...], given: Mapping[str, Any], **options: Any
    ) -> "Problem":
        """The table, the backbone and their losses.

        Args:
            tasks: their names, in the order of the labels.
            given: what the data was made by, for the record.
            options: further ones of `table_problem`.
        """
        from benchmarks.problems.tables import table_problem

        splits, cardinalities = self.data
        return table_problem(
            self.name,
            tasks,
            splits,
            cardinalities,
            self.backbone,
            self.model[self.preset],
            dict(given),
            batch_size=self.rows_per_batch,
            query_fraction=self.query_fraction,
            **options,
        )


@dataclass(frozen=True, kw_only=True)
class VideoSuite(TableSuite):
    """Short videos that were shown to users: AdaTask's network and protocol."""

    presets: ClassVar = {
        "quick": Preset(epochs=4, batch_size=32, learning_rates=(1e-3, 3e-3, 1e-2)),
        "standard": Preset(epochs=10, batch_size=4096, learning_rates=(1e-3, 3e-3, 1e-2)),
        "paper": Preset(epochs=50, batch_size=4096, learning_rates=(1e-3,)),
    }
    compared: ClassVar = ("gradnorm", "uw", "pcgrad", "cagrad", "adatask")
    # The paper does not state the widths of the two hidden layers.
    model: ClassVar = {
        "quick": {"embedding": 4, "widths": (32,), "tower": (16,)},
        "standard": {"embedding": 10, "widths": (256, 128), "tower": (128, 64, 32)},
        "paper": {"embedding": 10, "widths": (256, 128), "tower": (128, 64, 32)},
    }
    rare: ClassVar[Mapping[str, int]] = {"quick": 2, "standard": 10, "paper": 10}
    weights: ClassVar[Mapping[str, str]]
    """What a weighted mean of the AUCs is called to the name of its weights."""
    backbone: Backbone = "shared_bottom"

    def of_videos(self, tasks: tuple[str, ...]) -> "Problem":
        """The table with RMSProp, and the tasks weighted by `weights`."""
        import optax

        given = {"rare": self.rare[self.preset]}
        return self.of_table(tasks, given, weights=self.weights, optimizer=optax.rmsprop)


@dataclass(frozen=True, kw_only=True)
class PictureSuite(Suite):
    """Several numbers about each pixel of pictures."""

    precision: Precision = "float32"
    """What the network computes in, bfloat16 for devices that are fast in it. Parameters, running
    statistics and losses are float32 either way."""

    @property
    def told(self) -> dict[str, Any]:
        """What of it is no default, for the record: cells of before stay valid."""
        return {} if self.precision == "float32" else {"precision": self.precision}


@dataclass(frozen=True, kw_only=True)
class PhotographSuite(PictureSuite):
    """Several numbers about each pixel of photographs, by MTAN's networks."""

    channels: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "quick": (8, 16),
        "standard": (64, 128, 256, 512, 512),
        "paper": (64, 128, 256, 512, 512),
    }
    """Of each resolution, for each preset."""
    model: SceneModel = "mtan"
    """A SegNet with a head for each task, or attention to it for each task as well."""

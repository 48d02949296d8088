"""What is to be trained, and what a run tells of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.methods import UNTRAINED


@dataclass(frozen=True)
class Row:
    """A method, perhaps with other hyper-parameters than its own."""

    method: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    searched: tuple[Mapping[str, Any], ...] = ()
    """Hyper-parameters to choose from, at equal weighting's learning rate; none: the first seed
    tries the learning rates."""

    @property
    def label(self) -> str:
        """How files and tables call it."""
        given = ",".join(f"{name}={value}" for name, value in self.hyperparameters.items())
        return f"{self.method}[{given}]" if given else self.method

    def seeds(self, protocol: "Protocol") -> range:
        """Those it is trained with: simple models draw nothing, and are fitted once."""
        return range(1 if self.method in UNTRAINED else protocol.seeds)


@dataclass(frozen=True)
class Protocol:
    """What all cells of a run have in common."""

    seeds: int
    epochs: int
    learning_rates: tuple[float, ...]
    """What the first seed tries: a grid of one ratio."""
    widened: int = 0
    """How many more rates it may try where the best is the smallest or the largest."""

    def next_rate(self, tried: Mapping[float, float]) -> float | None:
        """A rate beyond those tried, as long as an end of them is the best.

        Args:
            tried: rate to what it has reached on the validation split.
        """
        rates, given = sorted(tried), len({*self.learning_rates})
        if given < 3 or len(rates) >= given + self.widened:
            return None
        best = max(rates, key=lambda rate: tried[rate])
        for end, inner in ((rates[0], rates[1]), (rates[-1], rates[-2])):
            if best == end:
                return float(f"{end * end / inner:.4g}")
        return None


@dataclass(frozen=True)
class Progress:
    """What a run tells about itself; by default nobody listens."""

    plan: Callable[[int, int], None] = lambda kept, epochs: None
    """Called once with the number of cells found and of epochs to be done."""
    row: Callable[[str], None] = lambda label: None
    """Called with the label of a row whose training begins."""
    more: Callable[[int], None] = lambda epochs: None
    """Called where a row turns out to need so many epochs more."""
    epoch: Callable[[int], None] = lambda members: None
    """Called after each epoch with the number of trainings that did it."""


SILENT = Progress()

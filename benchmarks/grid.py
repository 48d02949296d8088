"""The best of fixed task weights: ``python -m benchmarks grid``, AdaTask's GridSearch baseline."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from typing import Annotated

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.errors import UserError
from benchmarks.methods import EQUAL_WEIGHTING
from benchmarks.suite import Suite
from benchmarks.train.protocol import Row
from benchmarks.writing import spread_over, write

MOST = 200  # Points of a grid, each of which is a training for every learning rate.


def points(tasks: int, parts: int) -> Iterator[tuple[float, ...]]:
    """Weights that are whole multiples of ``tasks / parts``, positive, and sum to ``tasks``."""
    for cuts in itertools.combinations(range(1, parts), tasks - 1):
        ends = (0, *cuts, parts)
        yield tuple(tasks * (b - a) / parts for a, b in itertools.pairwise(ends))


class Grid(Suite):
    """What a suite's class gets on top to become a search; see `grid_of`."""

    parts: int

    def check(self) -> None:
        """Raise for a grid without points or with too many, and for the mistakes of every suite."""
        super().check()
        tasks = len(self.problem().tasks)
        if self.parts < tasks:
            raise UserError(
                f"--parts must be at least {tasks}, one for each task, not {self.parts}"
            )
        number = sum(1 for _ in points(tasks, self.parts))
        if number > MOST:
            raise UserError(
                f"--parts {self.parts} makes {number} points for {tasks} tasks, and {MOST} are the "
                "most: choose fewer"
            )

    def work(self) -> None:
        """Train every point with one seed, and the best on the validation split with all."""
        from benchmarks.results.summary import mean_metric, spread

        folder = self.folder / "grid"
        rows = {
            weights: Row("constant", {"weights": weights})
            for weights in points(len(self.problem().tasks), self.parts)
        }
        first = dataclasses.replace(self, seeds=1).train([*rows.values()], folder)
        scores = {
            weights: max(trial.validation for trial in first[row.label][0].trials)
            for weights, row in rows.items()
        }
        best = max(scores, key=lambda weights: scores[weights])
        shown = [Row(EQUAL_WEIGHTING), rows[best]]
        cells = self.train(shown, folder)
        lines = [
            [
                row.label,
                f"{cells[row.label][0].learning_rate:g}",
                spread(mean_metric(cells, row.label)),
            ]
            for row in shown
        ]
        told = {"validation": [[*weights, score] for weights, score in scores.items()]}
        write(folder / "grid.json", json.dumps({**told, "test": lines}, ensure_ascii=False))
        if not self.quiet:
            table = Table(
                title=f"mean metric on the test split; best of {len(rows)} choices of weights "
                "on the validation split, by the first seed",
                caption=spread_over(self.protocol.seeds),
                box=box.SIMPLE_HEAD,
                title_justify="left",
                caption_justify="left",
            )
            for name in ("weights", "rate", "mean"):
                table.add_column(name, justify="left" if name == "weights" else "right")
            for line in lines:
                table.add_row(*line)
            console = Console()
            console.print(table)
            console.print(f"Results are in {folder}/", highlight=False)


def grid_of(suite: type[Suite]) -> type[Suite]:
    """The suite's class with the options of a search."""
    made = dataclasses.make_dataclass(
        f"{suite.__name__}Grid",
        [
            (
                "parts",
                Annotated[
                    int,
                    tyro.conf.arg(
                        help="Into how many equal parts the weights are shared out: 10 for two "
                        "tasks tries 0.1 and 0.9 of the sum, 0.2 and 0.8, and so on."
                    ),
                ],
                10,
            ),
            ("methods", tyro.conf.Suppress[tuple[str, ...]], ()),
        ],
        bases=(Grid, suite),
        frozen=True,
        kw_only=True,
    )
    made.__doc__ = f"{(suite.__doc__ or '').partition(chr(10))[0]}"
    return made

"""The suite ``toy``: every method on two losses of two parameters, where all can be seen.

No data, no network, no seeds: five starting points, and where each method goes from there. The
preset "paper" takes the learning rate of all these papers and CAGrad's number of steps (FAMO took
50,000, Nash-MTL 35,000); "quick" covers the same distance in larger steps, which leap out of the
valleys more easily.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from rich.console import Console

from benchmarks.command import Command, Methods, Switch
from benchmarks.errors import UserError
from benchmarks.methods import check_names, chosen
from benchmarks.writing import writable

PRESETS: dict[str, tuple[int, float]] = {"paper": (100_000, 1e-3), "quick": (25_000, 4e-3)}
"""Steps and learning rate."""


@dataclass(frozen=True, kw_only=True)
class Toy(Command):
    """Descend CAGrad's landscape of two losses of two parameters, from five starting points.

    The contours, every method's trajectories and the Pareto front fit in one picture. Needs no
    download.
    """

    name: ClassVar[str] = "toy"

    methods: Methods = ()
    """Methods to run, or all."""
    preset: Literal["quick", "paper"] = "paper"
    """CAGrad's 100,000 steps at learning rate 0.001, or 25,000 at 0.004."""
    steps: int | None = None
    """Updates of the parameters, in place of the preset's."""
    learning_rate: float | None = None
    """Of Adam, the same for every method, in place of the preset's."""
    scale: float = 1.0
    """Loss 1 is multiplied by this: 1 in CAGrad, 0.1 in Nash-MTL and FAMO."""
    out: Path = Path("results/toy")
    """Folder for the JSON files and pictures."""
    fresh: Switch = False
    """Run every method again, also those in --out that ran with the same options."""
    quiet: Switch = False
    """Print nothing but errors."""

    def check(self) -> None:
        """Raise for every mistake in the options."""
        if self.steps is not None and self.steps < 1:
            raise UserError(f"--steps must be at least 1, not {self.steps}")
        for option, number in (("--learning-rate", self.learning_rate), ("--scale", self.scale)):
            if number is not None and not (math.isfinite(number) and number > 0):
                raise UserError(f"{option} must be positive, not {number}")
        check_names("--methods", self.methods)
        writable(self.out)

    def work(self) -> None:
        """Run what is missing, print the table, draw the pictures."""
        from benchmarks.toy.descent import descend_all
        from benchmarks.toy.show import draw, table

        steps, learning_rate = PRESETS[self.preset]
        runs = descend_all(
            self.out,
            chosen(self.methods),
            scale=self.scale,
            steps=steps if self.steps is None else self.steps,
            learning_rate=learning_rate if self.learning_rate is None else self.learning_rate,
            fresh=self.fresh,
            quiet=self.quiet,
        )
        draw(runs, self.scale, self.out)
        if not self.quiet:
            console = Console()
            console.print(table(runs, self.scale))
            console.print(f"Results and pictures are in {self.out}/", highlight=False)

"""The command ``compile``: CPU seconds until a step can run, against those without the library."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro
from rich.console import Console

from benchmarks.command import Measurement, Methods, Switch
from benchmarks.methods import ALL, chosen
from benchmarks.writing import write

Part = Literal["steps", "leaves"]
PARTS: tuple[Part, ...] = ("steps", "leaves")


@dataclass(frozen=True, kw_only=True)
class Compile(Measurement):
    """Measure the CPU seconds that XLA takes to compile, as ratios within one run.

    A training step against equal weighting by hand, and an update against Adam's on trees of many
    leaves; each with XLA's emitters of fused loops and without. One round takes about a quarter of
    an hour on a quiet machine.
    """

    name: ClassVar[str] = "compile"
    counts: ClassVar[tuple[str, ...]] = ("tasks", "leaves")

    parts: Annotated[tuple[Part, ...], tyro.conf.arg(help_behavior_hint="(default: both)")] = ()
    """Whole training steps of a small MLP, and updates of many leaves."""
    methods: Methods = ()
    """Methods to measure; of the updates, by default a few."""
    tasks: tuple[int, ...] = (3, 10)
    """Numbers of tasks, T, of the steps."""
    leaves: tuple[int, ...] = (50, 100, 200, 400)
    """Numbers of leaves of the updates."""
    rounds: int = 3
    """Turns of each program; the median counts."""
    out: Path = Path("results/compile")
    """Folder for the rows measured and the tables."""
    into: Path | None = None
    """A Markdown file to write the tables into as well, between its two markers."""
    quiet: Switch = False
    """Print nothing but errors."""

    def work(self) -> None:
        """Measure, and print the tables."""
        from benchmarks.results.cells import provenance
        from benchmarks.speed.compiling import leaves, steps
        from benchmarks.speed.compiling.show import tables

        console = Console(stderr=True, quiet=self.quiet)
        rows = []
        if "steps" in (self.parts or PARTS):
            methods = chosen(self.methods or [ALL])
            rows += steps.measure(methods, self.tasks, rounds=self.rounds, console=console)
        if "leaves" in (self.parts or PARTS):
            methods = chosen(self.methods or leaves.METHODS)
            rows += leaves.measure(methods, self.leaves, rounds=self.rounds, console=console)
        made = provenance()
        write(self.out / "rows.json", json.dumps({**made, "rows": rows}) + "\n")
        self.publish(tables(rows, made), beside="Rows and tables")

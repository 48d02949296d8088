"""What all suites have in common: their options, and what happens in which order."""

import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

import mtl_optax as mtl
from benchmarks.cells import Cell, Store, run_cells
from benchmarks.errors import UserError
from benchmarks.pictures import draw
from benchmarks.report import table
from benchmarks.training import BASELINES, Problem

_Switch = tyro.conf.FlagCreatePairsOff[bool]
_either = tyro.conf.create_mutex_group(required=False, title="finished cells")


@dataclass(frozen=True, kw_only=True)
class Suite(ABC):
    """Options of every suite; a suite adds its own, its defaults and its problem."""

    name: ClassVar[str]

    methods: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: every method)"),
    ] = ()
    """Methods to train; the baselines that they are compared with come along."""
    seeds: int = 3
    """How many times to train each method: seeds 0, 1, ..., all at once."""
    steps: int = 1000
    """Updates of the parameters in each training."""
    learning_rate: float = 1e-3
    """Of Adam, the same for every method."""
    batch_size: int = 64
    """Examples in each step."""
    out: Path = Path("results")
    """Folder for the JSON files and pictures."""
    resume: Annotated[_Switch, _either] = False
    """Keep the cells in --out that were trained with the same options: the default."""
    fresh: Annotated[_Switch, _either] = False
    """Train every cell again."""
    quiet: _Switch = False
    """Print nothing but errors."""

    @abstractmethod
    def problem(self) -> Problem:
        """The data, model and loss that these options ask for."""

    def run(self) -> None:
        """Train what is missing, print the table, draw the pictures."""
        methods = self._checked_methods()
        store = Store(self.out)
        if self.fresh:
            for method in methods:
                for seed in range(self.seeds):
                    store.discard(method, seed)
        problem = self.problem()
        cells = self._train(problem, store, methods)
        draw(problem, cells, self.out)
        if not self.quiet:
            console = Console()
            console.print(table(problem, cells))
            console.print(f"Results and pictures are in {self.out}/", highlight=False)

    def _checked_methods(self) -> list[str]:
        """Every mistake that can be told before work begins; the methods to train."""
        for option, number in (
            ("--seeds", self.seeds),
            ("--steps", self.steps),
            ("--batch-size", self.batch_size),
        ):
            if number < 1:
                raise UserError(f"{option} must be at least 1, not {number}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UserError(f"--learning-rate must be positive, not {self.learning_rate}")
        for method in self.methods:
            if method not in BASELINES:
                try:
                    mtl.method_info(method)
                except ValueError as error:
                    raise UserError(f"--methods: {error}") from error
        return list(dict.fromkeys([*BASELINES, *(self.methods or mtl.list_methods())]))

    def _train(self, problem: Problem, store: Store, methods: list[str]) -> dict[str, list[Cell]]:
        console = Console(stderr=True, quiet=self.quiet, highlight=False)
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            # Compiling makes no steps: only a long memory gives a steady estimate.
            speed_estimate_period=3600,
        )
        bar = progress.add_task("", total=None, visible=False)

        def plan(kept: int, steps: int) -> None:
            progress.update(bar, total=steps, visible=steps > 0)
            if kept:
                console.print(f"{kept} finished cells are used again; --fresh trains them anew.")

        # Warnings would tear the bar apart: they follow it, each one once.
        with warnings.catch_warnings(record=True) as caught, progress:
            cells = run_cells(
                problem,
                store,
                methods=methods,
                seeds=self.seeds,
                steps=self.steps,
                learning_rate=self.learning_rate,
                on_plan=plan,
                on_method=lambda method: progress.update(bar, description=method),
                on_steps=lambda steps: progress.advance(bar, steps),
            )
        for message in dict.fromkeys(str(warning.message) for warning in caught):
            console.print(f"note: {message}")
        return cells

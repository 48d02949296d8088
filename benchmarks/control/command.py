"""The suite ``control``: multi-task reinforcement learning, where PCGrad comes from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, NamedTuple

import tyro
from rich.console import Console

from benchmarks.command import Command, Switch, notes_after, tell_kept
from benchmarks.errors import UserError
from benchmarks.methods import BASELINES, UNTRAINED, check_names, chosen
from benchmarks.suite import STANDARD, WIDENED
from benchmarks.train.protocol import Progress, Protocol, Row
from benchmarks.writing import between_markers, check_writable, write

PresetName = Literal["quick", "standard"]
COMPARED = ("pcgrad", "cagrad", "nash_mtl")


class Preset(NamedTuple):
    """What --preset stands for; each option given on its own comes before it."""

    seeds: int
    epochs: int
    updates: int
    episodes: int
    learning_rates: tuple[float, ...]


PRESETS: Mapping[PresetName, Preset] = MappingProxyType(
    {
        "quick": Preset(2, 6, 25, 16, (4e-3,)),
        "standard": Preset(5, 20, 30, 32, (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)),
    }
)


@dataclass(frozen=True, kw_only=True)
class Control(Command):
    """Learn ten control tasks at once, with one actor-critic: multi-task reinforcement learning.

    A point mass whose thrusters are turned another way in each task. Needs no download.
    """

    name: ClassVar[str] = "control"

    methods: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="NAME ...", help_behavior_hint=f"(default: {' '.join(COMPARED)})"),
    ] = ()
    """Methods to train, or all; what they are compared with comes along."""
    preset: PresetName = "quick"
    """quick: a minute, too short to tell methods apart. standard: what the README shows."""
    seeds: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: the preset's)")] = None
    """How many times to train each method: seeds 0, 1, ..."""
    epochs: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: the preset's)")] = (
        None
    )
    """After each, episodes of validation are played; the best epoch is reported."""
    updates: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: the preset's)")] = (
        None
    )
    """Of the parameters, in each epoch."""
    episodes: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: the preset's)")] = (
        None
    )
    """Of each task, for each update."""
    learning_rates: Annotated[
        tuple[float, ...],
        tyro.conf.arg(metavar="RATE ...", help_behavior_hint="(default: the preset's)"),
    ] = ()
    """The grid; every method takes what suits it best on the validation episodes."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(
            help_behavior_hint="(default: results/control, of standard benchmarks/standard/control)"
        ),
    ] = None
    """Folder for the JSON files, the tables and the picture."""
    into: Path | None = None
    """A Markdown file to write the tables into as well, between its two markers."""
    fresh: Switch = False
    """Train every cell again, also those in --out that were trained with the same options."""
    quiet: Switch = False
    """Print nothing but errors."""

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.out or (STANDARD if self.preset == "standard" else Path("results")) / self.name

    @property
    def chosen(self) -> Preset:
        """The preset, with the options in the place of its numbers."""
        names = ("seeds", "epochs", "updates", "episodes")
        given = {name: number for name in names if (number := getattr(self, name)) is not None}
        preset = PRESETS[self.preset]._replace(**given)
        return preset._replace(learning_rates=self.learning_rates or preset.learning_rates)

    def check(self) -> None:
        """Raise for every mistake in the options."""
        check_names("--methods", self.methods, also=BASELINES)
        for option in ("seeds", "epochs", "updates", "episodes"):
            if (number := getattr(self.chosen, option)) < 1:
                raise UserError(f"--{option} must be at least 1, not {number}")
        for rate in self.chosen.learning_rates:
            if not (math.isfinite(rate) and rate > 0):
                raise UserError(f"--learning-rates must be positive, not {rate}")
        if self.into is not None:
            between_markers(self.into, self.name, "")
        check_writable(self.folder)

    def work(self) -> None:
        """Train what is missing, print the tables, draw the picture."""
        from benchmarks.control.agent import control_problem
        from benchmarks.control.experiment import run_cells
        from benchmarks.control.show import draw, markdown
        from benchmarks.results.cells import Store
        from benchmarks.show.table import show

        seeds, epochs, updates, episodes, rates = self.chosen
        protocol = Protocol(seeds, epochs, rates, widened=0 if self.learning_rates else WIDENED)
        store = Store(self.folder)
        names = dict.fromkeys([*UNTRAINED, *BASELINES, *chosen(self.methods or COMPARED)])
        rows = [Row(name) for name in names]
        if self.fresh:
            store.discard({row.label: row.seeds(protocol) for row in rows})
        console = Console(stderr=True, quiet=self.quiet, highlight=False)
        with notes_after(console), console.status("") as status:
            progress = Progress(
                plan=lambda kept, _: tell_kept(console, kept),
                row=lambda label: status.update(label),
            )
            problem = control_problem(updates=updates, episodes=episodes)
            cells = run_cells(problem, store, rows, protocol, progress=progress)
        tables = markdown(cells)
        draw(cells, self.folder)
        write(self.folder / "control.md", tables)
        if self.into is not None:
            write(self.into, between_markers(self.into, self.name, tables))
        if not self.quiet:
            show(Console(), cells)
            Console().print(tables, markup=False, highlight=False, soft_wrap=True)
            Console().print(f"Results and the picture are in {self.folder}/", highlight=False)

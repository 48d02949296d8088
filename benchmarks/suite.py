"""What all suites have in common: their options, and what happens in which order.

See `command` for what may be imported here.
"""

import functools
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import tyro
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from benchmarks.command import Command, Switch, notes_after, tell_kept
from benchmarks.errors import UserError
from benchmarks.methods import ADATASK_ON, BASELINES, SEARCHED, SIMPLE_MODEL, check_names, chosen
from benchmarks.train.protocol import Progress, Protocol, Row
from benchmarks.writing import check_writable

if TYPE_CHECKING:
    from benchmarks.results.cells import Cell
    from benchmarks.train.problem import Problem

PresetName = Literal["quick", "standard", "paper"]
STANDARD = Path("benchmarks/standard")
"""Where the results of --preset standard are kept, as part of the repository."""
WIDENED = 2
"""How many rates beyond an end of a preset's grid are tried, but for quick."""
SEEDS: Mapping[PresetName, int] = MappingProxyType({"quick": 3, "standard": 5, "paper": 5})
_either = tyro.conf.create_mutex_group(required=False, title="finished cells")


class Preset(NamedTuple):
    """What --preset stands for; each option given on its own comes before it."""

    epochs: int
    batch_size: int
    learning_rates: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Suite(Command):
    """Options of every suite; a suite adds its own, its presets and its problem."""

    name: ClassVar[str]
    presets: ClassVar[Mapping[PresetName, Preset]]
    compared: ClassVar[tuple[str, ...]] = ()
    """The methods that the suite's papers compare; none: those of all the papers."""
    own: ClassVar[tuple[str, ...]] = ()
    """Rows that this suite has and others have not."""

    methods: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: the preset's)"),
    ] = ()
    """Methods to train, or all; the baselines that they are compared with come along."""
    preset: PresetName = "quick"
    """quick: minutes, a small network, the methods of all papers. standard: what the published
    tables show, the methods of the suite's papers. paper: the schedule of the paper."""
    seeds: Annotated[
        int | None, tyro.conf.arg(help_behavior_hint="(default: 3 of quick, else 5)")
    ] = None
    """How many times to train each method: seeds 0, 1, ..."""
    epochs: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: the preset's)")] = (
        None
    )
    """Passes over the training data; the best on the validation split is reported."""
    batch_size: Annotated[
        int | None, tyro.conf.arg(help_behavior_hint="(default: the preset's)")
    ] = None
    """Examples in each step, of each task where these have data of their own."""
    learning_rates: Annotated[
        tuple[float, ...],
        tyro.conf.arg(metavar="RATE ...", help_behavior_hint="(default: the preset's)"),
    ] = ()
    """The grid; every method takes what suits it best on the validation split. A preset's, but
    for quick's, is widened for a method whose best rate is an end of it."""
    no_baseline: Switch = False
    """Leave out the simple models of scikit-learn, which the networks are to beat."""
    query_fraction: float = 0.1
    """Part of the training rows that MetaWeighting keeps as its query split."""
    data_dir: Path | None = None
    """Folder with the data files (default: the environment variable MTL_OPTAX_DATA)."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(
            help_behavior_hint="(default: results/<suite>, of standard benchmarks/standard/<suite>)"
        ),
    ] = None
    """Folder for the JSON files and pictures."""
    checkpoint_every: float = 60.0
    """Seconds between two checkpoints of an unfinished training."""
    resume: Annotated[Switch, _either] = False
    """Keep the cells in --out that were trained with the same options: the default."""
    fresh: Annotated[Switch, _either] = False
    """Train every cell again."""
    quiet: Switch = False
    """Print nothing but errors."""

    @abstractmethod
    def load(self) -> Any:
        """Read the data that these options ask for."""

    @functools.cached_property
    def data(self) -> Any:
        """What `load` has read, once."""
        return self.load()

    @abstractmethod
    def problem(self) -> "Problem":
        """The data, model and loss that these options ask for."""

    def draw_more(self, cells: "Mapping[str, Sequence[Cell]]") -> None:
        """What only this suite shows."""

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.out or (STANDARD if self.preset == "standard" else Path("results")) / self.name

    @property
    def protocol(self) -> Protocol:
        """Seeds, epochs and grid, from the options or the preset."""
        preset = self.presets[self.preset]
        return Protocol(
            seeds=SEEDS[self.preset] if self.seeds is None else self.seeds,
            epochs=preset.epochs if self.epochs is None else self.epochs,
            learning_rates=self.learning_rates or preset.learning_rates,
            widened=0 if self.learning_rates or self.preset == "quick" else WIDENED,
        )

    @property
    def rows_per_batch(self) -> int:
        """--batch-size or the preset's."""
        return self.presets[self.preset].batch_size if self.batch_size is None else self.batch_size

    def work(self) -> None:
        """Train what is missing, print the table, draw the pictures."""
        from benchmarks.show.pictures import draw
        from benchmarks.show.table import show
        from benchmarks.show.tell import baseline

        given = self.methods or (() if self.preset == "quick" else self.compared)
        methods = dict.fromkeys([*BASELINES, *chosen(given)])
        if not self.no_baseline:
            methods = {SIMPLE_MODEL: None, **methods}
        cells = self.train([self.row(method) for method in methods], self.folder)
        draw(cells, self.folder)
        self.draw_more(cells)
        if not self.quiet:
            console = Console()
            if (simple := baseline(cells)) is not None:
                console.print(simple.replace("**", ""), highlight=False)
            show(console, cells)
            console.print(f"Results and pictures are in {self.folder}/", highlight=False)

    def row(self, method: str) -> Row:
        """The method, and what it searches where the others have more than one learning rate."""
        tries = len(self.protocol.learning_rates)
        searches = self.preset != "quick" and tries > 1
        return Row(method, searched=SEARCHED.get(method, ())[:tries] if searches else ())

    def check(self) -> None:
        """Raise for every mistake in the options and in the files of data."""
        check_names("--methods", self.methods, also=(*ADATASK_ON, *self.own, *BASELINES))
        protocol = self.protocol
        for option, number in (
            ("--seeds", protocol.seeds),
            ("--epochs", protocol.epochs),
            ("--batch-size", self.rows_per_batch),
        ):
            if number < 1:
                raise UserError(f"{option} must be at least 1, not {number}")
        for rate in protocol.learning_rates:
            if not (math.isfinite(rate) and rate > 0):
                raise UserError(f"--learning-rates must be positive, not {rate}")
        if not 0 < self.query_fraction < 1:
            raise UserError(f"--query-fraction must lie between 0 and 1, not {self.query_fraction}")
        if not self.checkpoint_every >= 0:
            raise UserError(
                f"--checkpoint-every must be at least 0 seconds, not {self.checkpoint_every}"
            )
        check_writable(self.folder)
        _ = self.data

    def train(self, rows: Sequence[Row], folder: Path) -> "dict[str, list[Cell]]":
        """The cells of these rows, trained where ``folder`` has them not."""
        from benchmarks.results.cells import Store
        from benchmarks.train.experiment import run_cells

        store = Store(folder)
        if self.fresh:
            store.discard({row.label: row.seeds(self.protocol) for row in rows})
        problem = self.problem()
        console = Console(stderr=True, quiet=self.quiet, highlight=False)
        bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            # Compiling makes no steps: only a long memory gives a steady estimate.
            speed_estimate_period=3600,
        )
        shown = bar.add_task("", total=None, visible=False)

        def plan(kept: int, epochs: int) -> None:
            bar.update(shown, total=epochs, visible=epochs > 0)
            tell_kept(console, kept)

        progress = Progress(
            plan=plan,
            row=lambda label: bar.update(shown, description=label),
            more=lambda epochs: bar.update(shown, total=(bar.tasks[shown].total or 0) + epochs),
            epoch=lambda members: bar.advance(shown, members),
        )
        with notes_after(console), bar:
            return run_cells(
                problem,
                store,
                rows,
                self.protocol,
                checkpoint_every=self.checkpoint_every,
                progress=progress,
            )

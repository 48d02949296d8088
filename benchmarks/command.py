"""What commands have in common: mistakes are told before anything slow is imported.

The modules that hold options import neither jax nor what does so. They import their work where
they do it: in `Command.work`, and in what that calls.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar

import tyro
from rich.console import Console

from benchmarks.errors import UserError
from benchmarks.methods import check_names
from benchmarks.writing import between_markers, number_of, writable, write

Switch = tyro.conf.FlagCreatePairsOff[bool]
Methods = Annotated[
    tuple[str, ...],
    tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: every method)"),
]


@contextmanager
def notes_after(console: Console) -> Iterator[None]:
    """Warnings would tear a bar or a status line apart: they follow it, each one once."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        console.print(f"note: {message}")


def tell_kept(console: Console, cells: int) -> None:
    """How many cells are not trained again."""
    if cells:
        console.print(f"{number_of('finished cell', cells)} used again; --fresh trains anew.")


class Command(ABC):
    """A command that computes."""

    @abstractmethod
    def check(self) -> None:
        """Raise for every mistake that can be told without jax."""

    @abstractmethod
    def work(self) -> None:
        """Do what the command is for."""

    def run(self) -> None:
        """Check, and work."""
        self.check()
        import jax

        with jax.enable_x64(False):  # Cells of one table are of one precision.
            self.work()


class Measurement(Command):
    """A command whose rows become Markdown tables."""

    name: ClassVar[str]
    counts: ClassVar[tuple[str, ...]]
    """The options that hold several numbers of at least one."""
    methods: tuple[str, ...]
    rounds: int
    out: Path
    into: Path | None
    quiet: bool

    def check(self) -> None:
        """Raise for every mistake in the options."""
        check_names("--methods", self.methods)
        for option in self.counts:
            values = getattr(self, option)
            if not values or min(values) < 1:
                raise UserError(f"--{option} must be at least 1, not {values}")
        if self.rounds < 1:
            raise UserError(f"--rounds must be at least 1, not {self.rounds}")
        if self.into is not None:
            between_markers(self.into, self.name, "")
        writable(self.out)

    def publish(self, tables: str, *, beside: str) -> None:
        """Write the tables to --out and --into and print them; ``beside`` is all that is there."""
        write(self.out / f"{self.name}.md", tables)
        if self.into is not None:
            write(self.into, between_markers(self.into, self.name, tables))
        if not self.quiet:
            Console().print(tables, markup=False, highlight=False, soft_wrap=True)
            Console().print(f"{beside} are in {self.out}/", highlight=False)

"""What commands have in common: mistakes are told before anything slow is imported.

The modules that hold options import neither jax nor what does so. They import their work where
they do it: in `Command.work`, and in what that calls.
"""

from abc import ABC, abstractmethod
from typing import Annotated

import tyro

Switch = tyro.conf.FlagCreatePairsOff[bool]
Methods = Annotated[
    tuple[str, ...],
    tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: every method)"),
]


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

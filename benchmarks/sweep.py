"""How one method's result depends on one number: ``python -m benchmarks sweep``."""

import dataclasses
import inspect
import json
import math
from typing import Annotated, Any

import tyro
from rich.console import Console

from benchmarks.errors import UserError
from benchmarks.methods import EQUAL_WEIGHTING, check_names
from benchmarks.suite import Suite
from benchmarks.train.protocol import Row
from benchmarks.writing import write

# Options of the suite that may be varied as well as hyper-parameters of the method.
OF_THE_SUITE = ("learning_rate", "query_fraction")


class Sweep(Suite):
    """What a suite's class gets on top to become a sweep; see `sweep_of`."""

    method: str
    over: str

    def check(self) -> None:
        """Raise for a mistake in what is to vary, and for those of every suite."""
        check_names("--method", [self.method])
        self.parts()
        super().check()

    def work(self) -> None:
        """Train the method with each value, write and print the table, draw the picture."""
        from benchmarks.show.sweep import draw, lines, table

        name, values = self.checked()
        folder = self.folder / f"sweep-{self.method}-{name}"
        if name in OF_THE_SUITE:
            cells = {}
            for value in values:
                changed = {"learning_rates": (value,)} if name == "learning_rate" else {name: value}
                suite = dataclasses.replace(self, **changed)
                rows = [Row(EQUAL_WEIGHTING), Row(self.method)]
                cells[value] = suite.train(rows, folder / f"{value:g}")
            ours = {value: group[self.method] for value, group in cells.items()}
            plain = {value: group[EQUAL_WEIGHTING] for value, group in cells.items()}
        else:
            varied = {value: Row(self.method, {name: value}) for value in values}
            groups = self.train([Row(EQUAL_WEIGHTING), *varied.values()], folder)
            ours = {value: groups[row.label] for value, row in varied.items()}
            plain = dict.fromkeys(values, groups[EQUAL_WEIGHTING])
        told = lines(self.method, name, ours, plain)
        write(folder / "sweep.json", json.dumps(told, ensure_ascii=False))
        draw(self.method, name, ours, plain, folder / "sweep.png")
        if not self.quiet:
            console = Console()
            console.print(table(name, told, self.protocol.seeds))
            console.print(f"Results and picture are in {folder}/", highlight=False)

    def parts(self) -> tuple[str, str]:
        """The two sides of --over."""
        name, equals, text = self.over.partition("=")
        if not equals or not text:
            raise UserError(f"--over must be NAME=VALUE,VALUE,..., not {self.over!r}")
        return name, text

    def checked(self) -> tuple[str, list[Any]]:
        """The number to vary and its values."""
        import mtl_optax as mtl

        name, text = self.parts()
        parameters = inspect.signature(mtl.method_info(self.method).factory).parameters
        numbers = [
            p.name
            for p in parameters.values()
            if (isinstance(p.default, int | float) and not isinstance(p.default, bool))
            or p.annotation == float | None
        ]
        if name not in (*numbers, *OF_THE_SUITE):
            raise UserError(
                f"--over: {self.method} has no number {name!r} to vary; it has "
                f"{', '.join((*numbers, *OF_THE_SUITE))}"
            )
        whole = name in numbers and isinstance(parameters[name].default, int)
        try:
            values = [int(v) if whole else float(v) for v in text.split(",")]
        except ValueError:
            kind = "whole numbers" if whole else "numbers"
            raise UserError(f"--over {name}: the values must be {kind}, not {text!r}") from None
        if not all(math.isfinite(value) for value in values):
            raise UserError(f"--over {name}: the values must be finite, not {text!r}")
        if name in numbers:
            for value in values:
                try:
                    mtl.get(self.method, 2, **{name: value})
                except ValueError as error:
                    raise UserError(f"--over {name}: {error}") from error
        return name, values


def sweep_of(suite: type[Suite]) -> type[Suite]:
    """The suite's class with the options of a sweep."""
    made = dataclasses.make_dataclass(
        f"{suite.__name__}Sweep",
        [
            (
                "method",
                Annotated[str, tyro.conf.arg(metavar="NAME", help="The method to vary.")],
            ),
            (
                "over",
                Annotated[
                    str,
                    tyro.conf.arg(
                        metavar="NAME=VALUE,...",
                        help="A hyper-parameter of the method, learning_rate or query_fraction.",
                    ),
                ],
            ),
            ("methods", tyro.conf.Suppress[tuple[str, ...]], ()),
        ],
        bases=(Sweep, suite),
        frozen=True,
        kw_only=True,
    )
    made.__doc__ = f"{(suite.__doc__ or '').partition(chr(10))[0]}"
    return made

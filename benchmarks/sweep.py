"""How one method's result depends on one number: ``python -m benchmarks sweep``."""

import dataclasses
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import numpy as np
import tyro
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

import mtl_optax as mtl
from benchmarks.cells import Cell
from benchmarks.errors import UserError
from benchmarks.experiment import Row
from benchmarks.pictures import STYLE, TASK_COLOURS, save
from benchmarks.recipes import EQUAL_WEIGHTING
from benchmarks.suite import Suite
from benchmarks.summary import mean_metric, spread

# Options of the suite that may be varied as well as hyper-parameters of the method.
OF_THE_SUITE = ("learning_rate", "query_fraction")


class Sweep(Suite):
    """What a suite's class gets on top to become a sweep; see `sweep_of`."""

    method: str
    over: str

    def run(self) -> None:
        """Train the method with each value, print the table, draw the picture."""
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
        with mpl.rc_context(STYLE):
            save(_picture(self.method, name, ours, plain), folder / "sweep.png")
        if not self.quiet:
            console = Console()
            console.print(_table(self.method, name, ours, plain))
            console.print(f"Results and picture are in {folder}/", highlight=False)

    def checked(self) -> tuple[str, list[Any]]:
        """The number to vary and its values."""
        try:
            info = mtl.method_info(self.method)
        except ValueError as error:
            raise UserError(f"--method: {error}") from error
        name, equals, text = self.over.partition("=")
        if not equals or not text:
            raise UserError(f"--over must be NAME=VALUE,VALUE,..., not {self.over!r}")
        parameters = inspect.signature(info.factory).parameters
        numbers = [
            p.name
            for p in parameters.values()
            if isinstance(p.default, int | float) and not isinstance(p.default, bool)
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


Groups = Mapping[Any, list[Cell]]


def _means(groups: Groups) -> list[Any]:
    return [mean_metric({"": group}, "") for group in groups.values()]


def _table(method: str, name: str, ours: Groups, plain: Groups) -> Table:
    result = Table(
        title=f"mean metric on the test split, by {name}",
        caption=f"± is the standard deviation over {len(next(iter(ours.values())))} seeds.",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for column in (name, method, EQUAL_WEIGHTING, "rate"):
        result.add_column(column, justify="right", no_wrap=True)
    for value, mine, theirs in zip(ours, _means(ours), _means(plain), strict=True):
        rate = f"{ours[value][0].learning_rate:g}"
        result.add_row(f"{value:g}", spread(mine), spread(theirs), rate)
    return result


def _picture(method: str, name: str, ours: Groups, plain: Groups) -> Figure:
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    values = list(ours)
    for groups, colour, label in (
        (plain, "black", EQUAL_WEIGHTING),
        (ours, TASK_COLOURS[0], method),
    ):
        means = _means(groups)
        axes.errorbar(
            values,
            [mean.mean() for mean in means],
            yerr=[mean.std(ddof=1) if len(mean) > 1 else 0 for mean in means],
            fmt="o-",
            ms=4,
            capsize=2,
            color=colour,
            label=label,
        )
    positive = np.array(values) > 0
    if positive.all() and max(values) > 20 * min(values):
        axes.set_xscale("log")
    axes.set_xlabel(name)
    axes.set_ylabel("mean metric, test split")
    axes.legend()
    return figure


def sweep_folder(folder: Path) -> bool:
    """Whether a folder of results is that of a sweep."""
    return any(part.startswith("sweep-") for part in folder.parts)

"""The command line: ``python -m benchmarks --help``."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tyro
from rich.console import Console

from benchmarks.command import Command
from benchmarks.control.command import Control
from benchmarks.errors import InterruptedRunError, UserError
from benchmarks.grid import grid_of
from benchmarks.show.command import Claims, Report
from benchmarks.show.listing import method_list, suite_list
from benchmarks.speed.command import Speed
from benchmarks.speed.compiling.command import Compile
from benchmarks.suite import Suite
from benchmarks.suites import SUITES
from benchmarks.sweep import sweep_of
from benchmarks.toy.command import Toy

COMMANDS: tuple[type[Suite] | type[Control] | type[Toy], ...] = (*SUITES, Control, Toy)
INTERRUPTED = 130  # What a shell gives a command that Ctrl-C ended.


@dataclass(frozen=True)
class List:
    """Show the suites and the methods, and leave."""

    def run(self) -> None:
        """Print them."""
        summaries = {suite.name: (suite.__doc__ or "").partition("\n")[0] for suite in COMMANDS}
        Console().print(suite_list(summaries), method_list())


@dataclass(frozen=True)
class _Sweep:
    """Train one method with several values of one number; see sweep --help."""


@dataclass(frozen=True)
class _Grid:
    """Find the best fixed weights of a suite's tasks; see grid --help."""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 after a mistake of the user, 130 after Ctrl-C."""
    try:
        _parse(args).run()
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except InterruptedRunError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parse(args: Sequence[str] | None) -> Command | List:
    arguments = list(sys.argv[1:] if args is None else args)
    commands: dict[str, Callable[..., Any]]
    if arguments[:1] == ["sweep"]:
        commands = {suite.name: sweep_of(suite) for suite in SUITES}
        prog, arguments = "python -m benchmarks sweep", arguments[1:]
        description = (
            "Train one method with several values of one number. For example: "
            "python -m benchmarks sweep digits --method cagrad --over c=0.1,0.5,1"
        )
    elif arguments[:1] == ["grid"]:
        commands = {suite.name: grid_of(suite) for suite in SUITES}
        prog, arguments = "python -m benchmarks grid", arguments[1:]
        description = (
            "Train fixed task weights on a grid, and find the best on the validation split. For "
            "example: python -m benchmarks grid digits --parts 10"
        )
    else:
        commands = {suite.name: suite for suite in COMMANDS}
        commands |= {"sweep": _Sweep, "grid": _Grid, "speed": Speed, "compile": Compile}
        commands |= {"report": Report, "claims": Claims, "list": List}
        prog = "python -m benchmarks"
        description = (
            "Train multi-task models on real data with every method of mtl_optax, and compare "
            "them. Start with: python -m benchmarks digits. See also: python -m benchmarks sweep "
            "--help"
        )
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.extras.subcommand_cli_from_dict(
                commands, prog=prog, description=description, args=arguments
            )
    except SystemExit as exit:
        if exit.code:
            raise UserError(_one_line(complaint.getvalue())) from None
        raise


def _one_line(panel: str) -> str:
    """What tyro's boxed panel says, without the box and the help text it repeats."""
    blocks: list[list[str]] = [[]]
    for line in panel.splitlines()[1:-1]:
        text = line.strip("│ ")
        if text.strip("─"):
            blocks[-1].append(text.strip())
        else:
            blocks.append([])
    kept = []
    for block in blocks:
        if block and block[0].startswith("Perhaps you meant"):
            kept.append(" ".join(block[:2]))
        elif block and not block[0].startswith(("Argument helptext", "For full helptext")):
            kept.append(" ".join(block).rstrip("."))
    return "; ".join(kept)


if __name__ == "__main__":
    code = main()
    if code == INTERRUPTED:
        # A computation may still be running, and crashes where the interpreter goes before it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)

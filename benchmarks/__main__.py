"""The command line: ``python -m benchmarks --help``."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tyro
from rich.console import Console

from benchmarks.digits import Digits
from benchmarks.errors import InterruptedRunError, UserError
from benchmarks.report import method_list, suite_list
from benchmarks.suite import Suite
from benchmarks.toy import Toy

INTERRUPTED = 130  # What a shell gives a command that Ctrl-C ended.
SUITES: tuple[type[Suite] | type[Toy], ...] = (Toy, Digits)


@dataclass(frozen=True)
class List:
    """Show the suites and the methods, and leave."""

    def run(self) -> None:
        """Print them."""
        summaries = {suite.name: (suite.__doc__ or "").partition("\n")[0] for suite in SUITES}
        Console().print(suite_list(summaries), method_list())


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 after a mistake of the user, 130 after Ctrl-C."""
    try:
        command = _parse(args)
        command.run()
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


def _parse(args: Sequence[str] | None) -> Suite | Toy | List:
    complaint = io.StringIO()
    commands: dict[str, Callable[..., Suite | Toy | List]] = {
        **{suite.name: suite for suite in SUITES},
        "list": List,
    }
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.extras.subcommand_cli_from_dict(
                commands,
                prog="python -m benchmarks",
                description=(
                    "Train multi-task models on real data with every method of mtl_optax, and "
                    "compare them. Start with: python -m benchmarks digits"
                ),
                args=args,
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

"""The command that writes a report."""

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.command import Command, Methods
from benchmarks.errors import UserError
from benchmarks.methods import BASELINES, COMPOSED, PROPOSED, check_names
from benchmarks.suite import STANDARD
from benchmarks.writing import between_markers, write


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Gather all results on one page, report.html, and as Markdown tables, report.md."""

    results: Path = STANDARD
    """Folder with the results of suites, each in a folder of its own."""
    into: Path | None = None
    """A Markdown file to write the tables into as well, between its two markers."""

    def check(self) -> None:
        """Raise where the tables find no place."""
        if self.into is not None:
            between_markers(self.into, "results", "")

    def work(self) -> None:
        """Write both files; damaged results are named and left out."""
        from benchmarks.results.gather import gather
        from benchmarks.show.render import html, markdown

        found = gather(self.results)
        for problem in found.problems:
            print(f"benchmarks: {problem}", file=sys.stderr)
        page, text = self.results / "report.html", self.results / "report.md"
        write(page, html(found))
        write(text, markdown(found))
        if self.into is not None:
            write(self.into, between_markers(self.into, "results", markdown(found)))
        Console().print(f"{page} and {text} are written.", highlight=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class Claims(Command):
    """Print what the results say to the claims of the papers, as the table of claims quotes it."""

    results: Path = STANDARD
    """Folder with the results of suites, each in a folder of its own."""
    suites: tuple[str, ...] = ()
    """Suites to tell of; all by default."""
    methods: Methods = PROPOSED
    """Methods whose place among the others is told."""

    def check(self) -> None:
        """Raise for a method that there is not."""
        check_names("--methods", self.methods, also=(*COMPOSED, *BASELINES))

    def work(self) -> None:
        """Print a table and sentences for each suite."""
        from benchmarks.results.gather import gather
        from benchmarks.show.claims import NOTE, claims_table, place
        from benchmarks.show.render import markdown_table

        found = gather(self.results)
        for problem in found.problems:
            print(f"benchmarks: {problem}", file=sys.stderr)
        told = [s for s in found.suites if s.cells and (not self.suites or s.name in self.suites)]
        if missing := set(self.suites) - {suite.name for suite in told}:
            raise UserError(f"--suites: no results of {', '.join(sorted(missing))}")
        lines = []
        for suite in told:
            lines += [f"### {suite.name}", "", *markdown_table(claims_table(suite.cells)), ""]
            lines += [place(suite.cells, m) for m in self.methods if m in suite.cells]
            lines.append("")
        print("\n".join([*lines, NOTE]))

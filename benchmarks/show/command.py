"""The command that writes a report."""

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.command import Command
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

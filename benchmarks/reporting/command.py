"""The command that writes a report."""

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.cells import write
from benchmarks.reporting.gather import gather
from benchmarks.reporting.render import html, markdown


@dataclass(frozen=True, kw_only=True)
class Report:
    """Gather all results on one page, report.html, and as Markdown tables, report.md."""

    results: Path = Path("results")
    """Folder with the results of suites, each in a folder of its own."""

    def run(self) -> None:
        """Write both files; damaged results are named and left out."""
        found = gather(self.results)
        for problem in found.problems:
            print(f"benchmarks: {problem}", file=sys.stderr)
        page, text = self.results / "report.html", self.results / "report.md"
        write(page, html(found))
        write(text, markdown(found))
        Console().print(f"{page} and {text} are written.", highlight=False, soft_wrap=True)

"""The command that writes a report."""

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.cells import write
from benchmarks.errors import UserError
from benchmarks.reporting.gather import gather
from benchmarks.reporting.render import html, markdown


@dataclass(frozen=True, kw_only=True)
class Report:
    """Gather all results on one page, report.html, and as Markdown tables, report.md."""

    results: Path = Path("results")
    """Folder with the results of suites, each in a folder of its own."""
    into: Path | None = None
    """A Markdown file to write the tables into as well, between its two markers."""

    def run(self) -> None:
        """Write both files; damaged results are named and left out."""
        found = gather(self.results)
        for problem in found.problems:
            print(f"benchmarks: {problem}", file=sys.stderr)
        page, text = self.results / "report.html", self.results / "report.md"
        write(page, html(found))
        write(text, markdown(found))
        if self.into is not None:
            write(self.into, between_markers(self.into, "results", markdown(found)))
        Console().print(f"{page} and {text} are written.", highlight=False, soft_wrap=True)


def between_markers(path: Path, name: str, tables: str) -> str:
    """The text of a file with what lies between its markers of that name replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--into {path}: cannot be read ({error.strerror})") from error
    before, begins, rest = text.partition(begin)
    _, ends, after = rest.partition(end)
    if not begins or not ends:
        raise UserError(f"--into {path}: needs a line {begin} and below it a line {end}")
    return f"{before}{begin}\n\n{tables.strip()}\n\n{end}{after}"

"""Runs the README's first command and writes what it says of it: `python docs/digits.py`.

The seconds, the figures and the picture are those of this one run: let nothing else run beside it.
"""

import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time

import jax

from benchmarks.methods import BASELINES, EQUAL_WEIGHTING, SIMPLE_MODEL, SINGLE_TASK
from benchmarks.results.gather import gather
from benchmarks.results.summary import Cells, counted, first_cell, mean_metric, spread, test_metrics
from benchmarks.show.tell import baseline, verdict

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "digits.png"
BEGIN = "<!-- digits: written by docs/digits.py -->\n"
END = "<!-- end of digits -->"


SHOWN = 5  # Methods in the README's table.


def told(cells: Cells, seconds: float, busy: float, cores: int) -> str:
    """Returns what the README says of a run: a paragraph, a table and a verdict.

    Args:
        cells: those of the run.
        seconds: how long it took.
        busy: how many CPU seconds it took, which other programs on the machine hardly change.
        cores: of the machine.
    """
    seeds = len(cells[EQUAL_WEIGHTING])
    before = (
        "*Two scanned digits overlaid, to be read, and their slants in degrees, whose squared "
        "error begins at a hundred, the readings' losses at two; a narrow shared trunk; test "
        f"split, mean and standard deviation over {seeds} seeds, written by the first command in "
        f"{seconds:.0f} s ({busy:.0f} CPU seconds) on {cores} CPU cores of a shared machine (jax "
        f"{jax.__version__}).* "
        f"The methods that came first, of {len(cells.keys() - {SIMPLE_MODEL, *BASELINES})}:"
    )
    after = f"{_drowned(cells)} {verdict(cells)} {baseline(cells) or ''}".strip()
    paragraphs = [textwrap.fill(text, 100, break_on_hyphens=False) for text in (before, after)]
    return f"{paragraphs[0]}\n\n{_table(cells)}\n\n{paragraphs[1]}\n"


def _drowned(cells: Cells) -> str:
    """What equal weighting loses, and whether any method brings it all back."""
    plain, alone = (test_metrics(cells[m]).mean(axis=0) for m in (EQUAL_WEIGHTING, SINGLE_TASK))
    goal = mean_metric(cells, SINGLE_TASK).mean()
    methods = cells.keys() - {SIMPLE_MODEL, *BASELINES}
    reached = sorted(m for m in methods if mean_metric(cells, m).mean() >= goal)
    return (
        f"Equal weighting reads {plain[0]:.1f} and {plain[1]:.1f} % of the digits, a network for "
        f"each task {alone[0]:.1f} and {alone[1]:.1f} %: the slants drown them. Methods that reach "
        f"a network for each task in the mean: {', '.join(reached) or 'none'}."
    )


def _table(cells: Cells) -> str:
    """The baselines, and the methods with the best means."""
    methods = [method for method in cells if method not in (SIMPLE_MODEL, *BASELINES)]
    methods.sort(key=lambda method: -mean_metric(cells, method).mean())
    rows = [name for name in (SIMPLE_MODEL, SINGLE_TASK, EQUAL_WEIGHTING) if name in cells]
    metrics, columns = first_cell(cells).metrics, counted(cells)
    lines = [["method", *(metrics[i].name for i in columns), "mean"]]
    lines.append(["---", *["---:"] * (len(columns) + 1)])
    for name in [*rows, *methods[:SHOWN]]:
        values = [spread(test_metrics(cells[name])[:, i]) for i in columns]
        lines.append([name, *values, spread(mean_metric(cells, name))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rewritten(readme: str, text: str) -> str:
    """Returns the README's text with this between its markers."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{text}{END}{after}"


def main() -> None:
    """Runs the command in a folder of its own, and writes text and picture."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "digits"
        command = [sys.executable, "-m", "benchmarks", "digits", "--out", str(out)]
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True)
        seconds = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        (suite,) = gather(pathlib.Path(folder)).suites
        text = told(suite.cells, seconds, used.ru_utime + used.ru_stime, os.cpu_count() or 1)
        shutil.copyfile(out / "summary.png", PICTURE)
    README.write_text(rewritten(README.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()

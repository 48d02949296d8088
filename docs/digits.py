"""Runs the README's first command and writes what it says of it: `python docs/digits.py`.

The seconds, the figures and the picture are those of this one run: let nothing else run beside it.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time

import jax

from benchmarks.methods import EQUAL_WEIGHTING
from benchmarks.results.gather import gather
from benchmarks.results.summary import Cells, change
from benchmarks.show.tell import verdict

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "digits.png"
BEGIN = "<!-- digits: written by docs/digits.py -->\n"
END = "<!-- end of digits -->"


def told(cells: Cells, seconds: float, cores: int) -> str:
    """Returns the README's paragraph on the cells of a run."""
    seeds = len(cells[EQUAL_WEIGHTING])
    drop = change(cells, EQUAL_WEIGHTING)
    assert drop is not None
    text = (
        "*Two scanned digits overlaid, one task for each, a narrow shared trunk; mean and standard "
        f"deviation over {seeds} seeds, written by the first command in {seconds:.0f} s on {cores} "
        f"cores (jax {jax.__version__}).* Equal weighting costs {drop.mean():.1f} ± "
        f"{drop.std(ddof=1):.1f} % of accuracy against a network for each task. {verdict(cells)}"
    )
    return textwrap.fill(text, 100, break_on_hyphens=False) + "\n"


def rewritten(readme: str, paragraph: str) -> str:
    """Returns the README's text with this paragraph."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{paragraph}{END}{after}"


def main() -> None:
    """Runs the command in a folder of its own, and writes the paragraph and the picture."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "digits"
        command = [sys.executable, "-m", "benchmarks", "digits", "--out", str(out)]
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True)
        seconds = time.perf_counter() - began
        (suite,) = gather(pathlib.Path(folder)).suites
        paragraph = told(suite.cells, seconds, os.cpu_count() or 1)
        shutil.copyfile(out / "summary.png", PICTURE)
    README.write_text(rewritten(README.read_text(encoding="utf-8"), paragraph), encoding="utf-8")


if __name__ == "__main__":
    main()

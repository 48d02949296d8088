"""The rows of docs/peers.md: what is asked of which package, what it answered, and what ours does.

The page is where the programs stand. `record` runs those of the peers, `test_page` those of ours.
A section is headed by a package and its version; a first block of code of that section, marked
`py`, is what its programs start from. A row of its table is

    | situation | `program` → `answer` | `program of ours` → `answer` | why |
"""

import pathlib
import re
from typing import NamedTuple

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "peers.md"
CELL = re.compile(r"`(?P<program>[^`]+)` → `(?P<answer>[^`]+)`")
NUMBER = re.compile(r"(?<![\w.])-?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?!\w)|-?\binf\b|\bnan\b")


class Row(NamedTuple):
    """One measured row."""

    package: str
    situation: str
    program: str
    answer: str
    ours: str
    our_answer: str


class Section(NamedTuple):
    """A package's part of the page: its version, and what its programs start from."""

    package: str
    version: str
    setup: str
    rows: list[Row]


def block(text: str, language: str) -> str:
    """Returns the blocks of code of one language, joined."""
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S))


def sections(text: str | None = None) -> list[Section]:
    """Reads the page."""
    text = PAGE.read_text("utf-8") if text is None else text
    found = []
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        heading = re.match(r"(\S+) (\d\S*)\n", part)
        if not heading:
            continue
        package, version = heading.groups()
        rows = []
        for line in part.splitlines():
            cells = line.strip("| ").split(" | ")
            if not line.startswith("| ") or len(cells) != 4 or "`" not in line:
                continue
            theirs, ours = (CELL.fullmatch(cell) for cell in cells[1:3])
            if not (theirs and ours):
                raise ValueError(f"not `program` → `answer` twice: {line}")
            rows.append(Row(package, cells[0], *theirs.groups(), *ours.groups()))
        found.append(Section(package, version, block(part, "py"), rows))
    return found


def numbers(answer: str) -> list[float]:
    """Returns the numbers of an answer as the page prints it."""
    return [float(number) for number in NUMBER.findall(answer)]

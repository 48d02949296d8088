"""What was measured, as two Markdown tables with their targets."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.compiler import WITHOUT_EMITTERS
from benchmarks.speed.compiling.leaves import ALONE, TASKS
from benchmarks.speed.compiling.steps import BY_HAND, ONE_PASS
from benchmarks.speed.show import Table, title_and_table

Row = Mapping[str, Any]
STACKED_LIMIT, ONE_PASS_LIMIT, LEAVES_LIMIT = 2.5, 1.2, 3.0
AT_LEAVES = 400
_WITHOUT_EMITTERS = (
    "without emitters, the compilation with "
    + " and ".join(f"`{option}={value}`" for option, value in WITHOUT_EMITTERS.items())
    + ", as a multiple of the same without these."
)


def tables(rows: Sequence[Row], made: Mapping[str, Any]) -> str:
    """Both tables, or the one that was asked for."""
    parts = [
        title_and_table(part, table([row for row in rows if row["part"] == part]))
        for part, table in (("steps", _steps), ("leaves", _leaves))
        if any(row["part"] == part for row in rows)
    ]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    device = made["device"]
    parts.append(f"{device['platform']}, {device['cpus']} cores; {versions}.")
    return "\n\n".join(parts)


def _steps(rows: Sequence[Row]) -> Table:
    places = sorted({row["tasks"] for row in rows})
    body = []
    for method, way in _in_order((row["method"], row["way"]) for row in rows):
        limit = ONE_PASS_LIMIT if way == ONE_PASS else STACKED_LIMIT
        line = [f"{method}, {way}" if way else method, f"≤ {limit:g}" if way else ""]
        for num_tasks in places:
            wanted = (method, way, num_tasks)
            row = next(r for r in rows if (r["method"], r["way"], r["tasks"]) == wanted)
            line += _cells(row, "equal", reference=method == BY_HAND)
        body.append(line)
    return (
        "A jitted training step of a small MLP with Adam: CPU seconds of XLA's compilation / of "
        "tracing and lowering, as multiples of those of equal weighting by hand, whose seconds "
        f"stand in the first row; {_WITHOUT_EMITTERS} Targets are for the compilation.",
        ["step", "target", *_headings([f"T = {num_tasks}" for num_tasks in places])],
        body,
    )


def _leaves(rows: Sequence[Row]) -> Table:
    places = sorted({(tuple(row["shape"]), row["leaves"]) for row in rows})
    body = []
    for method in _in_order(row["method"] for row in rows):
        line = [method, "" if method == ALONE else f"≤ {LEAVES_LIMIT:g} at {AT_LEAVES}"]
        for shape, number in places:
            wanted = (method, shape, number)
            row = next(r for r in rows if (r["method"], tuple(r["shape"]), r["leaves"]) == wanted)
            line += _cells(row, "adam", reference=method == ALONE)
        body.append(line)
    return (
        f"An update with Adam after each method, of {TASKS} tasks, by the number and shape of the "
        "parameters' leaves: CPU seconds of XLA's compilation / of tracing and lowering, as "
        f"multiples of those of Adam alone, whose seconds stand in the first row; "
        f"{_WITHOUT_EMITTERS} Targets are for the compilation.",
        ["update", "target", *_headings([f"{number} of {shape}" for shape, number in places])],
        body,
    )


def _headings(places: Sequence[str]) -> list[str]:
    return [heading for place in places for heading in (place, f"{place}, without emitters")]


def _cells(row: Row, reference_name: str, *, reference: bool) -> list[str]:
    if reference:
        return [
            f"{row['compiling']:.2f} s / {row['tracing']:.2f} s",
            f"{row['without_emitters']:.2f} s",
        ]
    kinds = ("compiling", "tracing", "without_emitters")
    compiling, tracing, without_emitters = (row[f"{what} over {reference_name}"] for what in kinds)
    return [f"{compiling:.1f} / {tracing:.1f}", f"{without_emitters:.1f}"]


def _in_order(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))

"""All cells under a folder, suite by suite; what is damaged is named and left out."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.errors import UserError
from benchmarks.methods import BASELINES, UNTRAINED
from benchmarks.results.cells import Cell, read_cell
from benchmarks.writing import number_of
from mtl_optax import list_methods

CELLS = "*-seed*.json"
SHOWN = {"suite": str, "epochs": int, "steps_per_epoch": int, "batch_size": int}
SHOWN |= {"learning_rates": list}
OWN = ("hyperparameters", "searched")  # What the methods of a table need not have in common.


class Lines(NamedTuple):
    """A table: a heading and rows of text."""

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class SuiteResults:
    """The cells of one folder that share a configuration, in order of method and seed."""

    name: str
    """Of the suite, and of the folder where several have its results."""
    folder: Path
    cells: dict[str, list[Cell]]
    provenance: dict[str, str]
    """Versions and devices, as the files tell them."""
    sweeps: dict[Path, Lines]
    """The tables of its sweeps, by the folder."""

    @property
    def pictures(self) -> list[Path]:
        """The PNG files in the folder."""
        return sorted(self.folder.glob("*.png"), key=lambda path: (path.stem != "summary", path))


@dataclass(frozen=True)
class Results:
    """Everything found under a folder."""

    suites: list[SuiteResults]
    toy: list[Path]
    """Pictures of the suite ``toy``, which has no cells."""
    problems: list[str] = field(default_factory=list)
    """What could not be used, one line each."""


def gather(folder: Path) -> Results:
    """Read every cell under ``folder``, apart from those of sweeps."""
    if not folder.is_dir():
        raise UserError(f"--results {folder}: no such folder")
    suites, problems = [], []
    for place in sorted({path.parent for path in folder.rglob(CELLS)}):
        if _of_sweep(place.relative_to(folder)):
            continue
        found, wrong = _read(place)
        problems += wrong
        if found is not None:
            suites.append(found)
    toy = sorted(path for path in folder.rglob("toy*.png"))
    if not suites and not toy and not problems:
        raise UserError(f"--results {folder}: no results in there; run a suite first")
    times = Counter(suite.name for suite in suites)
    suites = [
        replace(suite, name=f"{suite.name} ({suite.folder.relative_to(folder)})")
        if times[suite.name] > 1
        else suite
        for suite in suites
    ]
    return Results(suites, toy, problems)


def _of_sweep(folder: Path) -> bool:
    """Whether a folder of results is that of a sweep."""
    return any(part.startswith("sweep-") for part in folder.parts)


def _read(folder: Path) -> tuple[SuiteResults | None, list[str]]:
    read: dict[Path, Cell] = {}
    made: dict[Path, str] = {}
    problems = []
    for path in sorted(folder.glob(CELLS)):
        try:
            read[path], made[path] = _usable(path), _provenance(path)
        except UserError as error:
            problems.append(str(error))
    kept = _majority(read, _shared)
    kept = {
        path: cell
        for method in sorted({cell.method for cell in kept.values()})
        for path, cell in _majority(
            {path: cell for path, cell in kept.items() if cell.method == method}, _own
        ).items()
    }
    problems += [
        f"{path}: left out, its configuration is not that of its neighbours"
        for path in read
        if path not in kept
    ]
    if not kept:
        return None, problems
    order = {name: i for i, name in enumerate([*UNTRAINED, *BASELINES, *list_methods()])}
    cells: dict[str, list[Cell]] = defaultdict(list)
    for cell in sorted(
        kept.values(), key=lambda c: (order.get(c.method, len(order)), c.method, c.seed)
    ):
        cells[cell.method].append(cell)
    counts = Counter(made[path] for path in kept).most_common()
    name = next(iter(kept.values())).suite
    provenance = {text: number_of("cell", n) for text, n in counts}
    sweeps = {}
    for path in sorted(folder.glob("sweep-*/sweep.json")):
        try:
            sweeps[path.parent] = _sweep_table(path)
        except UserError as error:
            problems.append(str(error))
    return SuiteResults(name, folder, dict(cells), provenance, sweeps), problems


def _sweep_table(path: Path) -> Lines:
    try:
        heading, *rows = json.loads(path.read_text(encoding="utf-8"))
        texts = [text for row in (heading, *rows) for text in row]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: left out, it is no table ({error})") from error
    if not all(isinstance(text, str) for text in texts) or {*map(len, rows)} != {len(heading)}:
        raise UserError(f"{path}: left out, it is no table")
    return Lines(heading, rows)


def _usable(path: Path) -> Cell:
    """The cell in a file, if it has what a report tells of it."""
    cell = read_cell(path)
    if path.name != f"{cell.method}-seed{cell.seed}.json":
        raise UserError(f"{path}: left out, it is a copy of {cell.method}, seed {cell.seed}")
    config, metrics = cell.config, cell.metrics
    for name, kind in SHOWN.items():
        if not isinstance(config.get(name), kind):
            raise UserError(f"{path}: left out, its {name} is {config.get(name)!r}")
    if not all(isinstance(rate, int | float) for rate in config["learning_rates"]):
        raise UserError(f"{path}: left out, its learning_rates are {config['learning_rates']}")
    searched = config.get("searched", [])
    if not (isinstance(searched, list) and all(isinstance(tried, dict) for tried in searched)):
        raise UserError(f"{path}: left out, its searched is {searched}")
    whole = all(isinstance(m.name, str) and isinstance(m.higher_is_better, bool) for m in metrics)
    if not whole or not any(metric.counts for metric in metrics):
        raise UserError(f"{path}: left out, its metrics are {config['metrics']}")
    return cell


def _majority(cells: Mapping[Path, Cell], key: Callable[[Cell], str]) -> dict[Path, Cell]:
    """Those cells that share what most have; of a draw, the first."""
    counts = Counter(map(key, cells.values())).most_common(1)
    return {path: cell for path, cell in cells.items() if key(cell) == counts[0][0]}


def _shared(cell: Cell) -> str:
    config = {name: value for name, value in cell.config.items() if name not in OWN}
    return json.dumps(config, sort_keys=True)


def _own(cell: Cell) -> str:
    return json.dumps([cell.config.get(name) for name in OWN], sort_keys=True)


def _provenance(path: Path) -> str:
    content = json.loads(path.read_text())
    versions, device = content.get("versions"), content.get("device")
    if not isinstance(versions, dict) or not isinstance(device, dict):
        raise UserError(f"{path}: left out, it does not tell its versions and device")
    software = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return f"{device.get('kind')}, {device.get('cpus')} CPU cores; {software}"

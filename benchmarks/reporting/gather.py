"""All cells under a folder, suite by suite; what is damaged is named and left out."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.cells import Cell, read_cell
from benchmarks.errors import UserError
from benchmarks.recipes import BASELINES
from benchmarks.sweep import sweep_folder
from mtl_optax import list_methods

CELLS = "*-seed*.json"


@dataclass(frozen=True)
class SuiteResults:
    """The cells of one folder that share a configuration, in order of method and seed."""

    folder: Path
    cells: dict[str, list[Cell]]
    provenance: dict[str, str]
    """Versions and devices, as the files tell them."""

    @property
    def name(self) -> str:
        """Of the suite."""
        return next(iter(self.cells.values()))[0].suite

    @property
    def pictures(self) -> list[Path]:
        """The PNG files in the folder and in those of its sweeps."""
        own = sorted(self.folder.glob("*.png"), key=lambda path: (path.stem != "summary", path))
        return [*own, *sorted(self.folder.glob("sweep-*/sweep.png"))]


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
        if sweep_folder(place.relative_to(folder)):
            continue
        found, wrong = _read(place)
        problems += wrong
        if found is not None:
            suites.append(found)
    toy = sorted(path for path in folder.rglob("toy*.png"))
    if not suites and not toy and not problems:
        raise UserError(f"--results {folder}: no results in there; run a suite first")
    return Results(suites, toy, problems)


def _read(folder: Path) -> tuple[SuiteResults | None, list[str]]:
    read: list[tuple[Cell, Path]] = []
    problems = []
    for path in sorted(folder.glob(CELLS)):
        try:
            read.append((read_cell(path), path))
        except UserError as error:
            problems.append(str(error))
    if not read:
        return None, problems
    (usual, _), *_ = Counter(_shared(cell) for cell, _ in read).most_common()
    groups: dict[str, dict[int, Cell]] = defaultdict(dict)
    provenance: Counter[str] = Counter()
    for cell, path in read:
        if _shared(cell) != usual:
            problems.append(f"{path}: left out, its configuration is not that of its neighbours")
            continue
        groups[cell.method][cell.seed] = cell
        provenance[_provenance(path)] += 1
    order = {name: i for i, name in enumerate([*BASELINES, *list_methods()])}
    names = sorted(groups, key=lambda name: (order.get(name, len(order)), name))
    cells = {name: [groups[name][seed] for seed in sorted(groups[name])] for name in names}
    made = {text: f"{count} cells" for text, count in provenance.most_common()}
    return SuiteResults(folder, cells, made), problems


def _shared(cell: Cell) -> str:
    config = {name: value for name, value in cell.config.items() if name != "hyperparameters"}
    return json.dumps(config, sort_keys=True)


def _provenance(path: Path) -> str:
    content = json.loads(path.read_text())
    versions, device = content.get("versions", {}), content.get("device", {})
    software = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return f"{device.get('kind')}, {device.get('cpus')} CPU cores; {software}"

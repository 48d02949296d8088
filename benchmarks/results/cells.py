"""Cells: one method trained with one seed, kept as one JSON file each.

A finished cell is never trained twice with the same configuration, and never taken for another:
the file holds the full configuration, and a run uses it again only where that is equal.
"""

import importlib.metadata
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from benchmarks.errors import InterruptedRunError, UserError
from benchmarks.train.problem import Metric
from benchmarks.train.training import Curves, Timing
from benchmarks.writing import writable, write

Config = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A learning rate and hyper-parameters that were tried with the first seed."""

    learning_rate: float
    validation: float
    """The best mean of the metrics on the validation split."""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    """Those that were searched."""


@dataclass(frozen=True)
class Cell:
    """One method trained with one seed: ``p`` epochs, ``t`` tasks, ``m`` metrics."""

    method: str
    """Its name, with hyper-parameters in brackets where these are not the defaults."""
    seed: int
    config: Config
    trials: tuple[Trial, ...]
    """What the learning rate, or the hyper-parameters, were chosen from; the same for all seeds."""
    learning_rate: float
    epoch: int
    """The epoch reported, the best on the validation split; 0 if none gave finite numbers."""
    test: Float[np.ndarray, " m"]
    """The metrics on the test split after that epoch."""
    test_loss: Float[np.ndarray, " t"]
    curves: Curves
    timing: Timing
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """The hyper-parameters that were chosen, where they were searched."""

    @property
    def suite(self) -> str:
        """Name of the suite."""
        return str(self.config["suite"])

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks."""
        return list(self.config["tasks"])

    @property
    def metrics(self) -> list[Metric]:
        """What the metrics are."""
        return [Metric(**metric) for metric in self.config["metrics"]]


class Store:
    """A folder of cells, ``<method>-seed<seed>.json``."""

    def __init__(self, folder: Path) -> None:
        self.folder = writable(folder)

    def path(self, method: str, seed: int) -> Path:
        """Where a cell is, or goes."""
        return self.folder / f"{method}-seed{seed}.json"

    def discard(self, cells: Mapping[str, Iterable[int]]) -> None:
        """Remove these seeds of these methods where they are, and the methods' checkpoints."""
        for method, seeds in cells.items():
            self.discard_unfinished(method)
            for seed in seeds:
                self.path(method, seed).unlink(missing_ok=True)

    def unfinished(self, method: str) -> Path:
        """Where checkpoints of its unfinished trainings go, so that rows may be trained apart."""
        return self.folder / "unfinished" / method

    def discard_unfinished(self, method: str) -> None:
        """Remove its checkpoints."""
        folder = self.unfinished(method)
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # It is not there, or there are others.
            folder.parent.rmdir()

    def save(self, cell: Cell) -> None:
        """Write the file whole or not at all."""
        content = {
            "method": cell.method,
            "seed": cell.seed,
            "config": cell.config,
            **provenance(),
            "timing": cell.timing._asdict(),
            "trials": [
                {
                    "learning_rate": t.learning_rate,
                    "validation": plain(t.validation),
                    **({"hyperparameters": t.hyperparameters} if t.hyperparameters else {}),
                }
                for t in cell.trials
            ],
            "learning_rate": plain(cell.learning_rate),
            **({"chosen": cell.chosen} if cell.chosen else {}),
            "epoch": cell.epoch,
            "test": plain(cell.test.tolist()),
            "test_loss": plain(cell.test_loss.tolist()),
            "curves": {
                k: None if v is None else plain(v.tolist(), digits=4)
                for k, v in cell.curves._asdict().items()
            },
        }
        write(self.path(cell.method, cell.seed), json.dumps(content, allow_nan=False) + "\n")

    def find(self, method: str, seeds: Iterable[int], config: Config) -> dict[int, Cell]:
        """The finished cells with this configuration, by seed."""
        found = {seed: self.load(method, seed, config) for seed in seeds}
        return {seed: cell for seed, cell in found.items() if cell is not None}

    def interrupted(
        self, found: Mapping[str, Mapping[int, Cell]], asked: int
    ) -> InterruptedRunError:
        """What to say after Ctrl-C, of so many cells that were asked for."""
        return InterruptedRunError(
            f"interrupted: {sum(map(len, found.values()))} of {asked} cells are kept in "
            f"{self.folder}; the same command (without --fresh) goes on from there"
        )

    def load(self, method: str, seed: int, config: Config) -> Cell | None:
        """The finished cell, or None where there is none with this configuration."""
        path = self.path(method, seed)
        if not path.exists():
            return None
        try:
            cell = read_cell(path)
            if (cell.method, cell.seed) != (method, seed):
                raise UserError(
                    f"{path}: not a finished cell (it is of {cell.method}, seed {cell.seed})"
                )
        except UserError as error:
            raise UserError(f"{error}; remove it or pass --fresh") from error
        return cell if cell.config == config else None


def untrained_cell(
    label: str,
    config: Config,
    seconds: float,
    validation: Float[np.ndarray, " m"],
    test: Float[np.ndarray, " m"],
    losses: tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]],
) -> Cell:
    """The cell of what has neither epochs nor a learning rate, with its losses on both splits."""
    nothing = np.full((1, len(losses[0])), np.nan)
    return Cell(
        method=label,
        seed=0,
        config=config,
        trials=(),
        learning_rate=np.nan,
        epoch=1,
        test=test,
        test_loss=losses[1],
        curves=Curves(nothing, losses[0][None], None, validation[None], None, None),
        timing=Timing(seconds, None),
    )


def read_cell(path: Path) -> Cell:
    """The finished cell in a file, or an error that names the file."""
    try:
        content = json.loads(path.read_text())
        cell = Cell(
            method=str(content["method"]),
            seed=int(content["seed"]),
            config=dict(content["config"]),
            trials=tuple(
                Trial(
                    float(t["learning_rate"]),
                    _number(t["validation"]),
                    dict(t.get("hyperparameters", {})),
                )
                for t in content["trials"]
            ),
            learning_rate=_number(content["learning_rate"]),
            epoch=int(content["epoch"]),
            test=_numbers(content["test"]),
            test_loss=_numbers(content["test_loss"]),
            curves=Curves(**{name: _curve(content["curves"][name]) for name in Curves._fields}),
            timing=_timing(content["timing"]),
            chosen=dict(content.get("chosen", {})),
        )
        epochs, (tasks, metrics) = len(cell.curves.loss), (len(cell.tasks), len(cell.metrics))
        if cell.curves.loss.shape != (epochs, tasks) or len(cell.test_loss) != tasks:
            raise ValueError("its losses have the wrong length")
        if cell.curves.validation.shape != (epochs, metrics) or len(cell.test) != metrics:
            raise ValueError("its metrics have the wrong length")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path}: not a finished cell ({reason})") from error
    except RecursionError as error:
        raise UserError(f"{path}: not a finished cell (nested too deeply)") from error
    return cell


def read_arrays(
    path: Path, names: Iterable[str], config: Config
) -> dict[str, Float[np.ndarray, "..."]] | None:
    """The arrays that stand beside a configuration in a file; None where it is not this one."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        arrays = {name: _numbers(content.pop(name)) for name in names}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path}: not a finished file; remove it or pass --fresh") from error
    return arrays if content == config else None


def as_read(config: Mapping[str, Any]) -> Config:
    """A configuration as it reads back from a file: tuples are lists there."""
    return dict(json.loads(json.dumps(config)))


def plain(values: Any, digits: int = 6) -> Any:
    """Nested lists of rounded floats; JSON has no NaN, so that one becomes null."""
    if isinstance(values, list):
        return [plain(value, digits) for value in values]
    return float(f"{values:.{digits}g}") if math.isfinite(values) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _numbers(values: Any) -> Float[np.ndarray, "..."]:
    return np.asarray(values, float)


def _timing(content: Mapping[str, Any]) -> Timing:
    pace = content["seconds_per_step"]
    return Timing(float(content["first_epoch_seconds"]), None if pace is None else float(pace))


def _curve(values: Any) -> Any:
    return None if values is None else _numbers(values)


def provenance() -> dict[str, Any]:
    """What made a file: versions and device."""
    packages = ("jax", "optax", "flax", "mtl_optax")
    device = jax.devices()[0]
    return {
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "cpus": os.cpu_count(),
        },
    }

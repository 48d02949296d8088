"""Cells: one method trained with one seed, kept as one JSON file each.

A finished cell is never trained twice with the same configuration, and never taken for another:
the file holds the full configuration, and a run uses it again only where that is equal.
"""

import importlib.metadata
import inspect
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

import mtl_optax as mtl
from benchmarks.errors import InterruptedRunError, UserError
from benchmarks.training import BASELINES, Curves, Problem, Timing, recipe, train

Config = dict[str, Any]

POINTS = 25  # along each curve


@dataclass(frozen=True)
class Cell:
    """One method trained with one seed, ``p`` points recorded on ``t`` tasks."""

    method: str
    seed: int
    config: Config
    step: list[int]
    """The steps after which a point was recorded."""
    curves: Curves
    test: Float[np.ndarray, " t"]
    """Score of each task on the test split after the last step."""
    timing: Timing


class Store:
    """A folder of cells, ``<method>-seed<seed>.json``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out {folder}: cannot write there (it is a file)")
        probe = folder / ".writable"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"--out {folder}: cannot write there ({error.strerror})") from error

    def path(self, method: str, seed: int) -> Path:
        """Where a cell is, or goes."""
        return self.folder / f"{method}-seed{seed}.json"

    def discard(self, method: str, seed: int) -> None:
        """Remove a cell, if there is one."""
        self.path(method, seed).unlink(missing_ok=True)

    def save(self, cell: Cell) -> None:
        """Write the file whole or not at all."""
        curves = cell.curves._asdict()
        content = {
            "method": cell.method,
            "seed": cell.seed,
            "config": cell.config,
            "versions": _versions(),
            "device": _device(),
            "timing": cell.timing._asdict(),
            "test": _plain(cell.test.tolist()),
            "step": cell.step,
            "curves": {k: None if v is None else _plain(v.tolist()) for k, v in curves.items()},
        }
        path = self.path(cell.method, cell.seed)
        unfinished = path.with_suffix(".tmp")
        try:
            unfinished.write_text(json.dumps(content, allow_nan=False) + "\n")
            os.replace(unfinished, path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error

    def load(self, method: str, seed: int, config: Config) -> Cell | None:
        """The finished cell, or None where there is none with this configuration."""
        path = self.path(method, seed)
        try:
            content = json.loads(path.read_text())
            if (content["method"], content["seed"]) != (method, seed):
                raise ValueError(f"it is of {content['method']}, seed {content['seed']}")
            if content["config"] != config:
                return None
            curves = Curves(*(_array(content["curves"][name]) for name in Curves._fields))
            cell = Cell(
                method=method,
                seed=seed,
                config=config,
                step=[int(step) for step in content["step"]],
                curves=curves,
                test=np.asarray(content["test"], float),
                timing=Timing(**content["timing"]),
            )
            if curves.loss.shape != (len(cell.step), len(cell.test)):
                raise ValueError("its curves have the wrong length")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise UserError(
                f"{path}: not a finished cell ({reason}); remove it or pass --fresh"
            ) from error
        return cell


def run_cells(
    problem: Problem,
    store: Store,
    *,
    methods: Sequence[str],
    seeds: int,
    steps: int,
    learning_rate: float,
    on_plan: Callable[[int, int], None] = lambda kept, steps: None,
    on_method: Callable[[str], None] = lambda method: None,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> dict[str, list[Cell]]:
    """Train the cells that are not in ``store`` yet; every method's cells, in order of seed.

    Args:
        problem: what to train on.
        store: where finished cells are, and go.
        methods: baselines and methods of the registry.
        seeds: how many, counted from 0; those of one method train at once.
        steps: of each training.
        learning_rate: of Adam, for every method.
        on_plan: called once with the number of cells found and of steps to be done.
        on_method: called with the name of a method whose training begins.
        on_steps: called with the number of steps just done.
    """
    configs = {
        method: _config(problem, method, steps=steps, learning_rate=learning_rate)
        for method in methods
    }
    found = {
        (method, seed): store.load(method, seed, configs[method])
        for method in methods
        for seed in range(seeds)
    }
    finished = {key: cell for key, cell in found.items() if cell is not None}
    missing = {
        method: [seed for seed in range(seeds) if (method, seed) not in finished]
        for method in methods
    }
    on_plan(len(finished), steps * sum(bool(todo) for todo in missing.values()))
    try:
        for method, todo in missing.items():
            if not todo:
                continue
            on_method(method)
            run = train(
                recipe(method, problem, learning_rate),
                todo,
                steps=steps,
                points=POINTS,
                on_steps=on_steps,
            )
            for row, seed in enumerate(todo):
                curves = jax.tree.map(lambda curve, row=row: curve[row], run.curves)
                cell = Cell(
                    method, seed, configs[method], run.step, curves, run.test[row], run.timing
                )
                store.save(cell)
                finished[method, seed] = cell
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"interrupted: {len(finished)} of {len(found)} cells are kept in {store.folder}; "
            "the same command (without --fresh) goes on from there"
        ) from None
    return {method: [finished[method, seed] for seed in range(seeds)] for method in methods}


def _config(problem: Problem, method: str, *, steps: int, learning_rate: float) -> Config:
    """Everything that decides a cell's numbers, apart from its seed and the code itself."""
    config = {
        **problem.config,
        "optimizer": "adam",
        "learning_rate": learning_rate,
        "steps": steps,
        "points": POINTS,
        "hyperparameters": {} if method in BASELINES else _defaults(method),
    }
    # As it reads back from a file: tuples are lists there.
    return dict(json.loads(json.dumps(config)))


def _defaults(method: str) -> Config:
    """The hyper-parameters of a method that a file can hold, at the library's defaults."""
    parameters = inspect.signature(mtl.method_info(method).factory).parameters.values()
    return {
        p.name: p.default for p in parameters if isinstance(p.default, bool | int | float | str)
    }


def _plain(values: Any) -> Any:
    """Nested lists of floats in six digits; JSON has no NaN, so that one becomes null."""
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return float(f"{values:.6g}") if math.isfinite(values) else None


def _array(values: Any) -> Any:
    return None if values is None else np.asarray(values, float)


def _versions() -> Mapping[str, str]:
    packages = ("jax", "optax", "flax", "mtl_optax")
    return {package: importlib.metadata.version(package) for package in packages}


def _device() -> Mapping[str, Any]:
    device = jax.devices()[0]
    return {"platform": device.platform, "kind": device.device_kind, "cpus": os.cpu_count()}

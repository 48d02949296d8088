"""The numbers of the table, against numbers worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.cells import Cell
from benchmarks.pictures import draw
from benchmarks.report import change, step_time, table
from benchmarks.training import Curves, Timing
from tests.benchmarks.problems import toy_problem


def cell(method: str, seed: int, test: list[float], pace: float = 0.01, at_once: int = 2) -> Cell:
    return Cell(
        method=method,
        seed=seed,
        config={},
        step=[1, 2],
        curves=Curves(
            loss=np.ones((2, 2)),
            validation=np.array([[0.1, 0.1], test]),
            weights=np.array([[0.5, 0.5], [0.9, 0.1]]) if method == "pcgrad" else None,
            cosine=None if method == "single_task" else np.array([0.5, -0.5]),
        ),
        test=np.array(test),
        timing=Timing(1.0, pace, at_once),
    )


CELLS = {
    "single_task": [cell("single_task", 0, [0.8, 0.5]), cell("single_task", 1, [0.8, 0.5])],
    "equal_weighting": [cell("equal_weighting", s, [0.4, 0.5]) for s in (0, 1)],
    "pcgrad": [cell("pcgrad", 0, [0.8, 0.6], 0.02), cell("pcgrad", 1, [0.4, 0.5], 0.02)],
}


def test_change_is_relative_paired_and_a_mean_over_tasks() -> None:
    ours = np.array([[88.0, 45.0], [80.0, 55.0]])
    reference = np.array([[80.0, 50.0], [80.0, 50.0]])
    np.testing.assert_allclose(change(ours, reference), [0.0, 5.0])


def test_time_is_compared_with_as_many_seeds_at_once() -> None:
    assert step_time(CELLS["pcgrad"], CELLS["equal_weighting"]) == pytest.approx(2)
    alone = [cell("pcgrad", 0, [0.5, 0.5], at_once=1)]
    assert step_time(alone, CELLS["equal_weighting"]) is None


def test_table() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table(toy_problem(), CELLS))
    rows = {
        line.split()[0]: line.split()[1:] for line in capture.get().splitlines() if line.split()
    }
    expected = {
        "single_task": "80.0 ± 0.0 50.0 ± 0.0 65.0 ± 0.0 – 1.00x",
        "equal_weighting": "40.0 ± 0.0 50.0 ± 0.0 45.0 ± 0.0 -25.0 ± 0.0 1.00x",
        "pcgrad": "60.0 ± 28.3 55.0 ± 7.1 57.5 ± 17.7 -7.5 ± 24.7 2.00x",
    }
    for method, cells in expected.items():
        assert rows[method] == cells.split()


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("methods", [[], ["pcgrad"]])
def test_pictures(tmp_path: Path, seeds: int, methods: list[str]) -> None:
    names = ["single_task", "equal_weighting", *methods]
    draw(toy_problem(), {name: CELLS[name][:seeds] for name in names}, tmp_path)
    expected = {"fit.png", "curves.png", "cosine.png"} | ({"weights.png"} if methods else set())
    assert {path.name for path in tmp_path.iterdir()} == expected
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")

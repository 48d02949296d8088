"""Cells: kept whole, used again only where they are the same, never lost."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cells import Cell, Store, run_cells
from benchmarks.errors import UserError
from benchmarks.training import Curves, Timing
from tests.benchmarks.problems import toy_problem

CELL = Cell(
    method="pcgrad",
    seed=1,
    config={"suite": "toy", "steps": 4},
    step=[2, 4],
    curves=Curves(
        loss=np.array([[1.0, 2.0], [np.nan, np.inf]]),
        validation=np.array([[0.1, 0.2], [0.3, 0.4]]),
        weights=None,
        cosine=np.array([0.5, -0.5]),
    ),
    test=np.array([0.5, 0.25]),
    timing=Timing(1.0, 0.01, 3),
)


def run(folder: Path, **changes):
    """Train two methods on the toy problem; also how often training began."""
    options = {"methods": ["equal_weighting", "pcgrad"], "seeds": 2, "steps": 4} | changes
    begun = []
    result = run_cells(
        toy_problem(),
        Store(folder),
        learning_rate=options.pop("learning_rate", 0.1),
        on_method=begun.append,
        **options,
    )
    return result, begun


def test_a_cell_reads_back_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(CELL)
    read = store.load("pcgrad", 1, CELL.config)
    # JSON has neither NaN nor infinity: what is not finite reads back as NaN.
    np.testing.assert_array_equal(read.curves.loss, [[1, 2], [np.nan, np.nan]])
    np.testing.assert_array_equal(read.curves.validation, CELL.curves.validation)
    np.testing.assert_array_equal(read.curves.cosine, CELL.curves.cosine)
    np.testing.assert_array_equal(read.test, CELL.test)
    assert read.curves.weights is None
    assert (read.step, read.timing, read.config) == (CELL.step, CELL.timing, CELL.config)
    assert [path.name for path in tmp_path.iterdir()] == ["pcgrad-seed1.json"]


def test_a_file_says_all_there_is_to_know(tmp_path: Path) -> None:
    run(tmp_path)
    content = json.loads((tmp_path / "pcgrad-seed0.json").read_text())
    assert content["versions"].keys() == {"jax", "optax", "flax", "mtl_optax"}
    assert content["device"]["platform"] == "cpu"
    assert content["config"]["steps"] == 4
    assert content["config"]["learning_rate"] == 0.1
    assert content["config"]["hyperparameters"]["key"] == 0


def test_another_configuration_is_another_cell(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(CELL)
    assert store.load("pcgrad", 1, {**CELL.config, "steps": 5}) is None
    assert store.load("pcgrad", 0, CELL.config) is None


def test_a_save_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.save(CELL)
    before = store.path("pcgrad", 1).read_text()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left"):
        store.save(dataclasses.replace(CELL, step=[3, 4]))
    assert store.path("pcgrad", 1).read_text() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"step": [2, 4]', '"step": [2]'),
        lambda text: text.replace('"loss": [', '"lost": ['),
        lambda text: text.replace('"pcgrad"', '"mgda"'),
        lambda text: text.replace('"seed": 1', '"seed": 2'),
        lambda text: text.replace('"test": [', '"test": ["a", '),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage) -> None:
    store = Store(tmp_path)
    store.save(CELL)
    path = store.path("pcgrad", 1)
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=r"pcgrad-seed1\.json: not a finished cell .*--fresh") as e:
        store.load("pcgrad", 1, CELL.config)
    assert "\n" not in str(e.value)


def test_finished_cells_are_used_again(tmp_path: Path) -> None:
    first, begun = run(tmp_path)
    assert begun == ["equal_weighting", "pcgrad"]
    second, begun = run(tmp_path)
    assert begun == []
    for method, group in first.items():
        for seed, cell in enumerate(group):
            assert (cell.method, cell.seed) == (method, seed)
            np.testing.assert_allclose(
                second[method][seed].curves.loss, cell.curves.loss, rtol=1e-5
            )


def test_only_missing_seeds_are_trained(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "pcgrad-seed1.json").unlink()
    before = (tmp_path / "pcgrad-seed0.json").read_bytes()
    result, begun = run(tmp_path)
    assert begun == ["pcgrad"]
    assert result["pcgrad"][1].timing.seeds_at_once == 1
    assert (tmp_path / "pcgrad-seed0.json").read_bytes() == before

"""Cells: kept whole, used again only where they are the same, never lost."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks.errors import UserError
from benchmarks.results.cells import Cell, Store, Trial, as_read
from benchmarks.train.training import Curves, Timing
from tests.benchmarks.problems import METRICS

CELL = Cell(
    method="pcgrad",
    seed=1,
    config=as_read(
        {
            "suite": "toy",
            "tasks": ["sum", "first"],
            "metrics": [metric._asdict() for metric in METRICS],
            "epochs": 2,
        }
    ),
    trials=(Trial(0.1, 20.0), Trial(0.2, -np.inf)),
    learning_rate=0.1,
    epoch=2,
    test=np.array([0.123456, 0.25]),
    test_loss=np.array([1.5, 0.75]),
    curves=Curves(
        loss=np.array([[1.0, 2.0], [np.nan, np.inf]]),
        validation_loss=np.array([[1.0, 2.0], [3.0, 4.0]]),
        query_loss=None,
        validation=np.array([[0.1, 0.2], [0.3, 0.4]]),
        weights=None,
        cosine=np.array([0.5, -0.5]),
    ),
    timing=Timing(1.0, 0.01),
)


def test_a_cell_reads_back_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(CELL)
    read = store.load("pcgrad", 1, CELL.config)
    # JSON has neither NaN nor infinity: what is not finite reads back as NaN.
    np.testing.assert_array_equal(read.curves.loss, [[1, 2], [np.nan, np.nan]])
    for name in ("validation", "validation_loss", "cosine"):
        np.testing.assert_array_equal(getattr(read.curves, name), getattr(CELL.curves, name))
    np.testing.assert_array_equal(read.test, CELL.test)
    np.testing.assert_array_equal(read.test_loss, CELL.test_loss)
    assert read.curves.weights is None
    assert read.curves.query_loss is None
    assert (read.epoch, read.timing, read.config) == (CELL.epoch, CELL.timing, CELL.config)
    assert read.trials[0] == CELL.trials[0]
    assert np.isnan(read.trials[1].validation)
    assert read.metrics == list(METRICS)
    assert [path.name for path in tmp_path.iterdir()] == ["pcgrad-seed1.json"]


def test_what_was_searched_reads_back(tmp_path: Path) -> None:
    trials = (Trial(0.1, 20.0, {"mix": 0.3}), Trial(0.1, 10.0, {"rho": None}))
    cell = dataclasses.replace(CELL, trials=trials, chosen={"mix": 0.3})
    Store(tmp_path).save(cell)
    read = Store(tmp_path).load("pcgrad", 1, CELL.config)
    assert (read.trials, read.chosen) == (trials, {"mix": 0.3})


def test_another_configuration_is_another_cell(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(CELL)
    assert store.load("pcgrad", 1, {**CELL.config, "epochs": 5}) is None
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
        store.save(dataclasses.replace(CELL, epoch=1))
    assert store.path("pcgrad", 1).read_text() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"loss": [[1.0, 2.0], ', '"loss": ['),
        lambda text: text.replace('"loss": [', '"lost": ['),
        lambda text: text.replace('"pcgrad"', '"mgda"'),
        lambda text: text.replace('"seed": 1', '"seed": 2'),
        lambda text: text.replace('"test": [', '"test": ["a", '),
        lambda text: text.replace('"test": [', '"test": [1.0, '),
        lambda text: text.replace('"tasks": [', '"tasks": ["more", '),
        lambda text: text.replace('"counts": true', '"count": true'),
        lambda text: text.replace('"epoch": ', '"chosen": "mix", "epoch": '),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage) -> None:
    store = Store(tmp_path)
    store.save(CELL)
    path = store.path("pcgrad", 1)
    damaged = damage(path.read_text())
    assert damaged != path.read_text()
    path.write_text(damaged)
    with pytest.raises(UserError, match=r"pcgrad-seed1\.json: not a finished cell .*--fresh") as e:
        store.load("pcgrad", 1, CELL.config)
    assert "\n" not in str(e.value)

"""The protocol: what is chosen by which split, what is kept, and how a run goes on."""

import dataclasses
import functools
import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.errors import InterruptedRunError, UserError
from benchmarks.results.cells import Store
from benchmarks.train.experiment import configuration, run_cells
from benchmarks.train.problem import Baseline
from benchmarks.train.protocol import Progress, Protocol, Row
from benchmarks.train.recipes import recipe
from benchmarks.train.training import Member, evaluate, goodness, train
from tests.benchmarks.problems import painted_problem, separate_problem, toy_problem

PROTOCOL = Protocol(seeds=3, epochs=4, learning_rates=(1e-3, 0.1, 1e3))


def run(folder: Path, *methods: str, problem=None, protocol=PROTOCOL, **options):
    """Train on the toy problem; the cells, and which rows were trained."""
    begun = []
    rows = [Row(method) for method in methods or ("equal_weighting", "pcgrad")]
    progress = Progress(row=begun.append)
    cells = run_cells(
        problem or toy_problem(), Store(folder), rows, protocol, progress=progress, **options
    )
    return cells, begun


def test_the_first_seed_tries_the_grid_and_the_best_rate_serves_all(tmp_path):
    cells, _ = run(tmp_path, "pcgrad")
    problem = toy_problem()
    for seed, cell in enumerate(cells["pcgrad"]):
        assert cell.seed == seed
        assert cell.learning_rate == 0.1
        assert [trial.learning_rate for trial in cell.trials] == [1e-3, 0.1, 1e3]
    assert len({tuple(cell.test_loss) for cell in cells["pcgrad"]}) == 3
    tried = {
        rate: train(recipe("pcgrad", problem), [Member(0, rate)], epochs=4).curves.validation
        for rate in PROTOCOL.learning_rates
    }
    for trial in cells["pcgrad"][0].trials:
        best = tried[trial.learning_rate].mean(axis=-1).max()
        np.testing.assert_allclose(trial.validation, best, rtol=1e-4)


def test_a_grid_is_widened_until_its_best_rate_is_inside(tmp_path):
    """Cells whose rate was the best at an end of the grid are no longer what is asked for."""
    narrow = Protocol(seeds=2, epochs=4, learning_rates=(1e-3, 1e-2, 1e-1))
    wide = dataclasses.replace(narrow, learning_rates=(1e-4, 1e-3, 1e-2), widened=2)
    problem, more = toy_problem(), []
    reached = {
        rate: goodness(
            problem,
            train(recipe("pcgrad", problem), [Member(0, rate)], epochs=4).curves.validation,
        ).max()
        for rate in (1e-4, 1e-3, 1e-2, 0.1, 1.0)
    }
    assert max(reached, key=lambda rate: reached[rate]) == 0.1
    closed = dataclasses.replace(wide, widened=0)
    at_the_end, begun = run(tmp_path, "pcgrad", protocol=closed)
    assert [cell.learning_rate for cell in at_the_end["pcgrad"]] == [1e-2, 1e-2]
    progress = Progress(row=begun.append, more=more.append)
    rows = [Row("pcgrad")]
    for _ in range(2):
        cells = run_cells(problem, Store(tmp_path), rows, wide, progress=progress)["pcgrad"]
    assert begun == ["pcgrad", "pcgrad"]  # Not a third time.
    assert more == [4, 4]
    for cell in cells:
        assert cell.learning_rate == 0.1
        assert [trial.learning_rate for trial in cell.trials] == [1e-4, 1e-3, 1e-2, 0.1, 1.0]
        wanted = [reached[trial.learning_rate] for trial in cell.trials]
        np.testing.assert_allclose([trial.validation for trial in cell.trials], wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("tried", "further"),
    [
        ((1.0, 2.0, 3.0), 16.0),
        ((3.0, 2.0, 1.0), 1.0),
        ((1.0, 3.0, 2.0), None),
        ((1.0, 2.0, 3.0, 4.0), 32.0),
        ((1.0, 2.0, 3.0, 4.0, 5.0), None),
        ((-np.inf, -np.inf, -np.inf), 1.0),
    ],
)
def test_the_next_rate_is_one_ratio_beyond_the_end(tried, further):
    """Beyond either, but none where the best is inside, or where enough were tried."""
    protocol = Protocol(seeds=1, epochs=1, learning_rates=(2.0, 4.0, 8.0), widened=2)
    rates = [2.0 * 2**number for number in range(len(tried))]
    assert protocol.next_rate(dict(zip(rates, tried, strict=True))) == further
    few = ({"learning_rates": (2.0, 4.0)}, {"learning_rates": (2.0, 4.0, 4.0)})
    for other in ({"widened": 0}, *few):
        closed = dataclasses.replace(protocol, **other)
        assert closed.next_rate(dict(zip(rates[:3], tried, strict=False))) is None


def test_a_rate_given_twice_is_no_reason_to_try_others():
    for given, tried in (((2.0, 2.0, 4.0), {2.0: 1.0, 4.0: 2.0}), ((2.0,) * 3, {2.0: 1.0})):
        protocol = Protocol(seeds=1, epochs=1, learning_rates=given)
        assert protocol.next_rate(tried) is None
    several = Protocol(seeds=1, epochs=1, learning_rates=(2.0, 2.0, 4.0, 8.0))
    assert several.next_rate({2.0: 1.0, 4.0: 2.0, 8.0: 3.0}) is None


C = tuple({"c": c} for c in (0.0, 0.7, 1.5))
SEARCH = [Row("equal_weighting"), Row("cagrad", searched=C)]


def test_a_search_tries_as_much_at_the_rate_of_equal_weighting(tmp_path):
    """And the best on the validation split serves all seeds, under the method's plain name."""
    planned, problem = [], toy_problem()
    progress = Progress(plan=lambda kept, epochs: planned.append((kept, epochs)))
    cells = run_cells(problem, Store(tmp_path), SEARCH, PROTOCOL, progress=progress)
    assert planned == [(0, 2 * 4 * (3 + 2))]  # Epochs of both rows: three trials, two more seeds.
    rate = cells["equal_weighting"][0].learning_rate
    assert rate == 0.1
    runs = [train(recipe("cagrad", problem, c), [Member(0, rate)], epochs=4) for c in C]
    wanted = [run.curves.validation.mean(axis=-1).max() for run in runs]
    best = int(np.argmax(wanted))
    assert best == 2
    for seed, cell in enumerate(cells["cagrad"]):
        assert (cell.seed, cell.learning_rate, cell.chosen) == (seed, rate, {"c": 1.5})
        assert [trial.hyperparameters for trial in cell.trials] == [*C]
        assert {trial.learning_rate for trial in cell.trials} == {rate}
        tried = [trial.validation for trial in cell.trials]
        np.testing.assert_allclose(tried, wanted, rtol=1e-4)
        alone = train(recipe("cagrad", problem, C[best]), [Member(seed, rate)], epochs=4)
        np.testing.assert_allclose(cell.curves.loss, alone.curves.loss[0], rtol=1e-4)
    content = json.loads((tmp_path / "cagrad-seed1.json").read_text())
    assert content["chosen"] == {"c": 1.5}
    assert content["config"]["searched"] == [*C]
    assert content["config"]["hyperparameters"]["c"] == 0.5
    plain = json.loads((tmp_path / "equal_weighting-seed1.json").read_text())
    assert not {"chosen", "searched"} & {*plain, *plain["config"], *plain["trials"][0]}


def test_a_search_goes_on_with_what_was_chosen(tmp_path, monkeypatch):
    """Nothing is tried again for a seed that is missing, and all where other values are asked."""
    first = run_cells(toy_problem(), Store(tmp_path), SEARCH, PROTOCOL)["cagrad"]
    made = []

    def counted(method, problem, given):
        made.append({"method": method, **given})
        return recipe(method, problem, given)

    monkeypatch.setattr("benchmarks.train.experiment.recipe", counted)
    run_cells(toy_problem(), Store(tmp_path), SEARCH, PROTOCOL)
    assert made == []
    (tmp_path / "cagrad-seed1.json").unlink()
    again = run_cells(toy_problem(), Store(tmp_path), SEARCH, PROTOCOL)["cagrad"]
    assert made == [{"method": "cagrad", "c": 1.5}]
    assert again[1].chosen == {"c": 1.5}
    assert again[1].trials == again[0].trials
    np.testing.assert_allclose(again[1].test, first[1].test, rtol=1e-4)
    made.clear()
    other = [SEARCH[0], Row("cagrad", searched=C[:2])]
    cells = run_cells(toy_problem(), Store(tmp_path), other, PROTOCOL)["cagrad"]
    assert [one["c"] for one in made] == [0.0, 0.7]
    assert [len(cell.trials) for cell in cells] == [2, 2, 2]


def test_a_search_at_a_rate_that_equal_weighting_has_left_is_made_again(tmp_path):
    run_cells(toy_problem(), Store(tmp_path), SEARCH, PROTOCOL)
    for seed in range(3):
        path = tmp_path / f"equal_weighting-seed{seed}.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "learning_rate": 1e-3}))
    cells = run_cells(toy_problem(), Store(tmp_path), SEARCH, PROTOCOL)["cagrad"]
    assert {cell.learning_rate for cell in cells} == {1e-3}


def test_the_test_split_has_no_say(tmp_path):
    plain, _ = run(tmp_path / "plain", "pcgrad")
    spoiled = toy_problem(test=1e3 * toy_problem().test)
    other, _ = run(tmp_path / "other", "pcgrad", problem=spoiled)
    for one, two in zip(plain["pcgrad"], other["pcgrad"], strict=True):
        assert (one.learning_rate, one.epoch, one.trials) == (
            two.learning_rate,
            two.epoch,
            two.trials,
        )
        assert not np.allclose(one.test_loss, two.test_loss)


def test_a_training_reports_its_best_epoch():
    """With an absurd learning rate the parameters get worse: the first epoch is the best."""
    problem = toy_problem()
    finished = train(
        recipe("equal_weighting", problem), [Member(0, 3.0), Member(1, 0.05)], epochs=5
    )
    curves = goodness(problem, finished.curves.validation)
    np.testing.assert_array_equal(finished.epoch, curves.argmax(axis=1) + 1)
    np.testing.assert_allclose(finished.best, curves.max(axis=1), rtol=1e-6)
    _, metrics = evaluate(problem, finished.params, problem.validation)
    np.testing.assert_allclose(goodness(problem, metrics), finished.best, rtol=1e-5)


def test_a_training_that_diverges_is_no_ones_choice(tmp_path):
    protocol = Protocol(seeds=1, epochs=2, learning_rates=(1e30, 0.1))
    cells, _ = run(tmp_path, "equal_weighting", protocol=protocol)
    assert cells["equal_weighting"][0].learning_rate == 0.1
    protocol = Protocol(seeds=1, epochs=2, learning_rates=(1e30,))
    cells, _ = run(tmp_path, "equal_weighting", protocol=protocol)
    assert cells["equal_weighting"][0].epoch == 0


def test_a_row_has_its_own_hyperparameters(tmp_path):
    rows = [Row("cagrad", {"c": 0.0}), Row("mean_tasks")]
    protocol = Protocol(seeds=1, epochs=2, learning_rates=(0.1,))
    cells = run_cells(toy_problem(), Store(tmp_path), rows, protocol)
    assert list(cells) == ["cagrad[c=0.0]", "mean_tasks"]
    # With c = 0 CAGrad is the mean.
    np.testing.assert_allclose(
        cells["cagrad[c=0.0]"][0].test, cells["mean_tasks"][0].test, rtol=1e-4
    )
    content = json.loads((tmp_path / "cagrad[c=0.0]-seed0.json").read_text())
    assert content["config"]["hyperparameters"]["c"] == 0.0


def test_a_file_says_all_there_is_to_know(tmp_path):
    run(tmp_path)
    content = json.loads((tmp_path / "pcgrad-seed0.json").read_text())
    assert content["versions"].keys() == {"jax", "optax", "flax", "mtl_optax"}
    assert content["device"]["platform"] == "cpu"
    config = content["config"]
    assert (config["epochs"], config["batch_size"], config["steps_per_epoch"]) == (4, 8, 4)
    assert config["learning_rates"] == [1e-3, 0.1, 1e3]
    assert config["hyperparameters"]["key"] == 0


def test_what_changes_a_training_changes_its_configuration():
    row = Row("uw")
    plain = configuration(toy_problem(), row, PROTOCOL)
    assert configuration(toy_problem(), row, dataclasses.replace(PROTOCOL, seeds=9)) == plain
    for changes in ({"query_fraction": 0.5}, {"batch_size": 4}, {"epoch_rows": 8}):
        assert configuration(toy_problem(**changes), row, PROTOCOL) != plain
    for changes in ({"epochs": 5}, {"learning_rates": (0.1,)}):
        other = dataclasses.replace(PROTOCOL, **changes)
        assert configuration(toy_problem(), row, other) != plain
    assert configuration(toy_problem(), Row("uw", {"factor": 1.0}), PROTOCOL) != plain
    searches = configuration(toy_problem(), Row("uw", searched=({"factor": 1.0},)), PROTOCOL)
    assert searches.pop("searched") == [{"factor": 1.0}]
    assert searches == plain


def test_finished_cells_are_used_again(tmp_path):
    first, begun = run(tmp_path)
    assert begun == ["equal_weighting", "pcgrad"]
    second, begun = run(tmp_path)
    assert begun == []
    for method, group in first.items():
        for cell, again in zip(group, second[method], strict=True):
            assert (cell.method, cell.seed) == (again.method, again.seed)
            np.testing.assert_allclose(again.test, cell.test, rtol=1e-5)
            np.testing.assert_allclose(again.curves.loss, cell.curves.loss, rtol=5e-4)


def test_a_baseline_is_a_cell_of_one_seed(tmp_path):
    """Scored on the splits of the networks, fitted once, and kept beside them."""
    fitted = []

    def answers():
        fitted.append(1)
        validation, test = toy_problem().validation, toy_problem().test
        return np.stack([validation.sum(axis=1)] * 2, axis=1), np.stack([test[:, 0]] * 2, axis=1)

    problem = toy_problem(baseline=Baseline("guess", answers))
    for _ in range(2):
        cells, _ = run(tmp_path, "baseline", "uw", problem=problem)
        (cell,) = cells["baseline"]
        first, second = problem.test.T
        wanted = [100 * np.exp(-np.mean(x**2)) for x in (second, first)]
        np.testing.assert_allclose(cell.test, wanted, rtol=1e-5)
        assert cell.curves.validation[0, 0] == pytest.approx(100)
        assert cell.config["hyperparameters"] == {"model": "guess"}
        assert len(cells["uw"]) == 3
    assert len(fitted) == 1
    other = dataclasses.replace(PROTOCOL, epochs=2)
    run(tmp_path, "baseline", problem=problem, protocol=other)
    assert len(fitted) == 2


def test_only_missing_seeds_are_trained(tmp_path):
    run(tmp_path)
    names = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    lost = json.loads(names.pop("pcgrad-seed1.json"))
    (tmp_path / "pcgrad-seed1.json").unlink()
    _, begun = run(tmp_path)
    assert begun == ["pcgrad"]
    for name, content in names.items():
        assert (tmp_path / name).read_bytes() == content
    again = json.loads((tmp_path / "pcgrad-seed1.json").read_text())
    np.testing.assert_allclose(again["test"], lost["test"], rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "make"),
    [
        *itertools.product(
            ["pcgrad", "meta_weighting", "single_task", "uw"], [toy_problem, separate_problem]
        ),
        ("single_task", functools.partial(painted_problem, on_host=True)),
    ],
)
def test_a_training_goes_on_bit_for_bit(tmp_path, method, make):
    """Interrupted in the middle of every training, and taken up again from its checkpoint."""
    whole, _ = run(tmp_path / "whole", method, problem=make())
    calls = 0

    def interrupt(members: int) -> None:
        nonlocal calls
        calls += 1
        if calls in (2, 5):
            raise KeyboardInterrupt

    folder = tmp_path / "parts"
    for _ in range(2):
        with pytest.raises(InterruptedRunError, match=r"of 3 cells are kept.*goes on from there"):
            run_cells(
                make(),
                Store(folder),
                [Row(method)],
                PROTOCOL,
                checkpoint_every=0.0,
                progress=Progress(epoch=interrupt),
            )
        assert (folder / "unfinished" / method).is_dir()
    others = folder / "unfinished" / "another"  # What another program is training meanwhile.
    others.mkdir()
    parts, _ = run(folder, method, problem=make(), checkpoint_every=0.0)
    assert [*(folder / "unfinished").iterdir()] == [others]
    for one, two in zip(whole[method], parts[method], strict=True):
        assert (one.test == two.test).all()
        jax.tree.map(np.testing.assert_array_equal, one.curves, two.curves)


def test_a_checkpoint_that_is_none_is_named(tmp_path, capsys):
    def interrupt(members: int) -> None:
        if list((tmp_path / "unfinished").glob("*/*")):
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        run_cells(
            toy_problem(),
            Store(tmp_path),
            [Row("pcgrad")],
            PROTOCOL,
            checkpoint_every=0.0,
            progress=Progress(epoch=interrupt),
        )
    (kept,) = (tmp_path / "unfinished" / "pcgrad").iterdir()
    for file in kept.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(UserError, match=f"{kept.name}: not a checkpoint.*--fresh"):
        run(tmp_path, "pcgrad")
    Store(tmp_path).discard({"pcgrad": ()})
    assert not (tmp_path / "unfinished").exists()

"""Simple models: what they answer, in which shape, and by which split they are chosen."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from benchmarks.data.digits import Slanted
from benchmarks.data.splits import Splits
from benchmarks.data.tables import Table
from benchmarks.problems import baselines
from benchmarks.problems import scenes as of_scenes
from benchmarks.suites import SUITES, multimnist, ranking, scenes
from tests.benchmarks import small_data

SIZES = Splits(60, 20, 30)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_draws():
    """In whatever order the tests run."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def inputs(width: int) -> Splits:
    return Splits(*(RNG.normal(size=(size, width)) for size in SIZES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    small_data.write_all(folder)
    return folder


@pytest.mark.parametrize(
    "suite", [s for s in SUITES if s.name not in ("digits", "synthetic")], ids=lambda s: s.name
)
def test_every_suites_baseline_answers_what_its_problem_scores(suite, folder, monkeypatch):
    sizes = {"train": 40, "validation": 10, "test": 10, "seed": 0, "side": 18}
    monkeypatch.setitem(multimnist.DATA, "quick", sizes)
    monkeypatch.setitem(ranking.DATA, "quick", {"users": 5, "videos": 8, "shown": 160})
    monkeypatch.setitem(scenes.DATA, "quick", {"train": 8, "validation": 1, "test": 1, "seed": 0})
    monkeypatch.setattr(of_scenes, "FEW", 300)
    problem = suite(data_dir=folder, batch_size=8).problem()
    validation, test = problem.baseline.answers()
    for answers, split in ((validation, problem.validation), (test, problem.test)):
        scores = problem.scores(answers, split)
        assert len(scores) == len(problem.metrics)
        drawn = jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(x.dtype), answers)
        guesses = problem.scores(drawn, split)
        np.testing.assert_array_equal(np.isfinite(scores), np.isfinite(guesses))
        if suite.name in ("topic", "reviews"):  # Their labels follow from their words.
            np.testing.assert_array_equal(scores, 100)


def test_the_validation_split_chooses():
    answers = [(np.array([value]), np.array([-value])) for value in (1.0, 3.0, 2.0)]
    assert baselines.best(answers, lambda found: float(found[0])) == answers[1]


def test_ridge_finds_a_polynomial():
    """Each task by itself, exactly as scikit-learn does on the powers written out."""
    x = inputs(3)
    weights = RNG.normal(size=(2, 9, 4))
    powers = Splits(*(np.concatenate([part, part**2, part**3], axis=1) for part in x))
    y = Splits(*(np.einsum("np,tpd->ntd", part, weights) for part in powers))
    validation, test = baselines.ridge(x, y).answers()
    np.testing.assert_allclose(validation, y.validation, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(test, y.test, rtol=1e-3, atol=1e-3)
    one = Ridge(1e-4).fit(powers.train, y.train[:, 1]).predict(powers.test)
    np.testing.assert_allclose(test[:, 1], one, rtol=1e-9)


def test_trees_see_categories_and_tasks_apart():
    """A label that is whether the category is odd cannot be told by one threshold."""

    def table(size: int) -> Table:
        categories = RNG.integers(0, 8, (size, 1))
        odd = categories[:, 0] % 2
        constant = np.zeros(size)
        numeric = RNG.normal(size=(size, 1))
        labels = [odd, constant, numeric[:, 0] > 0, 50 * odd]
        return Table(numeric, categories, np.stack(labels, axis=1))

    splits = Splits(*(table(4 * size) for size in SIZES))
    _, test = baselines.boosted_tables(splits, [8], [False, False, False, True]).answers()
    assert test.shape == (4 * SIZES.test, 4)
    labels = splits.test.labels
    assert ((test[:, 0] > 0) == labels[:, 0]).all()
    assert (test[:, 1] == 0).all()
    assert np.mean((test[:, 2] > 0) == labels[:, 2]) > 0.95
    assert np.abs(test[:, 3] - labels[:, 3]).mean() < 10


def test_trees_regress_each_target():
    x = inputs(2)
    y = Splits(*(np.stack([part[:, 0] > 0, 100 * (part[:, 1] > 0)], axis=1) * 1.0 for part in x))
    _, test = baselines.boosted_regressions(x, y).answers()
    assert np.abs(test - y.test).mean(axis=0) == pytest.approx([0, 0], abs=5)
    assert np.abs(test[:, 0] - y.test[:, 0]).mean() < 0.1


def test_a_class_without_rows_is_never_the_answer():
    scores = baselines._each_class(np.array([[-2.0, -1.0, -2.5]]), np.array([0, 3, 4]), 6)
    np.testing.assert_array_equal(scores.argsort()[0][-3:], [4, 0, 3])
    binary = baselines._each_class(np.array([-0.5, 0.25]), np.array([1, 2]), 4)
    np.testing.assert_array_equal(binary.argmax(axis=1), [1, 2])


def test_pixels_are_told_apart():
    labels = Splits(*(RNG.integers(0, 3, (size, 2)) for size in SIZES))
    images = Splits(
        *(
            np.eye(3)[both].transpose(0, 2, 1) + 0.01 * RNG.normal(size=(len(both), 3, 2))
            for both in labels
        )
    )
    canvases = Splits(
        *(
            Slanted(pixels, both, both, 30.0 * both)
            for pixels, both in zip(images, labels, strict=True)
        )
    )
    baseline = baselines.support_vectors(canvases, 3, rows=50)
    for found, wanted in zip(baseline.answers(), labels[1:], strict=True):
        np.testing.assert_array_equal(found[:, :2].argmax(axis=-1), wanted)
        assert np.abs(found[:, 2, :2] - 30 * wanted).max() < 5
    assert "of 50 canvases" in baseline.name

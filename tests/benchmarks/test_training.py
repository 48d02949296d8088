"""The training loop: it learns a small set by heart, and compares methods fairly."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks.digits import digits_problem
from benchmarks.training import EQUAL_WEIGHTING, SINGLE_TASK, recipe, train


@pytest.fixture(scope="module")
def problem():
    """Forty training canvases, which also serve as validation and test split."""
    full = digits_problem(batch_size=20)
    few = jax.tree.map(lambda x: x[:40], full.train)
    return dataclasses.replace(full, train=few, validation=few, test=few, probe=few)


@pytest.mark.parametrize("method", [SINGLE_TASK, "cagrad", "uw", "adatask"])
def test_a_small_set_is_learned_by_heart(problem, method):
    run = train(recipe(method, problem, 1e-2), [0], steps=200, points=2)
    assert np.all(run.test > 0.95)
    assert run.step == [100, 200]
    assert run.curves.loss.shape == (1, 2, 2)


def test_seeds_at_once_equal_seeds_one_by_one(problem):
    together = train(recipe("mgda", problem, 1e-3), [0, 1], steps=5, points=1)
    alone = train(recipe("mgda", problem, 1e-3), [1], steps=5, points=1)
    np.testing.assert_allclose(together.curves.loss[1], alone.curves.loss[0], rtol=1e-4)
    np.testing.assert_allclose(together.curves.weights[1], alone.curves.weights[0], rtol=1e-3)
    assert not np.allclose(together.curves.loss[0], together.curves.loss[1])


def test_the_sum_of_task_gradients_is_equal_weighting(problem):
    """Same seed, same parameters, same batches: the two differ in rounding alone."""
    runs = [
        train(recipe(method, problem, 1e-3), [0], steps=10, points=2)
        for method in (EQUAL_WEIGHTING, "sum_tasks")
    ]
    np.testing.assert_allclose(runs[0].curves.loss, runs[1].curves.loss, rtol=1e-4)


def test_single_task_networks_do_not_touch_each_other(problem):
    """With the other task's labels spoiled, a task's own curve stays as it was."""
    spoiled = dataclasses.replace(
        problem,
        train=problem.train._replace(labels=np.asarray(problem.train.labels) * np.array([[1, 0]])),
    )
    runs = [train(recipe(SINGLE_TASK, p, 1e-3), [0], steps=5, points=1) for p in (problem, spoiled)]
    np.testing.assert_allclose(runs[0].curves.loss[..., 0], runs[1].curves.loss[..., 0], rtol=1e-5)
    assert not np.allclose(runs[0].curves.loss[..., 1], runs[1].curves.loss[..., 1])


def test_the_cosine_is_that_of_the_trunk_gradients(problem):
    run = train(recipe("sum_tasks", problem, 1e-3), [0], steps=1, points=1)
    assert run.curves.cosine.shape == (1, 1)
    assert -1 <= run.curves.cosine[0, 0] <= 1
    assert train(recipe(SINGLE_TASK, problem, 1e-3), [0], steps=1, points=1).curves.cosine is None

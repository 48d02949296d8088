"""The training loop: it learns a small set by heart, and compares methods fairly."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.methods import EQUAL_WEIGHTING, SINGLE_TASK
from benchmarks.suites.digits import Digits
from benchmarks.train import training
from benchmarks.train.problem import mean_present, single_task
from benchmarks.train.recipes import Recipe, recipe
from benchmarks.train.schedules import warm_up_and_cosine
from benchmarks.train.training import Member, evaluate, goodness, train
from tests.benchmarks.problems import Rows, separate_problem, toy_problem


@pytest.fixture(scope="module")
def problem():
    """Forty training canvases, which also serve as validation and test split."""
    full = Digits(batch_size=20).problem()
    few = jax.tree.map(lambda x: x[:40], full.train)
    return dataclasses.replace(full, train=few, validation=few, test=few, epoch_rows=400)


@pytest.mark.parametrize("method", [SINGLE_TASK, "cagrad", "uw", "adatask"])
def test_a_small_set_is_learned_by_heart(problem, method):
    run = train(recipe(method, problem), [Member(0, 1e-2)], epochs=10)
    _, accuracy = evaluate(
        problem if method != SINGLE_TASK else single_task(problem), run.params, problem.test
    )
    assert (accuracy > 95).all()
    assert run.curves.loss.shape == run.curves.validation.shape == (1, 10, 3)


def test_members_at_once_equal_members_one_by_one(problem):
    members = [Member(0, 1e-3), Member(1, 1e-3), Member(1, 1e-2)]
    together = train(recipe("mgda", problem), members, epochs=1)
    for number, member in enumerate(members):
        alone = train(recipe("mgda", problem), [member], epochs=1)
        for name in ("loss", "weights"):
            ours, theirs = (getattr(run.curves, name) for run in (together, alone))
            np.testing.assert_allclose(ours[number], theirs[0], rtol=1e-3)
    assert not np.allclose(together.curves.loss[0], together.curves.loss[1])
    assert not np.allclose(together.curves.loss[1], together.curves.loss[2])


def test_the_sum_of_task_gradients_is_equal_weighting(problem):
    """Same seed, same parameters, same batches: the two differ in rounding alone."""
    runs = [
        train(recipe(method, problem), [Member(0, 1e-3)], epochs=2)
        for method in (EQUAL_WEIGHTING, "sum_tasks")
    ]
    np.testing.assert_allclose(runs[0].curves.loss, runs[1].curves.loss, rtol=1e-3)


@pytest.mark.parametrize("separate", [False, True])
def test_single_task_networks_do_not_touch_each_other(problem, separate):
    """With the other task's targets spoiled, a task's own curve stays as it was."""
    if separate:
        problem = separate_problem()
        targets = problem.train.targets * np.array([[1.0], [-3.0]], np.float32)
        train_set = problem.train._replace(targets=targets)
    else:
        labels = np.asarray(problem.train.labels) * np.array([[1, 0]])
        train_set = problem.train._replace(labels=labels)
    spoiled = dataclasses.replace(problem, train=train_set)
    runs = [train(recipe(SINGLE_TASK, p), [Member(0, 1e-3)], epochs=1) for p in (problem, spoiled)]
    np.testing.assert_allclose(runs[0].curves.loss[..., 0], runs[1].curves.loss[..., 0], rtol=1e-5)
    assert not np.allclose(runs[0].curves.loss[..., 1], runs[1].curves.loss[..., 1])


def test_an_epoch_shows_each_row_once_before_any_comes_again():
    rows = training._shuffled(jax.random.key(0), [0, 3], [10, 7], 6, 4)
    assert rows.shape == (6, 2, 4)
    first, second = np.asarray(rows).swapaxes(0, 1).reshape(2, -1)
    assert sorted(first[:10]) == sorted(first[10:20]) == list(range(10))
    for begin in range(0, 24, 4):
        assert sorted(second[begin : begin + 4]) == [3, 4, 5, 6]
    assert not (first[:10] == first[10:20]).all()


def test_query_batches_come_from_rows_that_train_nothing():
    """The last quarter of the rows is the query split: with NaN there, training is not touched."""
    problem = toy_problem(query_fraction=0.25)
    spoiled = problem.train.copy()
    spoiled[24:] = np.nan
    run = train(
        recipe("meta_weighting", dataclasses.replace(problem, train=spoiled)),
        [Member(0, 0.01)],
        epochs=1,
    )
    # The first step does not yet use the query gradients, later ones are spoiled by them.
    assert np.isnan(run.curves.query_loss).all()
    kept = dataclasses.replace(problem, train=np.concatenate([problem.train[:24]] * 2))
    seen = []

    def spy(rate, params, state, batch, query):
        seen.append((batch, query))
        raise StopIteration

    with pytest.raises(StopIteration):
        train(
            dataclasses.replace(recipe("meta_weighting", kept), update=spy),
            [Member(0, 1.0)],
            epochs=1,
        )
    assert seen[0][0].shape == seen[0][1].shape == (8, 2)


def test_every_epoch_has_an_order_of_its_own():
    """Of epochs of one batch, with parameters that stand still."""
    recipe_of_one_batch = recipe(EQUAL_WEIGHTING, toy_problem(epoch_rows=8))
    losses = train(recipe_of_one_batch, [Member(0, 0.0)], epochs=3).curves.loss[0, :, 0]
    assert len(np.unique(losses)) == 3


def watched(problem, show):
    """A recipe that stands still, and records what ``show`` makes of rate and batch as losses."""

    def update(rate, params, state, batch, query):
        return show(rate, batch), jax.tree.map(jnp.zeros_like, params), state

    return Recipe(problem, lambda params: (), update)


def test_a_schedule_goes_over_the_whole_training():
    """Straight up from 0 to 1: the mean of an epoch is what it is in the middle of the epoch."""
    problem = toy_problem(schedule=lambda done: done)
    run = train(
        watched(problem, lambda rate, batch: jnp.stack([rate, 2 * rate])),
        [Member(0, 0.5), Member(0, 1.0)],
        epochs=4,
    )
    wanted = np.outer(np.array([0.125, 0.375, 0.625, 0.875]), [1, 2])
    np.testing.assert_allclose(run.curves.loss, [0.5 * wanted, wanted], rtol=1e-6)


def test_a_warm_up_is_followed_by_a_cosine():
    factor = warm_up_and_cosine(0.2)
    np.testing.assert_allclose(
        factor(jnp.array([0.0, 0.1, 0.2, 0.4, 0.6, 1.0])),
        [0, 0.5, 1, (1 + np.sqrt(0.5)) / 2, 0.5, 0],
        atol=1e-6,
    )
    np.testing.assert_allclose(warm_up_and_cosine(0.0)(jnp.array([0.0, 0.5])), [1, 0.5], atol=1e-6)


def test_weights_decay_by_the_rate_whatever_the_method():
    """Four steps at half the rate, since the schedule says so."""
    problem = toy_problem(weight_decay=0.5, schedule=lambda done: jnp.full_like(done, 0.5))
    recipe_at_rest = watched(problem, lambda rate, batch: jnp.zeros(2))
    run = train(recipe_at_rest, [Member(3, 0.2)], epochs=1)
    for kept, first in zip(
        jax.tree.leaves(run.params),
        jax.tree.leaves(training._initial(problem, 3)[0]),
        strict=True,
    ):
        np.testing.assert_allclose(kept[0], first * (1 - 0.2 * 0.5 * 0.5) ** 4, rtol=1e-5)


def test_noise_is_new_in_every_step_and_spares_what_is_scored():
    def noise(key, batch):
        return jnp.full_like(batch, jax.random.uniform(key))

    def train_on_noise(seed):
        problem = toy_problem(epoch_rows=8, noise=noise)
        return train(watched(problem, lambda rate, b: b[0]), [Member(seed, 1.0)], epochs=3).curves

    curves, again, other = (train_on_noise(seed) for seed in (0, 0, 1))
    assert len(np.unique(curves.loss[0, :, 0])) == 3
    np.testing.assert_array_equal(curves.loss, again.loss)
    assert not np.isin(other.loss, curves.loss).any()
    quiet = train(
        watched(toy_problem(epoch_rows=8), lambda rate, b: b[0]), [Member(0, 1.0)], epochs=3
    )
    np.testing.assert_array_equal(curves.validation_loss, quiet.curves.validation_loss)


def test_rows_read_together_are_counted_over_all_tasks():
    assert toy_problem().rows_of_each(10) == 10
    assert separate_problem().rows_of_each(10) == 5
    assert separate_problem().rows_of_each(1) == 1


def test_the_mean_is_over_what_is_present():
    rows = Rows(None, None, jnp.array([True, True, False]))
    assert mean_present(jnp.array([1.0, 3.0, 7.0]), rows) == 2
    assert mean_present(jnp.ones(3), rows._replace(present=jnp.zeros(3, bool))) == 0


def test_padding_is_never_read():
    problem = separate_problem()
    finished = [
        train(recipe(method, problem), [Member(0, 0.05)], epochs=40)
        for method in ("equal_weighting", "sum_tasks", "meta_weighting")
    ]
    for run in finished:
        # Padding has targets of a million: one row of it would show.
        assert run.curves.loss.max() < 100
        assert run.curves.validation_loss.max() < 100
    np.testing.assert_allclose(
        finished[0].curves.loss[:, 0], finished[1].curves.loss[:, 0], rtol=1e-3
    )


def test_evaluation_in_chunks_is_evaluation_at_once():
    for problem in (toy_problem(), separate_problem()):
        params = jax.tree.map(lambda p: p[None], problem.init(jax.random.key(0)))
        whole = evaluate(problem, params, problem.validation)
        in_chunks = dataclasses.replace(problem, chunk=5)
        for ours, theirs in zip(
            evaluate(in_chunks, params, problem.validation), whole, strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        expected = problem.task_losses(
            jax.tree.map(lambda p: p[0], params), jax.tree.map(jnp.asarray, problem.validation)
        )
        np.testing.assert_allclose(whole[0][0], expected, rtol=1e-5)


def test_goodness_turns_what_should_be_small():
    problem = separate_problem()
    np.testing.assert_allclose(
        goodness(problem, np.array([[1.0, 3.0], [np.nan, 1.0], [np.nan, np.inf]])),
        [-2, -1, -np.inf],
    )

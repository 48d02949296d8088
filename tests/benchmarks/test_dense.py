"""Outputs of a shape for each task, and running statistics beside the parameters."""

import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from benchmarks.methods import EQUAL_WEIGHTING, SINGLE_TASK
from benchmarks.train import training
from benchmarks.train.ahead import ahead
from benchmarks.train.problem import single_task
from benchmarks.train.recipes import recipe
from benchmarks.train.training import Member, evaluate, train
from tests.benchmarks.problems import painted_problem, separate_problem

MOMENTUM = 0.99  # Of Flax's running statistics.


@pytest.fixture(scope="module")
def problem():
    return painted_problem()


def features(params, pixels):
    first = params["trunk"]["layers"][0]
    return pixels @ np.asarray(first["kernel"][...]) + np.asarray(first["bias"][...])


def running(statistics):
    kept = statistics["trunk"]["layers"][1]
    return np.asarray(kept["mean"][...]), np.asarray(kept["var"][...])


def test_statistics_run_with_the_steps_and_serve_the_evaluation(problem):
    """By hand: an average of each batch's moments, which standardises what is evaluated."""
    resting = dataclasses.replace(problem, batch_size=24, optimizer=lambda rate: optax.sgd(0.0))
    run = train(recipe("pcgrad", resting), [Member(0, 1.0)], epochs=2)
    params = jax.tree.map(lambda leaf: leaf[0], run.params)
    hidden = features(params, problem.train.pixels)
    kept = MOMENTUM ** int(run.epoch[0])
    mean = (1 - kept) * hidden.mean(axis=(0, 1))
    variance = kept + (1 - kept) * hidden.var(axis=(0, 1))
    for ours, wanted in zip(running(run.statistics), (mean, variance), strict=True):
        np.testing.assert_allclose(ours[0], wanted, rtol=1e-4, atol=1e-5)

    standard = (features(params, problem.test.pixels) - mean) / np.sqrt(variance + 1e-5)
    norm, head = params["trunk"]["layers"][1], params["heads"]["heights"]
    standard = standard * np.asarray(norm["scale"][...]) + np.asarray(norm["bias"][...])
    told = np.maximum(standard, 0) @ np.asarray(head["kernel"][...])[:, 0]
    told = told + np.asarray(head["bias"][...])
    losses, metrics = evaluate(problem, run.params, problem.test, run.statistics)
    error = np.abs(told - problem.test.heights).mean()
    np.testing.assert_allclose([losses[0, 1], metrics[0, 1]], error, rtol=1e-4)


def test_all_ways_to_gather_gradients_keep_the_same_statistics(problem):
    """Of the plain sum: without this library, by stacked task gradients, and by others."""
    ways = {EQUAL_WEIGHTING: {}, "sum_tasks": {}, "dwa": {"temperature": 1e9}}
    runs = [
        train(recipe(method, problem, given), [Member(0, 1e-2)], epochs=2)
        for method, given in ways.items()
    ]
    for run in runs[1:]:
        np.testing.assert_allclose(run.curves.loss, runs[0].curves.loss, rtol=1e-3)
        np.testing.assert_allclose(
            run.curves.validation_loss, runs[0].curves.validation_loss, rtol=1e-3
        )
        for ours, theirs in zip(running(run.statistics), running(runs[0].statistics), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_network_of_its_own_has_statistics_of_its_own(problem):
    """Each is what the joint network becomes where the other loss is nothing."""
    run = train(recipe(SINGLE_TASK, problem), [Member(0, 1e-2)], epochs=2)
    for task, name in enumerate(problem.tasks):
        only = np.eye(2, dtype=np.float32)[task]
        lonely = dataclasses.replace(
            problem, losses=lambda outputs, batch, w=only: w * problem.losses(outputs, batch)
        )
        alone = train(recipe(EQUAL_WEIGHTING, lonely), [Member(0, 1e-2)], epochs=2)
        for losses in ("loss", "validation_loss"):
            ours, theirs = (getattr(one.curves, losses)[..., task] for one in (run, alone))
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, err_msg=name)
    assert run.statistics["trunk"]["layers"][1]["mean"][...].shape == (1, 2, 4)
    copies = single_task(problem)
    losses, metrics = evaluate(copies, run.params, problem.validation, run.statistics)
    best = int(run.epoch[0]) - 1
    np.testing.assert_allclose(losses[0], run.curves.validation_loss[0, best], rtol=1e-5)
    np.testing.assert_allclose(metrics[0], run.curves.validation[0, best], rtol=1e-5)


@pytest.mark.parametrize("method", [SINGLE_TASK, "meta_weighting"])
def test_steps_on_the_host_are_the_compiled_steps(problem, method):
    members = [Member(0, 1e-2), Member(1, 1e-2)]
    runs = [
        train(recipe(method, dataclasses.replace(problem, on_host=on_host)), members, epochs=2)
        for on_host in (False, True)
    ]
    for ours, theirs in zip(*map(jax.tree.leaves, (run[:5] for run in runs)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def noisy(key, batch):
    return batch._replace(pixels=batch.pixels + 0.1 * jax.random.normal(key, batch.pixels.shape))


def test_batches_handed_over_by_a_thread_change_nothing(problem, monkeypatch):
    """Bit for bit what a loop without one makes, with noise and a query split."""
    made = recipe("meta_weighting", dataclasses.replace(problem, on_host=True, noise=noisy))
    first = train(made, [Member(0, 1e-2)], epochs=2)
    asked = []

    def in_turn(make, number):
        asked.append(number)
        return map(make, range(number))

    monkeypatch.setattr(training, "ahead", in_turn)
    again = train(made, [Member(0, 1e-2)], epochs=2)
    steps, chunks = problem.steps_per_epoch, 1
    assert asked == [steps, chunks] * 2
    for ours, theirs in zip(*map(jax.tree.leaves, (first[:5], again[:5])), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_data_on_the_host_stay_there(problem):
    """No array of 23 pictures is ever on the device."""
    few = jax.tree.map(lambda x: x[:23], problem.train)
    on_host = dataclasses.replace(problem, train=few, validation=few, on_host=True, chunk=10)
    seen = []
    for one in (on_host, dataclasses.replace(on_host, on_host=False)):
        on_device = lambda: seen.append({x.shape[:2] for x in jax.live_arrays()})
        train(recipe("uw", one), [Member(0, 1e-2)], epochs=1, on_epoch=on_device)
    assert [(23, 4) in shapes for shapes in seen] == [False, True]


def test_a_thread_is_one_ahead():
    """What is yielded is in use while the next is made, each is made once, and errors are told."""
    begun, made = [threading.Event() for _ in range(3)], []

    def make(number):
        begun[number].set()
        made.append(number)
        if number == 2:
            raise OSError("no more pictures")
        return 10 * number

    coming = ahead(make, 3)
    assert made == []
    for number in range(2):
        assert next(coming) == 10 * number
        assert begun[number + 1].wait(timeout=10)
    with pytest.raises(OSError, match="no more pictures"):
        next(coming)
    assert made == [0, 1, 2]
    assert [*ahead(make, 0)] == []


@pytest.mark.parametrize("method", ["emtl", "uw"])
def test_heads_are_weighted_by_their_own_task(problem, method):
    """Whether task gradients are stacked, as for EMTL, or not."""
    plain = dataclasses.replace(problem, optimizer=optax.sgd)
    params, batch = problem.init(jax.random.key(0)), jax.tree.map(jnp.asarray, problem.train)
    made = recipe(method, plain)
    _, updates, state = made.update(0.1, params, made.init(params), batch, None)
    jacobian = jax.jacrev(problem.task_losses)(params, batch)
    weights = np.asarray(mtl.task_weights(state))
    assert not np.allclose(weights[0], weights[1]) or method == "uw"
    for task, name in enumerate(problem.tasks):
        gradient = jacobian["heads"][name]["kernel"][...].sum(axis=0)
        update = updates["heads"][name]["kernel"][...]
        np.testing.assert_allclose(update, -0.1 * weights[task] * gradient, rtol=1e-4, atol=1e-6)


def test_what_is_scored_may_be_read_chunk_by_chunk(problem):
    """Classes in place of logits, five pictures at a time; the same losses and metrics."""

    def answers(outputs, batch):
        assert outputs["classes"].shape == (5, 4, 3)
        return {**outputs, "classes": outputs["classes"].argmax(axis=-1).astype(jnp.int8)}

    def scores(answers, data):
        assert answers["classes"].dtype == np.int8
        return problem.scores({**answers, "classes": np.eye(3)[answers["classes"]]}, data)

    read = dataclasses.replace(problem, on_host=True, answers=answers, scores=scores, chunk=5)
    params = jax.tree.map(lambda leaf: leaf[None], problem.init(jax.random.key(0)))
    statistics = jax.tree.map(lambda leaf: leaf[None] + 0.5, problem.statistics)
    whole = evaluate(problem, params, problem.test, statistics)
    for ours, theirs in zip(evaluate(read, params, problem.test, statistics), whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    params["heads"]["classes"]["bias"][...] = jnp.full((1, 3), jnp.inf)
    _, metrics = evaluate(read, params, problem.test, statistics)
    assert np.isnan(metrics).all()


def test_tasks_with_data_of_their_own_keep_no_statistics():
    for changes in ({"statistics": 1.0}, {"on_host": True}):
        with pytest.raises(ValueError, match="tasks with the same input"):
            dataclasses.replace(separate_problem(), **changes)

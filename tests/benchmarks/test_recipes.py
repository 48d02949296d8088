"""Every method trains, on a problem so small that the numbers can be worked out beside it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from benchmarks.methods import ADATASK_ON, ADVERSARIAL, BASELINES
from benchmarks.train.problem import Adversarial
from benchmarks.train.recipes import own_optimizer, recipe
from benchmarks.train.training import Member, train
from tests.benchmarks.problems import separate_problem, toy_problem

# One of each for all methods: what does not depend on the method is compiled once.
PROBLEMS = pytest.mark.parametrize(
    "problem", [toy_problem(), separate_problem()], ids=["joint", "separate"]
)


@pytest.mark.parametrize("method", [*BASELINES, *mtl.list_methods()])
@PROBLEMS
def test_every_method_learns(method, problem):
    members = [Member(0, 3e-2), Member(1, 3e-2)]
    run = train(recipe(method, problem), members, epochs=60)
    first, last = run.curves.loss[:, 0], run.curves.loss[:, -1]
    if method == "famo" and last.min() < 1e-6:
        # It descends logarithms: a loss that is almost zero takes all the weight, in both seeds.
        assert (last.min(axis=1) < 1e-6).all()
    else:
        assert (last.sum(axis=1) < 0.5 * first.sum(axis=1)).all()
    weights = run.curves.weights
    assert weights is None or (weights.shape == (2, 60, 2) and np.isfinite(weights).all())


@pytest.mark.parametrize(("method", "weighted"), [("cagrad", False), ("uw", True), ("emtl", True)])
def test_a_step_is_the_method_on_the_trunk_and_its_rule_on_the_heads(method, weighted):
    problem = toy_problem(optimizer=optax.sgd)  # Adam's first step would hide any factor.
    params = problem.init(jax.random.key(0))
    batch = jnp.asarray(problem.train[:8])
    made = recipe(method, problem)
    _, updates, state = made.update(0.1, params, made.init(params), batch, None)

    losses = problem.task_losses(params, batch)
    jacobian = jax.jacrev(problem.task_losses)(params, batch)
    transform = mtl.get(method, 2)
    trunk, of_method = transform.update(
        jacobian["trunk"], transform.init(params["trunk"]), task_losses=losses
    )
    weights = of_method.weights if weighted else jnp.ones(2)
    heads = weights[:, None] * jacobian["heads"].sum(axis=0)
    for name, gradient in (("trunk", trunk), ("heads", heads)):
        np.testing.assert_allclose(updates[name], -0.1 * gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        optax.tree_utils.tree_get(state, "weights"), of_method.weights, rtol=1e-5
    )


@pytest.mark.parametrize("method", ADATASK_ON)
def test_adatask_takes_what_the_other_method_has_made(method):
    """Two steps of an RMSProp for each task, on the other method's rows, and one for the heads."""
    problem = toy_problem(optimizer=lambda rate: optax.rmsprop(rate, decay=0.5))
    params, rows = problem.init(jax.random.key(10)), mtl.get(ADATASK_ON[method], 2, combine=False)
    made = recipe(method, problem)
    state, of_rows = made.init(params), rows.init(params["trunk"])
    trunk, heads = np.zeros((2, 2, 3)), np.zeros((2, 3))
    for batch in (problem.train[:8], problem.train[8:16]):
        jacobian = jax.jacrev(problem.task_losses)(params, jnp.asarray(batch))
        given, of_rows = rows.update(jacobian["trunk"], of_rows)
        assert not np.allclose(given, jacobian["trunk"])  # The tasks are in conflict.
        own = np.asarray(jacobian["heads"].sum(axis=0), float)
        given = np.asarray(given, float)
        trunk, heads = 0.5 * trunk + 0.5 * given**2, 0.5 * heads + 0.5 * own**2
        _, updates, state = made.update(0.1, params, state, jnp.asarray(batch), None)
        step = -0.1 * (given / np.sqrt(trunk)).sum(axis=0)
        np.testing.assert_allclose(updates["trunk"], step, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(updates["heads"], -0.1 * own / np.sqrt(heads), rtol=1e-3)
        params = optax.apply_updates(params, updates)
    assert np.abs(step).max() > 1e-2


@pytest.mark.parametrize("method", ADVERSARIAL)
def test_weights_are_of_the_encoders_losses_alone(method):
    """What is added, and all other leaves, follow their own gradients."""

    def added(params):
        return jnp.stack([jnp.sum(params["trunk"] ** 2), jnp.sum(jnp.sin(params["heads"]))])

    problem = toy_problem(optimizer=optax.sgd)
    made = Adversarial(
        problem, lambda p, b: (problem.task_losses(p, b), added(p)), problem.shared, {}
    )
    params, batch = problem.init(jax.random.key(0)), jnp.asarray(problem.train[:8])
    step = recipe(method, dataclasses.replace(problem, adversarial=lambda: made))
    losses, updates, state = step.update(0.1, params, step.init(params), batch, None)
    jacobian, of_added = (
        jax.jacrev(lambda p: problem.task_losses(p, batch))(params),
        jax.jacrev(added)(params),
    )
    np.testing.assert_allclose(losses, problem.task_losses(params, batch), rtol=1e-5)
    weights = np.ones(2)
    if method == "tchebycheff_adv":
        weights[np.argmin(losses)] = 0
        np.testing.assert_array_equal(mtl.task_weights(state), weights)
    share = 1 if method == "adv_mtl" else 0.5
    for name, w in (("trunk", weights), ("heads", np.ones(2))):
        wanted = np.tensordot(w, jacobian[name], 1) + share * of_added[name].sum(axis=0)
        np.testing.assert_allclose(updates[name], -0.1 * wanted, rtol=1e-4, atol=1e-6)


def test_query_gradients_are_those_of_the_query_batch():
    problem = toy_problem()
    params, rows = problem.init(jax.random.key(0)), jnp.asarray(problem.train)
    batch, query = rows[:8], rows[24:]
    made, transform = recipe("meta_weighting", problem), mtl.meta_weighting(2)
    state, alone = made.init(params), transform.init(params["trunk"])
    of_batch, of_query = (
        jax.jacrev(problem.task_losses)(params, b)["trunk"] for b in (batch, query)
    )
    for _ in range(2):  # The first step has no gradients yet to compare with.
        _, _, state = made.update(0.1, params, state, batch, query)
        _, alone = transform.update(of_batch, alone, query_gradients=of_query)
    weights = optax.tree_utils.tree_get(state, "weights")
    np.testing.assert_allclose(weights, alone.weights, rtol=1e-4)
    assert not np.allclose(weights, 0.5)


def test_hyperparameters_reach_the_method_that_is_an_optimizer():
    tx = own_optimizer("adatask", 2, optax.sgd(1.0), 1.0, {"reduction": "mean"})
    updates, _ = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)))
    np.testing.assert_array_equal(updates, [-0.5, -0.5])


def test_dwa_averages_over_the_epoch():
    """Its weights stand still for two epochs of four steps, and then move."""
    run = train(recipe("dwa", toy_problem()), [Member(0, 0.1)], epochs=4)
    np.testing.assert_allclose(run.curves.weights[0, :2], 1)
    assert (np.abs(run.curves.weights[0, 2:] - 1) > 1e-4).all()


def test_hyperparameters_reach_the_method():
    run = train(recipe("dwa", toy_problem(), {"temperature": 1e9}), [Member(0, 0.1)], epochs=4)
    np.testing.assert_allclose(run.curves.weights, 1, atol=1e-5)


@PROBLEMS
def test_the_cosine_is_that_of_the_shared_gradients(problem):
    run = train(recipe("equal_weighting", problem), [Member(0, 1e-9)], epochs=1)
    init_key, _ = jax.random.split(jax.random.key(0))
    train_set = jax.tree.map(jnp.asarray, problem.train)
    jacobian = jax.jacrev(problem.task_losses)(problem.init(init_key), train_set)
    first, second = np.asarray(jacobian["trunk"]).reshape(2, -1)
    expected = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    np.testing.assert_allclose(run.curves.cosine[0, 0], expected, atol=1e-4)

"""Every method trains, on a problem so small that the numbers can be worked out beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from benchmarks.training import BASELINES, recipe, train
from tests.benchmarks.problems import toy_problem


# EMTL warns that for two tasks its default radius restrains nothing.
@pytest.mark.filterwarnings("ignore:emtl")
@pytest.mark.parametrize("method", [*BASELINES, *mtl.list_methods()])
def test_every_method_learns(method):
    run = train(recipe(method, toy_problem(), 3e-2), [0, 1], steps=200, points=10)
    first, last = run.curves.loss[:, 0], run.curves.loss[:, -1]
    assert (last.sum(axis=1) < 0.5 * first.sum(axis=1)).all()
    weights = run.curves.weights
    assert weights is None or (weights.shape == (2, 10, 2) and np.isfinite(weights).all())


@pytest.mark.parametrize(
    ("steps", "points", "expected"), [(1, 5, [1]), (7, 3, [3, 6, 7]), (4, 9, [1, 2, 3, 4])]
)
def test_any_number_of_steps(steps, points, expected):
    done = []
    run = train(
        recipe("equal_weighting", toy_problem(), 1e-2),
        [0],
        steps=steps,
        points=points,
        on_steps=done.append,
    )
    assert run.step == expected == np.cumsum(done).tolist()
    assert run.curves.loss.shape == run.curves.validation.shape == (1, len(expected), 2)


@pytest.mark.parametrize(("method", "weighted"), [("cagrad", False), ("uw", True)])
def test_a_step_is_the_method_on_the_trunk_and_its_rule_on_the_heads(method, weighted):
    problem = toy_problem()
    params = problem.init(jax.random.key(0))
    batch = problem.train[:8]
    made = recipe(method, problem, 0.1)
    _, updates, state = made.update(params, made.init(params), batch, lambda: batch)

    losses, jacobian = problem.losses(params, batch), jax.jacrev(problem.losses)(params, batch)
    transform = mtl.get(method, 2)
    trunk, of_method = transform.update(
        jacobian["trunk"], transform.init(params["trunk"]), task_losses=losses
    )
    weights = of_method.weights if weighted else jnp.ones(2)
    heads = weights[:, None] * jacobian["heads"].sum(axis=0)
    adam = optax.adam(0.1)
    expected, _ = adam.update({"trunk": trunk, "heads": heads}, adam.init(params))
    for name in params:
        np.testing.assert_allclose(updates[name], expected[name], rtol=1e-3)
    np.testing.assert_allclose(
        optax.tree_utils.tree_get(state, "weights"), of_method.weights, rtol=1e-5
    )


def test_the_cosine_is_that_of_the_shared_gradients():
    problem = toy_problem()
    run = train(recipe("equal_weighting", problem, 1e-9), [0], steps=1, points=1)
    init_key, _ = jax.random.split(jax.random.key(0))
    jacobian = jax.jacrev(problem.losses)(problem.init(init_key), problem.probe)
    first, second = np.asarray(jacobian["trunk"]).reshape(2, -1)
    expected = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    np.testing.assert_allclose(run.curves.cosine[0, 0], expected, atol=1e-4)

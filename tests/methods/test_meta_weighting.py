"""MetaWeighting against NumPy with cvxpy, and its hypergradient against finite differences."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl
from tests.common import flat, inputs, relative_error, step, tree_gradients, weights_of


def common_descent(matrix):
    """The MGDA weights of the rows of `matrix`."""
    weights = cp.Variable(len(matrix), nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(matrix.T @ weights)), [cp.sum(weights) == 1])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-13, tol_gap_rel=1e-13, tol_feas=1e-13)
    return weights.value


def project_on_simplex(point):
    variable = cp.Variable(len(point), nonneg=True)
    objective = cp.Minimize(cp.sum_squares(variable - point))
    cp.Problem(objective, [cp.sum(variable) == len(point)]).solve(solver=cp.CLARABEL)
    return variable.value


PROJECTIONS = {
    "none": lambda w: w,
    "nonneg": lambda w: np.maximum(w, 0),
    "simplex": project_on_simplex,
}


@pytest.mark.parametrize("project", PROJECTIONS)
def test_it_equals_numpy_over_six_steps(project):
    """At step k: D from the query at k and the support at k-1, then w, then the update."""
    alpha, eta = 2.0, 0.5
    tx = mtl.meta_weighting(3, step_size=alpha, learning_rate=eta, project=project)
    state, w, previous = tx.init(inputs(3).params), np.ones(3), None
    jitted = jax.jit(lambda s, g: step(tx, s, g))
    for seed in range(6):
        given = inputs(3, seed)
        # Against the query losses, so that weights fall.
        given = given._replace(query_gradients=jax.tree.map(jnp.negative, given.query_gradients))
        support, query = flat(given.gradients, tasks=True), flat(given.query_gradients, tasks=True)
        if previous is not None:
            slopes = -eta / 3 * query @ previous.T
            w = PROJECTIONS[project](w - alpha * common_descent(slopes) @ slopes)
        updates, state = jitted(state, given)
        np.testing.assert_allclose(state.values, w, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(weights_of(state), state.values / 3, rtol=2e-7)
        assert relative_error(flat(updates), w @ support / 3) < 2e-5
        previous = support
    assert np.max(np.abs(w - 1)) > 0.3
    if project == "none":
        assert np.min(w) < 0  # Otherwise "nonneg" is not tested.


def problem(seed, num_tasks=3, size=4):
    """Quadratic support and query losses of `θ`, and their gradients, in float64."""
    rng = np.random.default_rng(seed)
    centres, query_centres = rng.normal(size=(2, num_tasks, size))
    curvatures = rng.uniform(0.5, 2, (num_tasks, size))
    query_losses = lambda theta: 0.5 * np.sum(curvatures * (theta - query_centres) ** 2, axis=1)
    support = lambda theta: curvatures * (theta - centres)
    query = lambda theta: curvatures * (theta - query_centres)
    return support, query, query_losses


def test_the_step_follows_the_finite_differences_of_the_query_losses():
    """`∂L^q_s(θ - (η/T) Σ w_t s_t)/∂w_t` by central differences, from two real SGD steps."""
    support, query, query_losses = problem(0)
    eta, alpha, theta = 0.2, 0.7, np.zeros(4)
    trained = lambda w: theta - eta / 3 * w @ support(theta)
    h, eye = 1e-6, np.eye(3)
    slopes = np.stack(
        [
            (query_losses(trained(np.ones(3) + h * e)) - query_losses(trained(np.ones(3) - h * e)))
            / (2 * h)
            for e in eye
        ],
        axis=1,
    )
    moved = trained(np.ones(3))
    tx = mtl.meta_weighting(3, step_size=alpha, learning_rate=eta)
    state = tx.init(jnp.zeros(4))
    for point in (theta, moved):
        as_float32 = lambda rows: jnp.asarray(rows, jnp.float32)
        _, state = tx.update(
            as_float32(support(point)), state, query_gradients=as_float32(query(point))
        )
    wanted = 1 - alpha * common_descent(slopes) @ slopes
    np.testing.assert_allclose(state.values, wanted, rtol=1e-4)
    # Training again with the new weights, every query loss is lower to first order.
    assert np.all(slopes @ (state.values - 1) < 0)


def test_the_first_step_leaves_the_weights_at_one():
    given = inputs(3)
    _, state = step(mtl.meta_weighting(3), mtl.meta_weighting(3).init(given.params), given)
    np.testing.assert_array_equal(state.values, 1)


def test_an_orthogonal_query_leaves_the_weights_alone():
    tx = mtl.meta_weighting(2)
    state = tx.init(jnp.zeros(4))
    for _ in range(3):
        _, state = tx.update(jnp.eye(4)[:2], state, query_gradients=jnp.eye(4)[2:])
    np.testing.assert_array_equal(state.values, 1)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_the_weights_direction_does_not_depend_on_the_scale(scale):
    """λ is that of any multiple of D, though its squares leave float32's range."""
    moves = []
    for factor in (1.0, scale):
        tx = mtl.meta_weighting(3, step_size=factor**-2.0)
        state = tx.init(inputs(3).params)
        for seed in range(2):
            given = inputs(3, seed)
            gradients, query = jax.tree.map(
                lambda g, factor=factor: jnp.float32(factor) * g,
                (given.gradients, given.query_gradients),
            )
            _, state = tx.update(gradients, state, query_gradients=query)
        moves.append(np.asarray(state.values, np.float64) - 1)
    np.testing.assert_allclose(moves[1], moves[0], rtol=1e-4)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e8])
def test_the_simplex_projection_holds_where_weights_are_far_apart(size):
    tx = mtl.meta_weighting(3, step_size=size, project="simplex")
    mask = jnp.array([True, False, True])
    state = tx.init(inputs(3).params)
    for seed in range(3):
        given = inputs(3, seed)
        _, state = step(tx, state, given, task_mask=mask)
        np.testing.assert_allclose(state.values[0] + state.values[2], 2, rtol=1e-6)
        assert np.all(np.asarray(state.values) >= 0)
        assert state.values[1] == 1


def test_a_task_that_returns_is_compared_with_its_last_gradient():
    tx = mtl.meta_weighting(2)
    first, second = inputs(2, 0), inputs(2, 1)
    _, state = step(tx, tx.init(first.params), first)
    _, state = step(tx, state, second, task_mask=jnp.array([True, False]))
    support = flat(state.support, tasks=True)
    np.testing.assert_allclose(support[0], flat(second.gradients, tasks=True)[0])
    np.testing.assert_allclose(support[1], flat(first.gradients, tasks=True)[1])


def test_on_shared_parameters_it_sees_the_trunk_of_both_stacks():
    num_tasks, shared = 3, {"trunk": True, "heads": False}
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    params = {"trunk": draw(5), "heads": draw(num_tasks, 2)}
    method = mtl.meta_weighting(num_tasks)
    tx = mtl.on_shared(method, shared, heads="weighted")
    state, alone = tx.init(params), method.init(params["trunk"])
    for _ in range(3):
        support, query = (
            {"trunk": draw(num_tasks, 5), "heads": draw(num_tasks, 2)} for _ in range(2)
        )
        updates, state = tx.update(support, state, params, query_gradients=query)
        wanted, alone = method.update(support["trunk"], alone, query_gradients=query["trunk"])
        np.testing.assert_array_equal(updates["trunk"], wanted)
        np.testing.assert_allclose(updates["heads"], alone.weights[:, None] * support["heads"])


def test_missing_or_misshapen_query_gradients_are_named():
    tx, given = mtl.meta_weighting(3), inputs(3)
    state = tx.init(given.params)
    with pytest.raises(ValueError, match="meta_weighting: query_gradients is missing, and this"):
        tx.update(given.gradients, state, given.params)
    short = jax.tree.map(lambda g: g[:2], given.query_gradients)
    with pytest.raises(
        ValueError, match=r"query_gradients\['dense'\]\['bias'\] has shape \(2, 4\)"
    ):
        step(tx, state, given._replace(query_gradients=short))
    with pytest.raises(ValueError, match="query_gradients and params must have the same tree"):
        step(tx, state, given._replace(query_gradients={"dense": short["dense"]}))
    integers = tree_gradients(jnp.ones((3, 17), jnp.int32))
    with pytest.raises(TypeError, match=r"query_gradients.* must have a floating dtype"):
        step(tx, state, given._replace(query_gradients=integers))


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"step_size": -1}, r"step_size must lie in \[0, inf\), got -1"),
        ({"learning_rate": -1}, r"learning_rate must lie in \[0, inf\), got -1"),
        ({"project": "simplx"}, "project must be one of .* Did you mean 'simplex'"),
    ],
)
def test_bad_hyperparameters_are_named(hyperparameters, message):
    with pytest.raises(ValueError, match=f"meta_weighting: {message}"):
        mtl.meta_weighting(3, **hyperparameters)

"""PCGrad against a transcription of its Algorithm 1, and its closed form for two tasks."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl
from mtl_optax._methods.pcgrad import project_conflicts
from tests.common import (
    first_update,
    flat,
    from_matrix,
    inputs,
    make,
    relative_error,
    step,
    weights_of,
)


def algorithm_1(matrix, orders):
    """Rows of projected gradients; row `i` of `orders` is the order in which task `i` looks."""
    rows = matrix.copy()
    for i, order in enumerate(orders):
        for j in order:
            product = rows[i] @ matrix[j]
            if j != i and product < 0:
                rows[i] = rows[i] - product / (matrix[j] @ matrix[j]) * matrix[j]
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_projection_equals_algorithm_1(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(5, 3))
    orders = np.stack([rng.permutation(5) for _ in range(5)])
    coefficients = project_conflicts(
        jnp.asarray(matrix @ matrix.T, jnp.float32), jnp.asarray(orders)
    )
    wanted = algorithm_1(matrix, orders)
    assert relative_error(np.asarray(coefficients, np.float64) @ matrix, wanted) < 1e-5


def test_each_step_is_algorithm_1_for_some_orders():
    """Over many steps, each update belongs to one choice of orders, and all choices occur.

    Three tasks meet their two others in eight ways; an order that all share makes but six of them.
    """
    matrix = np.zeros((3, 17))
    matrix[:, :3] = [[1.0, 0.2, 0], [-0.7, 1.0, 0.3], [-0.5, -0.8, 1.0]]
    orders = list(itertools.permutations(range(3)))
    possible = [
        algorithm_1(matrix, choice).sum(0) for choice in itertools.product(orders, repeat=3)
    ]
    tx, given = make("pcgrad", 3, key=1), from_matrix(matrix)
    advance = jax.jit(lambda s: step(tx, s, given))
    state, seen = tx.init(given.params), set()
    for _ in range(60):
        updates, state = advance(state)
        errors = [relative_error(flat(updates), wanted) for wanted in possible]
        assert min(errors) < 1e-5
        seen.add(tuple(np.round(weights_of(state), 4)))
    distinct = {tuple(np.round(wanted, 4)) for wanted in possible}
    assert len(seen) == len(distinct) == 8


def test_two_tasks_have_a_closed_form_and_ignore_the_key():
    for seed in range(6):
        given = inputs(2, seed)
        matrix = flat(given.gradients, tasks=True)
        inner, squares = matrix[0] @ matrix[1], np.sum(matrix**2, axis=1)
        factor = 1 - min(inner, 0) / squares
        wanted = factor @ matrix
        for key in (0, jax.random.key(seed)):
            updates, _ = first_update(make("pcgrad", 2, key=key), given)
            assert relative_error(flat(updates), wanted) < 1e-5


def test_leaving_the_own_task_out_matters():
    """LibMTL and others include `j = i`; ours and TorchJD follow Algorithm 1."""
    matrix = np.array([[1.0, 0.0, 0.0], [-2.0, 0.4, 0.0], [-2.0, -0.4, 0.1]])
    order = np.array([[1, 2, 0]] * 3)
    ours = np.asarray(
        project_conflicts(jnp.asarray(matrix @ matrix.T, jnp.float32), jnp.asarray(order))
    )
    row = ours[0] @ matrix
    assert row @ matrix[0] < 0  # With `j = i` included, this would have been projected away.
    assert relative_error(row, algorithm_1(matrix, order)[0]) < 1e-5


def test_absent_tasks_are_not_projected_on():
    given, mask = inputs(4, 3), jnp.array([True, False, True, False])
    updates, state = first_update(make("pcgrad", 4), given, task_mask=mask)
    present = np.flatnonzero(mask)
    pair = flat(given.gradients, tasks=True)[present]
    wanted = algorithm_1(pair, [[0, 1], [0, 1]]).sum(0)
    assert relative_error(flat(updates), wanted) < 1e-5
    assert np.all(weights_of(state)[[1, 3]] == 0)


def test_the_same_key_repeats_and_another_differs():
    given = inputs(5, 1)
    run = lambda key: flat(first_update(mtl.pcgrad(5, key=key), given)[0])
    np.testing.assert_array_equal(run(3), run(jax.random.key(3)))
    assert any(not np.array_equal(run(3), run(other)) for other in range(4, 10))


def test_a_key_of_another_kind_is_named():
    with pytest.raises(TypeError, match="pcgrad: key must be an int seed or a typed key"):
        mtl.pcgrad(2, key="0")

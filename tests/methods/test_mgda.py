"""MGDA against cvxpy, with every normalisation, and against its own duality."""

import cvxpy as cp
import numpy as np
import pytest

import mtl_optax as mtl
from tests.common import first_update, flat, from_matrix, inputs, make, relative_error, weights_of


def min_norm_weights(rows):
    weights = cp.Variable(len(rows), nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(rows.T @ weights)), [cp.sum(weights) == 1])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12)
    return weights.value


def divisors(matrix, losses, normalization):
    norms = np.linalg.norm(matrix, axis=1)
    ones = np.ones(len(matrix))
    return {"none": ones, "l2": norms, "loss": losses, "loss+": losses * norms}[normalization]


@pytest.mark.parametrize("normalization", ["none", "l2", "loss", "loss+"])
@pytest.mark.parametrize("apply_to", ["normalized", "raw"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_cvxpy(normalization, apply_to, seed):
    given = inputs(4, seed)
    matrix, losses = flat(given.gradients, tasks=True), np.asarray(given.losses, np.float64)
    v = divisors(matrix, losses, normalization)
    weights = min_norm_weights(matrix / v[:, None])
    if apply_to == "normalized":
        weights = weights / v / np.sum(weights / v)
    updates, state = first_update(
        make("mgda", 4, normalization=normalization, apply_to=apply_to), given
    )
    assert relative_error(flat(updates), weights @ matrix) < 1e-5
    np.testing.assert_allclose(weights_of(state), weights, atol=2e-5)


@pytest.mark.parametrize("solver", ["frank_wolfe", "projected_gradient"])
def test_first_order_solvers_reach_the_same_direction(solver):
    given = inputs(3, 2)
    exact, _ = first_update(make("mgda", 3), given)
    updates, state = first_update(make("mgda", 3, solver=solver), given)
    assert relative_error(flat(updates), flat(exact)) < 1e-2
    assert state.inner.gap < 1e-3
    assert state.inner.iterations > 1


def test_the_normalized_direction_descends_on_every_task_and_the_raw_one_need_not():
    """Why `apply_to="normalized"` is the default."""
    matrix = np.zeros((2, 17))
    matrix[0, :2], matrix[1, :2] = [1.0, 0.0], [-9.0, 3.0]
    given = from_matrix(matrix)
    smallest = {}
    for apply_to in ("normalized", "raw"):
        updates, _ = first_update(make("mgda", 2, normalization="l2", apply_to=apply_to), given)
        smallest[apply_to] = np.min(matrix @ flat(updates))
    assert smallest["normalized"] > 0
    assert smallest["raw"] < 0


def test_a_converged_task_stops_the_step_and_the_state_certifies_the_solution():
    given = inputs(3)
    gradients = {
        "dense": {k: g.at[1].set(0) for k, g in given.gradients["dense"].items()},
        "scale": given.gradients["scale"].at[1].set(0),
    }
    updates, state = first_update(mtl.mgda(3), given._replace(gradients=gradients))
    np.testing.assert_allclose(weights_of(state), [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(flat(updates), 0, atol=1e-12)
    assert state.inner.gap < 1e-6


def test_losses_count_as_at_least_1e_minus_8():
    given = inputs(3)
    for bad in (0.0, -1.0):
        updates, _ = first_update(
            make("mgda", 3, normalization="loss"),
            given._replace(losses=given.losses.at[1].set(bad)),
        )
        assert np.all(np.isfinite(flat(updates)))
    tiny, _ = first_update(
        make("mgda", 3, normalization="loss"), given._replace(losses=given.losses.at[1].set(1e-8))
    )
    np.testing.assert_array_equal(flat(updates), flat(tiny))


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("normalization", "L2", "must be one of 'none', 'l2', 'loss', 'loss\\+', got 'L2'"),
        ("solver", "frank-wolfe", "Did you mean 'frank_wolfe'"),
        ("apply_to", "losses", "must be one of"),
    ],
)
def test_unknown_options_are_named(argument, value, message):
    with pytest.raises(ValueError, match=f"mgda: {argument} {message}|mgda: .*{message}"):
        mtl.mgda(2, **{argument: value})


def test_only_the_loss_normalisations_read_losses():
    given = inputs(2)
    for normalization in ("none", "l2"):
        tx = mtl.mgda(2, normalization=normalization)
        tx.update(given.gradients, tx.init(given.params), given.params)
    for normalization in ("loss", "loss+"):
        tx = mtl.mgda(2, normalization=normalization)
        with pytest.raises(ValueError, match="mgda: task_losses is missing"):
            tx.update(given.gradients, tx.init(given.params), given.params)
